"""What prediction is worth: each move made ahead of its load, against the planner on measured load alone.

The reactive planner is the same planner on the same inputs with every column as column 0. In the round of
the move it is asked outright; afterwards a model of it goes on: what the source would carry without the
move, and what the reactive planner would take off it from the round on in which it is over its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.records import SLOTS, ClusterState, JudgedMove, Move, Prediction, Reactive, Reason
from streams.core.planner import Plan, PlanInput, PlannerSettings, measured_only, plan
from streams.core.planner.limits import Limits, limits

AHEAD = frozenset({Reason.PREDICTED_OVERLOAD, Reason.EVENT})
"""Reasons of moves that only a forecast or an announcement called for."""
BACK = frozenset({Reason.RETURN, Reason.JOIN, Reason.REHOME})
"""Reasons of moves that relieve nobody."""
JUDGED_AFTER_S = 600.0
"""Twice the window: load that has not come by then is not the load that was foreseen."""
MOST_GAP_S = 60.0
"""A longer pause between two rounds counts as this much: what happened in it was not seen."""


@dataclass
class _Made:
    """One move made ahead of its load; `share` is the part of the shard's load that it moved."""

    plan: str
    at: float
    move: Move
    share: float
    judged: bool = False

    def verdict(self, reactive: Reactive, lead_s: float = 0.0) -> JudgedMove:
        move = self.move
        return JudgedMove(
            plan=self.plan,
            shard=move.shard,
            source=move.source,
            target=move.target,
            load_cps=move.load_cps,
            reactive=reactive,
            lead_s=lead_s,
        )


@dataclass
class _Without:
    """One source as the model has it, had nothing been moved ahead."""

    relief_cps: float = 0.0
    """What the reactive planner would have taken off it so far."""
    queue: float = 0.0
    """Cost units that would wait beside what does."""


class Foresight:
    """Follows moves made ahead of their load until each is judged. Times are model time.

    A new leader judges its own moves only: what a predecessor moved is not followed.
    """

    def __init__(self) -> None:
        self._made: list[_Made] = []
        self._without: dict[str, _Without] = {}
        self._seen_at: float | None = None

    def judge(
        self, inputs: PlanInput, made: Plan, moves: Sequence[Move], plan_id: str, settings: PlannerSettings
    ) -> Prediction | None:
        """Returns what one round shows of earlier moves and of its own; None where there is nothing.

        `moves` are those of the plan `made` on `inputs` that are carried out.
        """
        since_s = 0.0 if self._seen_at is None else min(inputs.now - self._seen_at, MOST_GAP_S)
        self._seen_at = inputs.now
        judged, avoided_s = self._observe(inputs, made, settings, max(since_s, 0.0))
        judged += self._give_up(inputs.now, moves)
        ahead = [move for move in moves if move.reason in AHEAD]
        at_once = self._take(inputs, ahead, plan_id, settings) if ahead else []
        if not (ahead or judged or avoided_s or self._made):
            return None
        return Prediction(
            ahead=len(ahead) - len(at_once),
            unjudged=sum(not item.judged for item in self._made),
            judged=judged + at_once,
            avoided_overload_s=avoided_s,
        )

    def _take(
        self, inputs: PlanInput, ahead: Sequence[Move], plan_id: str, settings: PlannerSettings
    ) -> list[JudgedMove]:
        """Asks the reactive planner; returns the moves that it would have made now, follows the others.

        It need not choose the same shards: its moves off a cluster stand for as much load of ours.
        """
        left: dict[str, float] = {}
        for move in plan(measured_only(inputs), settings).moves:
            if move.reason not in BACK:
                left[move.source] = left.get(move.source, 0.0) + move.load_cps
        at_once = []
        for move in ahead:
            now_cps = float(inputs.load[move.shard, 0])
            slots = sum(stop - start for start, stop in move.slots)
            one = _Made(plan_id, inputs.now, move, move.load_cps / now_cps if now_cps > 0 else slots / SLOTS)
            if left.get(move.source, 0.0) > move.load_cps / 2:
                left[move.source] -= move.load_cps
                at_once.append(one.verdict(Reactive.AT_ONCE))
            else:
                self._made.append(one)
        return at_once

    def _observe(
        self, inputs: PlanInput, made: Plan, settings: PlannerSettings, since_s: float
    ) -> tuple[list[JudgedMove], float]:
        """Returns the moves that turn out needed in this round, and the overload avoided, seconds."""
        judged: list[JudgedMove] = []
        avoided_s = 0.0
        sources = {item.move.source for item in self._made}
        self._without = {name: self._without.get(name, _Without()) for name in sorted(sources)}
        if not sources:
            return judged, avoided_s
        at, total_cps = _reactive_limits(inputs, made, settings)
        for cluster in inputs.clusters:
            if cluster.name not in sources:
                continue
            own = [item for item in self._made if item.move.source == cluster.name]
            loads = [item.share * float(inputs.load[item.move.shard, 0]) for item in own]
            if cluster.state is not ClusterState.ACTIVE:  # then everything leaves, foreseen or not
                judged += _needed(own, loads, np.inf, inputs.now)
            elif cluster.known:
                without = self._without[cluster.name]
                capacity, demand = float(cluster.capacity[0]), float(made.demand[cluster.name][0])
                moved = max(sum(loads) - without.relief_cps, 0.0)
                would = demand + moved + without.queue / settings.backlog_clear_s
                if would > capacity >= demand:
                    avoided_s += since_s
                load_cps = demand - cluster.backlog / settings.backlog_clear_s + moved
                without.queue = max(without.queue + (load_cps - capacity) * since_s, 0.0)
                if would > at.shed_above[1] * capacity:
                    excess = would - float(at.fill_to[1]) * capacity
                    judged += _needed(own, loads, without.relief_cps + excess, inputs.now)
                    without.relief_cps += min(settings.budget * total_cps, excess)
        return judged, avoided_s

    def _give_up(self, now: float, moves: Sequence[Move]) -> list[JudgedMove]:
        """Ends what is too long ago, or went back to where it came from; returns what was not needed."""
        back = {(move.shard, move.target) for move in moves}
        kept, judged = [], []
        for item in self._made:
            if now - item.at < JUDGED_AFTER_S and (item.move.shard, item.move.source) not in back:
                kept.append(item)
            elif not item.judged:
                judged.append(item.verdict(Reactive.NEVER))
        self._made = kept
        return judged


def _needed(own: Sequence[_Made], loads: Sequence[float], load_cps: float, now: float) -> list[JudgedMove]:
    """Returns the oldest moves that together carry `load_cps`, but those that were judged before."""
    judged = []
    for item, load in zip(own, loads, strict=True):
        if load_cps <= 0:
            break
        load_cps -= load
        if not item.judged:
            item.judged = True
            judged.append(item.verdict(Reactive.LATER, now - item.at))
    return judged


def _reactive_limits(inputs: PlanInput, made: Plan, settings: PlannerSettings) -> tuple[Limits, float]:
    """Returns the limits of the reactive planner ([1]: any column but its first), and the load now."""
    load_cps = capacity_cps = 0.0
    for cluster in inputs.clusters:
        active = cluster.state is ClusterState.ACTIVE
        if active and not cluster.known:
            continue
        load_cps += float(made.demand[cluster.name][0]) - cluster.backlog / settings.backlog_clear_s
        capacity_cps += float(cluster.capacity[0]) if active else 0.0
    return limits(np.full(2, load_cps), capacity_cps, settings), load_cps
