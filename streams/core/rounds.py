"""The balancer's decisions: signals in, records out. No clock and no I/O: the caller passes both.

Every list of `Out` that a method returns is to be written in one transaction, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from schemas import topics
from schemas.errors import InvalidRecordError, MappingError
from schemas.records import (
    BalancerState,
    ClusterMetrics,
    ClusterView,
    Command,
    CostsView,
    Decision,
    Event,
    LearnedState,
    LoadHistory,
    LoadReport,
    Mode,
    Move,
    Reason,
    Skip,
)
from streams.core import commands, learned, rescues
from streams.core.cluster_states import alive, bury
from streams.core.events import EventBook
from streams.core.foresight import Foresight
from streams.core.keys import KeyRules
from streams.core.leader import Leader, check_rules
from streams.core.load import LoadBook, StepBook
from streams.core.mapping import Snapshot, parts_at
from streams.core.out import Out
from streams.core.outcome import NOTHING_FOUND, Found
from streams.core.outlook import COLUMNS, Demand, Outlook, skew
from streams.core.planner import ClusterInput, Plan, PlanInput, measured_only, plan
from streams.core.plans import apply_moves
from streams.core.rehome import settle_in
from streams.core.round_settings import RoundSettings
from streams.core.router_reports import RouterReports
from streams.core.series import SeriesRows
from streams.core.steps import STEP_S

COMMANDED = frozenset({Reason.JOIN, Reason.REHOME, Reason.DRAIN, Reason.DOWN})
"""Reasons of moves that an operator asked for: they are made in observe mode too."""
AT_ONCE = 50
"""Steps taken from the stored history at a time: 26 MB, where 64 values on 1,000 shards are told apart."""


class Rounds(Leader):
    """All that a leading balancer knows. Feed it with `on_...`, then `take_over`, then `evaluate`."""

    def __init__(self, rules: KeyRules, settings: RoundSettings, ingest_partitions: int) -> None:
        super().__init__(rules, settings)
        self.ingest_partitions = ingest_partitions
        self.series = SeriesRows.of(rules)
        self.load = LoadBook(self.series, rules.shards, ingest_partitions)
        self.reports = RouterReports()
        self.steps = StepBook(self.series, rules.shards, ingest_partitions, STEP_S)
        self.outlook = Outlook(rules, self.series)
        self.events = EventBook(rules, self.clusters, self.series)
        self._left: list[LearnedState] = []
        """What a predecessor has saved of what it learned."""
        self._saved_step: int | None = None
        """Step up to which what was learned is saved."""
        self._costed: int | None = None
        """Step in which costs were learned last."""
        self.unannounced = EventBook(rules, self.clusters, self.series)
        """No event: what a reactive round looks ahead with."""
        self.foresight = Foresight()
        self.commands_read = False
        """True once every command that was present at take-over is applied: version 1 may be written."""

    # ------------------------------------------------------------------ what was read

    def on_load(self, record: LoadReport | LoadHistory) -> None:
        if isinstance(record, LoadReport):
            self.load.add(record)
            self.reports.add(record)
        else:
            self.steps.add(record)

    def on_metrics(self, record: ClusterMetrics) -> None:
        if record.cluster not in self.clusters:
            raise InvalidRecordError(f"metrics name cluster {record.cluster}, which is not registered")
        self.capacity.metrics(record)
        self.deaths.report(record.cluster, record.at)

    def on_event(self, event_id: str, event: Event | None) -> None:
        """Takes an event, or its withdrawal; raises InvalidRecordError when it fits nothing here."""
        if event is None:
            self.events.withdraw(event_id)
        else:
            self.events.add(event)

    def on_lag(self, cluster: str, committed: Mapping[int, int], end: Mapping[int, int], now: float) -> None:
        """Takes one reading of a cluster's group: committed offsets and last stable offsets."""
        if cluster in self.clusters:
            self.capacity.lag(cluster, now, committed, end, self.load.forwarded(cluster))
            self.deaths.reading(cluster, now, committed, end)

    def on_state(self, record: BalancerState | LearnedState) -> None:
        """Takes a predecessor's state; what it learned is taken by `resume`, once all of it is here."""
        if isinstance(record, BalancerState):
            self.restore(record)
        else:
            self._left.append(record)

    def resume(self) -> int | None:
        """Goes on from what a predecessor has learned; returns the step up to which that is, None if nothing.

        Raises ValueError with the reason where it does not fit: then everything is learned anew.
        """
        left, self._left = self._left, []
        if not left:
            return None
        outlook = Outlook(self.rules, self.series)
        self.events.trust = learned.restore(left, outlook)
        self.outlook = outlook
        self._saved_step = outlook.newest_step
        if outlook.newest_step is not None:
            self.steps.resume(outlook.newest_step)
        return outlook.newest_step

    def on_command(self, command: Command, now: float, found: Found = NOTHING_FOUND) -> list[Out]:
        """Applies one command; `found` is what the broker said about the things that it names."""
        return commands.apply(self, command, now, found)

    def suspects(self, now: float) -> list[str]:
        """Returns the clusters that look dead: look into their topics and call `on_look`."""
        if self.rescue is not None:
            return []
        return [silent.cluster for silent in self.deaths.silent(now, alive(self)) if not silent.seen_waiting]

    def on_look(self, cluster: str, now: float, waiting: bool) -> None:
        """Takes what a look into a suspect's topic has found: whether a request waits there."""
        self.deaths.looked(cluster, now, waiting)

    def on_rescued(self, requests: int, letters: int) -> None:
        """Takes how many requests this leader's rescue has moved, and how many of them to dead letters."""
        self.rescued, self.rescued_letters = requests, letters

    def end_rescue(self, now: float, why: str = "") -> list[Out]:
        """Ends the rescue under way; `why` it stopped early."""
        return rescues.end_rescue(self, now, why)

    # ------------------------------------------------------------------ leading

    def take_over(self) -> list[Out]:
        """Returns what a new leader writes at once; raises RulesMismatchError when it may not lead."""
        snapshot = self.snapshot
        check_rules(snapshot, self.rules)
        if self.rescue is not None and self.rescue.cluster not in self.clusters:
            self.rescue = None  # its record in the registry could not be read
        self.epoch = max(self.epoch, snapshot.epoch if snapshot else 0) + 1
        if snapshot is None:
            return [self.state()]
        return [self.state(), *self.published([], self.meta(snapshot, snapshot.version))]

    def learn(self, now: float, most: int) -> int:
        """Learns up to `most` closed steps; returns how many it did (fewer than `most`: all)."""
        learned, asked = 0, min(most, AT_ONCE)
        while asked:
            closed = self.steps.close(now, asked)
            for step in closed:
                self.outlook.learn(step, self.events)
            learned += len(closed)
            asked = min(most - learned, AT_ONCE) if len(closed) == asked else 0
        return learned

    def first_start(self, now: float) -> list[Out]:
        """Returns version 1 of the mapping once it may be written, else nothing."""
        if self.snapshot is not None or not self.commands_read or not self.weights():
            return []
        return self.first(now)

    def evaluate(self, now: float) -> list[Out]:
        """Returns the records of one round.

        1. learn what closed: the forecast must include the newest step; 2. nothing may move while a
        rescue runs; 3. set down what died: the plan is to empty it; give up homes that were left for
        good; 4. measure: without complete metrics nothing may be decided; 5. look ahead and plan;
        6. decide what of it is done.
        """
        self.learn(now, most=1_000)
        if self.snapshot is None:
            return self.first_start(now)
        if self.rescue is not None:
            self.round += 1
            return self._skipped(now, self.snapshot, Skip.HANDOFF_PENDING, rescues.rescue_text(self))
        dead, suspicion = bury(self, now)
        dead += settle_in(self, now)
        self.round += 1
        self.events.expire(now)
        return dead + self._measured(now, suspicion)

    def _measured(self, now: float, suspicion: str) -> list[Out]:
        snapshot = self.snapshot
        if snapshot is None:
            raise MappingError("a round before the first mapping: call first_start")
        missing = self.load.unknown_partitions(now)
        costs = self.outlook.costs_by_row()
        rates = None if missing else self.load.rates(now, costs)
        if rates is None:
            what = f"ingest partitions {missing}" if missing else "the first complete window"
            detail = _joined(f"no load report yet for {what}", suspicion)
            return self._skipped(now, snapshot, Skip.INCOMPLETE_METRICS, detail)
        hot = self.load.hot_slots(now)
        self._learn_costs(now, snapshot, rates, hot)
        reactive = self.settings.policy == "reactive"
        events = self.unannounced if reactive else self.events
        demand = self.outlook.demand(now, rates, hot, events)
        inputs = self._inputs(now, snapshot, demand, self._cluster_inputs(now, rates, costs))
        if reactive:
            inputs = measured_only(inputs)
        made = plan(inputs, self.settings.planner)
        return self._decide(snapshot, demand, inputs, made, suspicion)

    def _learn_costs(
        self, now: float, snapshot: Snapshot, rates: np.ndarray, hot: Mapping[int, float]
    ) -> None:
        """Learns once a step, from one cluster after the other, what its CPU says of the requests it got.

        While more than a second's requests wait there, what it works on is not what it got.
        """
        step = self.outlook.newest_step
        if step is None or step == self._costed:
            return
        self._costed = step
        number = step % len(snapshot.names)
        name = snapshot.names[number]
        if name not in self.clusters:
            return
        cpu, waiting = self.capacity.cpu(name, now), self.capacity.backlog(name, now)
        rps = rates @ parts_at(snapshot, number, skew(rates, hot))
        if cpu is not None and waiting is not None and waiting <= rps.sum():
            self.outlook.costs.learn(self.series.by_type(rps), self.clusters[name].capacity_cps, cpu)

    def _cluster_inputs(self, now: float, rates: np.ndarray, costs: np.ndarray) -> list[ClusterInput]:
        requests = float(rates.sum())
        cost = float((costs[:, None] * rates).sum())
        mean_cost = cost / requests if requests > 0 else 1.0
        times = now + STEP_S * np.arange(COLUMNS, dtype=np.float64)
        return [
            self.capacity.input(
                name,
                now,
                self.events.capacity_factor(name, times),
                mean_cost,
                self.settings.latency_objective_s,
            )
            for name in sorted(self.clusters)
        ]

    def _inputs(
        self, now: float, snapshot: Snapshot, demand: Demand, clusters: list[ClusterInput]
    ) -> PlanInput:
        return PlanInput(
            now=now,
            load=demand.load,
            skew=demand.skew,
            records=snapshot.records,
            clusters=clusters,
            arrived=self.arrived,
            moved=self.moved,
            pending=self.pending() if self.settings.wait_for_handoff else frozenset(),
            event_shards=demand.event_shards,
            joined=frozenset(self.joined),
            rehomed=frozenset(self.rehomed),
        )

    def _decide(
        self, snapshot: Snapshot, demand: Demand, inputs: PlanInput, made: Plan, suspicion: str
    ) -> list[Out]:
        now = inputs.now
        moves, skip, detail = self._allowed(made)
        published: list[Out] = []
        if moves:
            records, meta = apply_moves(
                snapshot,
                moves,
                epoch=self.epoch,
                plan=self.plan_id,
                clusters=self.mapped(),
                settled=self.settled,
            )
            published = self.published(records, meta)
        decision = Decision(
            epoch=self.epoch,
            round=self.round,
            at=now,
            mode=self.mode,
            version=snapshot.version + bool(moves),
            skip=skip,
            detail=_joined(detail, suspicion),
            moves=moves or made.moves,
            clusters=[_view(cluster, made) for cluster in inputs.clusters],
            series=demand.series,
            costs=CostsView(learned=self.outlook.costs.learned, cpu_error=self.outlook.costs.relative_error),
            stuck=made.stuck,
            events=self.events.touching(now, now + STEP_S * (COLUMNS - 1)),
            prediction=self.foresight.judge(inputs, made, moves, self.plan_id, self.settings.planner),
            offsets={topic: list(places) for topic, places in sorted(self.offsets.items())},
        )
        for move in moves:
            self.arrived[(move.shard, move.target)] = now
            if move.reason not in COMMANDED:  # the dwell waits for the end of a burst; these are none
                self.moved[move.shard] = now
        self._forget(now)
        return [self.decided(decision), *self._states(), *published]

    def _allowed(self, made: Plan) -> tuple[list[Move], Skip | None, str]:
        """Returns what of the plan is done in this mode, why nothing is, and the round's sentence.

        What an operator asked for is done in observe mode too; a freeze stops all but what gets slots
        off clusters that are down.
        """
        if self.frozen:
            moves = [move for move in made.moves if move.reason is Reason.DOWN]
            detail = self.freeze_reason or made.detail
            return (moves, None, f"frozen, only {made.detail}") if moves else ([], Skip.FROZEN, detail)
        if self.mode is Mode.OBSERVE and made.moves:
            moves = [move for move in made.moves if move.reason in COMMANDED]
            return moves, None if moves else Skip.OBSERVE_MODE, made.detail
        return made.moves, made.skip, made.detail

    def _skipped(self, now: float, snapshot: Snapshot, skip: Skip, detail: str) -> list[Out]:
        return [self.decided(self.plain(now, snapshot.version, detail, skip)), *self._states()]

    # ------------------------------------------------------------------ what is written

    def _forget(self, now: float) -> None:
        """Drops cooldowns and dwells that no longer hold anything back."""
        planner = self.settings.planner
        self.arrived = {key: at for key, at in self.arrived.items() if now - at < planner.cooldown_s}
        self.moved = {shard: at for shard, at in self.moved.items() if now - at < planner.dwell_s}
        records = self.snapshot.records if self.snapshot is not None else ()
        self.joined, self.rehomed = (
            {s for s in shards if any(o != records[s].home for *_, o in records[s].segments)}
            for shards in (self.joined, self.rehomed)
        )

    def _states(self) -> list[Out]:
        outs = [self.state()]
        newest, saved = self.outlook.newest_step, self._saved_step
        if newest is not None and (saved is None or newest - saved >= learned.SAVE_STEPS):
            parts = learned.save(self.outlook, self.events.trust)
            outs += [Out(topics.STATE, f"learned:{part.part}", part) for part in parts]
            self._saved_step = newest
        return outs


def _view(cluster: ClusterInput, made: Plan) -> ClusterView:
    demand = made.demand.get(cluster.name, np.zeros(COLUMNS))
    return ClusterView(
        name=cluster.name,
        state=cluster.state,
        known=cluster.known,
        capacity_cps=float(cluster.capacity.min()),
        load_cps=float(demand[0]),
        forecast_cps=float(demand.max()),
        backlog=cluster.backlog,
        score_before=min(made.score_before.get(cluster.name, 0.0), 1e6),
        score_after=min(made.score_after.get(cluster.name, 0.0), 1e6),
        notes=[cluster.closed] if cluster.closed else [],
    )


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)
