"""The planner in a closed loop: what it moves changes what it sees in the next round."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from schemas.records import MappingRecord, Move, Reason
from streams.core.planner import Plan, PlanInput, PlannerSettings, plan
from streams.core.planner.board import Board
from tests.core.planner_world import COLUMNS, NOW, after, cluster, world

ROUND_S = 10.0
SETTINGS = PlannerSettings()
HOMES = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
CLUSTERS = [cluster(name) for name in "abc"]


@dataclass
class Loop:
    """Three clusters of 100; `seen` holds what each round saw: (time, plan, fullness now)."""

    records: list[MappingRecord]
    arrived: dict[tuple[int, str], float] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    seen: list[tuple[float, Plan, float]] = field(default_factory=list)

    def run(self, minutes: float) -> None:
        for number in range(int(minutes * 60 / ROUND_S)):
            at = number * ROUND_S
            inputs = self.inputs(at)
            made = plan(inputs, SETTINGS)
            now = Board(inputs, SETTINGS).full()[:, 0].max()
            self.seen.append((at, made, float(now)))
            self.records = after(inputs, made.moves)
            for move in made.moves:
                self.arrived[move.shard, move.target] = inputs.now
                self.moved[move.shard] = inputs.now

    def inputs(self, at: float) -> PlanInput:
        times = at + 30.0 * np.arange(COLUMNS)
        loads = [*[surge(times)] * 10, *[np.full(COLUMNS, 4.5)] * 20]
        made = world(loads, HOMES, CLUSTERS)
        return replace(
            made, now=NOW + at, records=self.records, arrived=dict(self.arrived), moved=dict(self.moved)
        )

    def moves(self, reason: Reason) -> list[tuple[float, Move]]:
        return [(at, move) for at, made, _ in self.seen for move in made.moves if move.reason is reason]


def surge(times: np.ndarray) -> np.ndarray:
    """Load of each of the ten shards of `a`: 5.5, from minute 25 to 40 13 (1.3 x its capacity)."""
    return np.interp(times / 60, [0, 20, 25, 40, 45], [5.5, 5.5, 13.0, 13.0, 5.5])


def test_load_moves_before_the_surge_and_returns_after_it() -> None:
    """`a` would reach 1.3; it never gets over its capacity, and in the end every shard is at home."""
    start = world([1.0] * 30, HOMES, CLUSTERS)
    loop = Loop(list(start.records))
    loop.run(minutes=80)
    predicted = loop.moves(Reason.PREDICTED_OVERLOAD)
    over_alone = 60 * float(np.interp(0.93 * 10, [5.5, 13.0], [20, 25]))
    assert predicted[0][0] < over_alone - 120, "two minutes before `a` alone would be over .93"
    assert max(now for *_, now in loop.seen) < 0.93
    assert loop.moves(Reason.OVERLOAD) == []
    returns = loop.moves(Reason.RETURN)
    assert returns
    assert returns[0][0] > 40 * 60, "nothing returns while the surge lasts"
    assert all(record.segments == [(0, 256, record.home)] for record in loop.records)
    assert len(predicted) + len(returns) <= 40


def test_no_slot_moves_there_and_back_within_ten_minutes() -> None:
    """Every move away from home lasts at least until the dwell is over."""
    start = world([1.0] * 30, HOMES, CLUSTERS)
    loop = Loop(list(start.records))
    loop.run(minutes=80)
    last: dict[int, float] = {}
    for at, made, _ in loop.seen:
        for move in made.moves:
            if move.reason is Reason.RETURN:
                assert at - last[move.shard] > SETTINGS.dwell_s
            last[move.shard] = at
