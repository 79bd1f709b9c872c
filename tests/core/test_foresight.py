"""What prediction was worth, told by rounds whose load came, came at once, or never came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from schemas.records import ClusterState, JudgedMove, MappingRecord, Move, Prediction, Reactive, Reason
from streams.core.foresight import JUDGED_AFTER_S, Foresight
from streams.core.planner import PlanInput, PlannerSettings, measured_only, plan
from tests.core.planner_world import COLUMNS, NOW, after, cluster, ramp, world

SETTINGS = PlannerSettings()
WIDE = replace(SETTINGS, budget=1.0)
ROUND_S = 10.0
CLUSTERS = [cluster(name) for name in "abc"]
HOMES = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
Loads = Callable[[np.ndarray], np.ndarray]
"""Load of each of the ten shards of `a` at given seconds."""


@dataclass
class Life:
    """Three clusters of 100, of which `a` is in for more; what is foreseen and what comes may differ."""

    foreseen: Loads
    comes: Loads
    records: list[MappingRecord] = field(
        default_factory=lambda: list(world([1.0] * 30, HOMES, CLUSTERS).records)
    )
    foresight: Foresight = field(default_factory=Foresight)
    arrived: dict[tuple[int, str], float] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    made: list[tuple[float, Move]] = field(default_factory=list)
    shown: list[tuple[float, Prediction]] = field(default_factory=list)

    def run(self, minutes: float) -> Life:
        for number in range(int(minutes * 60 / ROUND_S)):
            at = number * ROUND_S
            inputs = self.inputs(at)
            made = plan(inputs, SETTINGS)
            shown = self.foresight.judge(inputs, made, made.moves, f"1.{number}", SETTINGS)
            self.shown += [(at, shown)] if shown is not None else []
            self.records = after(inputs, made.moves)
            for move in made.moves:
                self.made.append((at, move))
                self.arrived[move.shard, move.target] = self.moved[move.shard] = inputs.now
        return self

    def inputs(self, at: float) -> PlanInput:
        times = at + 30.0 * np.arange(COLUMNS)
        load = self.foreseen(times)
        load[0] = self.comes(times)[0]
        made = world([*[load] * 10, *[np.full(COLUMNS, 4.5)] * 20], HOMES, CLUSTERS)
        return replace(made, now=NOW + at, records=self.records, arrived=self.arrived, moved=self.moved)

    @property
    def ahead(self) -> int:
        return sum(move.reason is Reason.PREDICTED_OVERLOAD for _, move in self.made)

    @property
    def judged(self) -> list[JudgedMove]:
        return [item for _, shown in self.shown for item in shown.judged]

    @property
    def avoided_s(self) -> float:
        return sum(shown.avoided_overload_s for _, shown in self.shown)


def quiet(times: np.ndarray) -> np.ndarray:
    return np.full(len(times), 5.5)


def jump(times: np.ndarray) -> np.ndarray:
    """From 5.5 to 15 at 400 s: `a` alone would be at 1.5 from one round to the next."""
    return np.where(times < 400, 5.5, 15.0)


def slope(times: np.ndarray) -> np.ndarray:
    """From 5.5 to 13 within five minutes, from 400 s on: 2.5 cost units/s more each round."""
    return np.interp(times, [400, 700], [5.5, 13.0])


def test_a_jump_that_was_foreseen_is_worth_its_overload() -> None:
    """Measured load would have called at 400 s; at .09 of the load a round it needs about 70 s for 76."""
    life = Life(jump, jump).run(minutes=20)
    first = min(at for at, _ in life.made)
    assert first == pytest.approx(100, abs=10), "as soon as the jump is in the window"
    later = [item for item in life.judged if item.reactive is Reactive.LATER]
    assert max(item.lead_s for item in later) == pytest.approx(300, abs=10)
    assert {at for at, shown in life.shown for item in shown.judged if item.reactive is Reactive.LATER} == {
        400.0
    }
    assert len(later) >= 0.8 * life.ahead
    assert 40 <= life.avoided_s <= 100


def test_a_slope_is_worth_time_but_no_overload() -> None:
    """The reactive planner keeps up with it: it would have moved later, and nobody would have waited."""
    life = Life(slope, slope).run(minutes=20)
    assert {item.reactive for item in life.judged} >= {Reactive.LATER}
    assert life.avoided_s == 0


def test_load_that_does_not_come_was_not_worth_its_moves() -> None:
    """All that was made ahead is judged ten minutes later, once, as never; nothing was avoided."""
    life = Life(jump, quiet).run(minutes=25)
    assert life.ahead > 0
    assert [item.reactive for item in life.judged] == [Reactive.NEVER] * life.ahead
    first, last = min(at for at, _ in life.made), max(at for at, shown in life.shown if shown.judged)
    assert last >= first + JUDGED_AFTER_S
    assert life.avoided_s == 0
    assert life.shown[-1][0] == last, "a round in which nothing is open says nothing"


@pytest.mark.parametrize("comes", [jump, slope, quiet])
def test_every_move_made_ahead_is_judged_once(comes: Loads) -> None:
    """At once, later or never; none twice, none not at all, and the rounds' counts say the same."""
    life = Life(jump if comes is quiet else comes, comes).run(minutes=30)
    assert len(life.judged) == life.ahead > 0
    at_once = sum(item.reactive is Reactive.AT_ONCE for item in life.judged)
    assert sum(shown.ahead for _, shown in life.shown) == life.ahead - at_once
    assert life.shown[-1][1].unjudged == 0


def test_what_measured_load_calls_for_as_well_is_at_once() -> None:
    """`a` is at .90 and will be at .95: the reactive planner moves 16, this one 20."""
    inputs = world([ramp(90, 95), 10.0], ["a", "b"], [cluster("a"), cluster("b")])
    made = plan(inputs, WIDE)
    assert [move.reason for move in made.moves] == [Reason.PREDICTED_OVERLOAD]
    shown = Foresight().judge(inputs, made, made.moves, "1.1", WIDE)
    assert shown is not None
    assert [(item.plan, item.shard, item.reactive) for item in shown.judged] == [("1.1", 0, Reactive.AT_ONCE)]
    assert (shown.ahead, shown.unjudged) == (0, 0)


def test_moves_that_nobody_foresaw_show_nothing() -> None:
    """Overload that is measured, and plans that are not carried out."""
    inputs = world([97.0, 20.0], ["a", "b"], [cluster("a"), cluster("b")])
    made = plan(inputs, WIDE)
    assert made.moves
    assert Foresight().judge(inputs, made, made.moves, "1.1", WIDE) is None
    ahead = world([ramp(60, 100), 10.0], ["a", "b"], [cluster("a"), cluster("b")])
    assert Foresight().judge(ahead, plan(ahead, WIDE), [], "1.1", WIDE) is None


def test_what_goes_back_was_not_needed_and_what_drains_had_to_go() -> None:
    """Two moves off `a`: the first returns before its load came, then `a` drains."""
    inputs = world([*[ramp(12, 20)] * 5, 20.0], [*["a"] * 5, "b"], [cluster("a"), cluster("b")])
    made = plan(inputs, WIDE)
    one, other = made.moves
    foresight = Foresight()
    foresight.judge(inputs, made, made.moves, "1.1", WIDE)
    back = Move(
        shard=one.shard, source="b", target="a", slots=one.slots, load_cps=one.load_cps, reason=Reason.RETURN
    )
    later = replace(inputs, now=NOW + 10)
    shown = foresight.judge(later, made, [back], "1.2", WIDE)
    assert shown is not None
    assert [(item.shard, item.reactive) for item in shown.judged] == [(one.shard, Reactive.NEVER)]
    assert shown.unjudged == 1
    draining = [cluster("a", state=ClusterState.DRAINING), cluster("b")]
    shown = foresight.judge(replace(inputs, now=NOW + 20, clusters=draining), made, [], "1.3", WIDE)
    assert shown is not None
    assert [(item.shard, item.reactive, item.lead_s) for item in shown.judged] == [
        (other.shard, Reactive.LATER, 20.0)
    ]


def test_measured_only_sees_column_0_everywhere() -> None:
    """Loads and capacities of now in every column; what is announced is not known."""
    shrinking = cluster("a", capacity=np.array([100.0] * 4 + [60.0] * 7))
    inputs = world([ramp(60, 100), 10.0], ["a", "b"], [shrinking, cluster("b")], event_shards={0})
    seen = measured_only(inputs)
    assert seen.load.tolist() == [[60.0] * COLUMNS, [10.0] * COLUMNS]
    assert seen.clusters[0].capacity.tolist() == [100.0] * COLUMNS
    assert seen.event_shards == frozenset()
    assert plan(seen, WIDE).moves == []


@pytest.mark.parametrize("comes", [jump, slope])
def test_the_model_agrees_with_a_life_without_forecasts(comes: Loads) -> None:
    """The same load under the reactive planner itself, queues included: as much overload, moved as late."""
    ahead, without = Life(comes, comes), Life(comes, comes)
    ahead.run(minutes=20)
    queue, overload_s = 0.0, 0.0
    for number in range(120):
        at = number * ROUND_S
        inputs = replace(without.inputs(at), clusters=[cluster("a", backlog=queue), *CLUSTERS[1:]])
        made = plan(measured_only(inputs), SETTINGS)
        over = made.demand["a"][0] - 100.0
        overload_s += ROUND_S if over > 0 else 0.0
        queue = max(queue + ROUND_S * (over - queue / SETTINGS.backlog_clear_s), 0.0)
        without.records = after(inputs, made.moves)
        for move in made.moves:
            without.made.append((at, move))
            without.arrived[move.shard, move.target] = without.moved[move.shard] = inputs.now
    assert ahead.avoided_s == pytest.approx(overload_s, abs=20)
    lead_s = max(item.lead_s for item in ahead.judged)
    first_ahead, first_without = (min(at for at, _ in life.made) for life in (ahead, without))
    assert lead_s == pytest.approx(first_without - first_ahead, abs=20)
