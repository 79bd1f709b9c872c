"""The balancer's decisions: signals in, records out. No clock and no I/O: the caller passes both.

Every list of `Out` that a method returns is to be written in one transaction, in its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas import topics
from schemas.errors import InvalidRecordError, RulesMismatchError
from schemas.records import (
    Answer,
    BalancerState,
    Cluster,
    ClusterAdd,
    ClusterMetrics,
    ClusterState,
    ClusterView,
    Command,
    Decision,
    Event,
    Freeze,
    LoadHistory,
    LoadReport,
    MappedCluster,
    MappingMeta,
    Mode,
    Reason,
    Record,
    Resume,
    SetMode,
    SharesState,
    Skip,
)
from streams.core.capacity import CapacityBook
from streams.core.events import EventBook
from streams.core.keys import KeyRules
from streams.core.load import LoadBook, StepBook
from streams.core.mapping import Snapshot, SnapshotBuilder, apply_moves, first_mapping, homes
from streams.core.outlook import COLUMNS, Demand, Outlook
from streams.core.planner import ClusterInput, Plan, PlanInput, plan
from streams.core.round_settings import RoundSettings
from streams.core.steps import STEP_S

SHARES_EVERY = 10
"""Shares are saved every 10 rounds: 100 s of an EWMA with a memory of 10 minutes."""
REMEMBERED_COMMANDS = 1000
"""Ids of commands kept so that a command read twice is applied once."""
META_KEY = "meta"
STATE_KEY = "balancer:state"


@dataclass(frozen=True)
class Out:
    """One record to write to one of our topics."""

    topic: topics.TopicSpec
    key: str
    record: Record


class Rounds:
    """All that a leading balancer knows. Feed it with `on_...`, then `take_over`, then `evaluate`."""

    def __init__(self, rules: KeyRules, settings: RoundSettings, ingest_partitions: int) -> None:
        self.rules = rules
        self.settings = settings
        self.load = LoadBook(rules.series, rules.shards, ingest_partitions)
        self.steps = StepBook(rules.series, rules.shards, ingest_partitions, STEP_S)
        self.outlook = Outlook(rules)
        self.capacity = CapacityBook()
        self.clusters: dict[str, Cluster] = {}
        self.events = EventBook(rules, self.clusters)
        self.builder = SnapshotBuilder()
        self.mode = Mode.OBSERVE
        self.frozen = False
        self.freeze_reason = ""
        self.epoch = 0
        self.round = 0
        self.arrived: dict[tuple[int, str], float] = {}
        self.moved: dict[int, float] = {}
        self.joined: set[int] = set()
        self.answered: dict[str, None] = {}
        self.commands_read = False
        """True once every command that was present at take-over is applied: version 1 may be written."""
        self.offsets: Mapping[str, Sequence[tuple[int, int]]] = {}
        """topic -> (partition, next offset): what a predecessor had read, then what the caller has."""
        self.last: Decision | None = None

    # ------------------------------------------------------------------ what was read

    @property
    def snapshot(self) -> Snapshot | None:
        return self.builder.snapshot

    def on_load(self, record: LoadReport | LoadHistory) -> None:
        if isinstance(record, LoadReport):
            self.load.add(record)
        else:
            self.steps.add(record)

    def on_metrics(self, record: ClusterMetrics) -> None:
        if record.cluster not in self.clusters:
            raise InvalidRecordError(f"metrics name cluster {record.cluster}, which is not registered")
        self.capacity.metrics(record)

    def on_event(self, event_id: str, event: Event | None) -> None:
        """Takes an event, or its withdrawal; raises InvalidRecordError when it fits nothing here."""
        if event is None:
            self.events.withdraw(event_id)
        else:
            self.events.add(event)

    def on_cluster(self, cluster: Cluster) -> None:
        self.clusters[cluster.name] = cluster
        self.capacity.register(cluster)

    def on_lag(self, cluster: str, committed: Mapping[int, int], end: Mapping[int, int], now: float) -> None:
        """Takes one reading of a cluster's group: committed offsets and last stable offsets."""
        if cluster in self.clusters:
            self.capacity.lag(cluster, now, committed, end, self.load.forwarded(cluster))

    def on_state(self, record: BalancerState | SharesState) -> None:
        """Takes a predecessor's state."""
        if isinstance(record, SharesState):
            if record.series in self.rules.series and len(record.share) == self.rules.shards:
                self.outlook.shares.restore(self.rules.series.index(record.series), record.share)
                self.outlook.shares_step = record.step
            return
        self.mode, self.frozen, self.freeze_reason = record.mode, record.frozen, record.freeze_reason
        self.epoch, self.round = max(self.epoch, record.epoch), record.round
        self.arrived = {(shard, cluster): at for shard, cluster, at in record.arrived}
        self.moved, self.joined = dict(record.moved), set(record.joined)
        self.answered = dict.fromkeys(record.answered)
        self.offsets = record.offsets

    # ------------------------------------------------------------------ leading

    def take_over(self) -> list[Out]:
        """Returns what a new leader writes at once; raises RulesMismatchError when it may not lead."""
        snapshot = self.snapshot
        check_rules(snapshot, self.rules)
        self.epoch = max(self.epoch, snapshot.epoch if snapshot else 0) + 1
        if snapshot is None:
            return [self._state()]
        return [self._state(), self._publish([], self._meta(snapshot, snapshot.version))]

    def learn(self, now: float, most: int) -> int:
        """Learns up to `most` closed steps; returns how many it did (fewer than `most`: all)."""
        closed = self.steps.close(now, most)
        for step in closed:
            self.outlook.learn(step, self.events)
        return len(closed)

    def on_command(self, command: Command, now: float, partitions: int | None) -> list[Out]:
        """Applies one command; `partitions` is the partition count of a cluster-add's topic, if seen."""
        if command.id in self.answered:
            return []
        self.answered[command.id] = None
        for old in list(self.answered)[:-REMEMBERED_COMMANDS]:
            del self.answered[old]
        outs: list[Out] = []
        if isinstance(command, ClusterAdd):
            accepted, text, outs = self._add(command, now, partitions)
        elif isinstance(command, SetMode):
            accepted, text = True, f"mode was {self.mode.value}, is {command.mode.value}"
            self.mode = command.mode
        elif isinstance(command, Freeze):
            self.frozen, self.freeze_reason = True, command.reason
            accepted, text = True, "frozen: no plan is made until resume"
        elif isinstance(command, Resume):
            accepted, text = True, "resumed" if self.frozen else "was not frozen"
            self.frozen, self.freeze_reason = False, ""
        answer = Answer(
            command=command.id,
            at=now,
            epoch=self.epoch,
            accepted=accepted,
            code="" if accepted else "refused",
            text=text,
        )
        return [Out(topics.DECISIONS, command.id, answer), self._state(), *outs]

    def _add(self, command: ClusterAdd, now: float, partitions: int | None) -> tuple[bool, str, list[Out]]:
        if partitions is None:
            return False, f"topic {command.topic} does not exist; make it, then add the cluster again", []
        old = self.clusters.get(command.cluster)
        if old is not None and old.topic != command.topic:
            return False, f"cluster {command.cluster} exists with topic {old.topic}", []
        if old is not None and old.partitions != partitions:
            return False, f"topic {old.topic} had {old.partitions} partitions, has {partitions}", []
        cluster = Cluster(
            name=command.cluster,
            topic=command.topic,
            group=command.group,
            capacity_cps=command.capacity_cps,
            capacity_guessed=command.capacity_guessed,
            partitions=partitions,
            state=old.state if old else ClusterState.ACTIVE,
        )
        self.on_cluster(cluster)
        outs = [Out(topics.CLUSTERS, cluster.name, cluster)]
        if old is not None:
            if self.snapshot is not None and old.group != cluster.group:
                outs += self._rehomed(self.snapshot, {}, now, f"{cluster.name} has the group {cluster.group}")
            return True, f"cluster {cluster.name} has a capacity of {cluster.capacity_cps:g} now", outs
        if self.snapshot is not None:
            outs += self._join(self.snapshot, cluster, now)
        return True, f"cluster {cluster.name} is registered", outs

    def _join(self, snapshot: Snapshot, cluster: Cluster, now: float) -> list[Out]:
        """Returns the plan that gives a new cluster its homes; its slots follow as returns."""
        wanted = homes(snapshot.shards, self._weights())
        new = {shard: home for shard, home in enumerate(wanted) if home == cluster.name}
        self.joined |= set(new)
        detail = f"{cluster.name} joined: home of {len(new)} of {snapshot.shards} shards"
        return self._rehomed(snapshot, new, now, detail)

    def _rehomed(self, snapshot: Snapshot, new: Mapping[int, str], now: float, detail: str) -> list[Out]:
        """Returns a plan that moves nothing: new homes, and the clusters as they are registered now."""
        self.round += 1
        records, meta = apply_moves(
            snapshot, [], epoch=self.epoch, plan=self._plan_id(), clusters=self.mapped(), new_homes=new
        )
        decision = self._plain(now, meta.version, detail)
        return [self._decided(decision), *self._records(records), self._publish(records, meta)]

    def first_start(self, now: float) -> list[Out]:
        """Returns version 1 of the mapping once it may be written, else nothing."""
        if self.snapshot is not None or not self.commands_read or not self._weights():
            return []
        self.round += 1
        records, meta = first_mapping(
            self.rules.shards,
            self._weights(),
            self.mapped(),
            self.epoch,
            self.rules.rules_hash(),
            self._plan_id(),
        )
        detail = f"first mapping: {self.rules.shards} shards over {len(self._weights())} clusters"
        decision = self._plain(now, meta.version, detail)
        published = self._publish(records, meta)
        return [self._decided(decision), self._state(), *self._records(records), published]

    def evaluate(self, now: float) -> list[Out]:
        """Returns the records of one round.

        1. learn what closed: the forecast must include the newest step;
        2. measure: without complete metrics nothing may be decided;
        3. look ahead and plan; 4. decide what of the plan is done; 5. write it down.
        """
        self.learn(now, most=1_000)
        snapshot = self.snapshot
        if snapshot is None:
            return self.first_start(now)
        self.round += 1
        self.events.expire(now)
        missing = self.load.unknown_partitions(now)
        rates = None if missing else self.load.rates(now, self.rules.costs())
        if rates is None:
            what = f"ingest partitions {missing}" if missing else "the first complete window"
            return self._skipped(now, snapshot, Skip.INCOMPLETE_METRICS, f"no load report yet for {what}")
        demand = self.outlook.demand(now, rates, self.load.hot_slots(now), self.events)
        inputs = self._inputs(now, snapshot, demand, self._cluster_inputs(now, rates))
        return self._decide(now, snapshot, demand, inputs, plan(inputs, self.settings.planner))

    def _cluster_inputs(self, now: float, rates: np.ndarray) -> list[ClusterInput]:
        requests = float(rates.sum())
        mean_cost = float((self.rules.costs()[:, None] * rates).sum()) / requests if requests > 0 else 1.0
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
            pending=frozenset(),
            event_shards=demand.event_shards,
            joined=frozenset(self.joined),
        )

    def _decide(
        self, now: float, snapshot: Snapshot, demand: Demand, inputs: PlanInput, made: Plan
    ) -> list[Out]:
        moves, skip = made.moves, made.skip
        if self.frozen:
            moves, skip = [], Skip.FROZEN
        elif self.mode is Mode.OBSERVE and made.moves:
            moves = [move for move in made.moves if move.reason is Reason.JOIN]
            skip = None if moves else Skip.OBSERVE_MODE
        done = bool(moves)
        records, meta = (
            apply_moves(snapshot, moves, epoch=self.epoch, plan=self._plan_id(), clusters=self.mapped())
            if done
            else ([], None)
        )
        decision = Decision(
            epoch=self.epoch,
            round=self.round,
            at=now,
            mode=self.mode,
            version=meta.version if meta else snapshot.version,
            skip=skip,
            detail=self.freeze_reason if self.frozen and self.freeze_reason else made.detail,
            moves=moves if done else made.moves,
            clusters=[_view(cluster, made) for cluster in inputs.clusters],
            series=demand.series,
            stuck=made.stuck,
            events=self.events.touching(now, now + STEP_S * (COLUMNS - 1)),
        )
        for move in moves:
            self.arrived[(move.shard, move.target)] = now
            if move.reason is not Reason.JOIN:  # the rest of a joining shard need not wait for the dwell
                self.moved[move.shard] = now
        published = [*self._records(records), self._publish(records, meta)] if meta else []
        self._forget(now)
        return [self._decided(decision), *self._states(), *published]

    def _skipped(self, now: float, snapshot: Snapshot, skip: Skip, detail: str) -> list[Out]:
        return [self._decided(self._plain(now, snapshot.version, detail, skip)), *self._states()]

    def _plain(self, now: float, version: int, detail: str, skip: Skip | None = None) -> Decision:
        """Returns the decision of a round that saw no loads: its outcome in words."""
        return Decision(
            epoch=self.epoch,
            round=self.round,
            at=now,
            mode=self.mode,
            version=version,
            skip=skip,
            detail=detail,
        )

    # ------------------------------------------------------------------ what is written

    def _weights(self) -> dict[str, float]:
        return {
            name: cluster.capacity_cps
            for name, cluster in sorted(self.clusters.items())
            if cluster.state is ClusterState.ACTIVE
        }

    def mapped(self) -> dict[str, MappedCluster]:
        """Returns the registered clusters as the mapping names them."""
        return {
            name: MappedCluster(
                topic=cluster.topic, group=cluster.group, partitions=cluster.partitions, state=cluster.state
            )
            for name, cluster in sorted(self.clusters.items())
        }

    def _meta(self, snapshot: Snapshot, version: int) -> MappingMeta:
        return MappingMeta(
            version=version,
            epoch=self.epoch,
            shards=snapshot.shards,
            rules_hash=snapshot.rules_hash,
            clusters=self.mapped(),
        )

    def _publish(self, records: Iterable[Record], meta: MappingMeta) -> Out:
        """Returns the meta record and makes it, with its shard records, the leader's own snapshot."""
        for record in (*records, meta):
            self.builder.apply(record)  # type: ignore[arg-type]
        return Out(topics.MAPPING, META_KEY, meta)

    def _records(self, records: Iterable[Record]) -> list[Out]:
        return [Out(topics.MAPPING, str(record.shard), record) for record in records]  # type: ignore[attr-defined]

    def _decided(self, decision: Decision) -> Out:
        self.last = decision
        return Out(topics.DECISIONS, decision.id, decision)

    def _plan_id(self) -> str:
        return f"{self.epoch}.{self.round}"

    def _forget(self, now: float) -> None:
        """Drops cooldowns and dwells that no longer hold anything back."""
        planner = self.settings.planner
        self.arrived = {key: at for key, at in self.arrived.items() if now - at < planner.cooldown_s}
        self.moved = {shard: at for shard, at in self.moved.items() if now - at < planner.dwell_s}
        if self.snapshot is not None and self.joined:
            records = self.snapshot.records
            self.joined = {
                s for s in self.joined if any(o != records[s].home for *_, o in records[s].segments)
            }

    def _states(self) -> list[Out]:
        outs = [self._state()]
        if self.round % SHARES_EVERY == 0:
            for index, name in enumerate(self.rules.series):
                share = np.clip(self.outlook.shares.share[index], 0.0, 1.0).tolist()
                step = max(self.outlook.shares_step, 0)
                outs.append(
                    Out(topics.STATE, f"shares:{name}", SharesState(series=name, step=step, share=share))
                )
        return outs

    def _state(self) -> Out:
        record = BalancerState(
            mode=self.mode,
            frozen=self.frozen,
            freeze_reason=self.freeze_reason,
            epoch=self.epoch,
            round=self.round,
            arrived=[(shard, cluster, at) for (shard, cluster), at in sorted(self.arrived.items())],
            moved=sorted(self.moved.items()),
            joined=sorted(self.joined),
            answered=list(self.answered),
            offsets={topic: list(pairs) for topic, pairs in sorted(self.offsets.items())},
        )
        return Out(topics.STATE, STATE_KEY, record)


def check_rules(snapshot: Snapshot | None, rules: KeyRules) -> None:
    """Raises RulesMismatchError where the mapping was made with other shards or key rules."""
    if snapshot is not None and snapshot.rules_hash != rules.rules_hash():
        raise RulesMismatchError(
            f"the mapping was made for {snapshot.shards} shards and rules {snapshot.rules_hash[:12]}, "
            f"the configuration has {rules.shards} shards and rules {rules.rules_hash()[:12]}; "
            "start with the configuration that the mapping was made with"
        )


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
