"""The planner's rules, one script each: who sheds, what moves, and where to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.records import Reason, Skip
from streams.core.planner import PlannerSettings, plan
from tests.core.planner_world import NOW, cluster, ramp, world

SETTINGS = PlannerSettings()
WIDE = replace(SETTINGS, budget=1.0)
"""Rules other than the budget are tested without it: small worlds move large parts at once."""


def test_even_load_is_balanced() -> None:
    """Three clusters at .60 with every shard at home: nothing moves, and the reason is `balanced`."""
    made = plan(world([30.0] * 6, ["a", "b", "c"] * 2, [cluster(n) for n in "abc"]), SETTINGS)
    assert (made.moves, made.skip, made.stuck) == ([], Skip.BALANCED, [])
    assert made.detail == "the fullest cluster, a, is at 0.60 and every shard is at home"
    assert made.score_before == made.score_after == pytest.approx({"a": 0.6, "b": 0.6, "c": 0.6})


def test_imbalance_below_the_floor_is_left_alone() -> None:
    """.76 against .10 is unequal, but nobody is slow: below the floor of .78 nothing is shed."""
    made = plan(world([38.0, 38.0, 10.0], ["a", "a", "b"], [cluster("a"), cluster("b")]), SETTINGS)
    assert (made.moves, made.skip) == ([], Skip.WITHIN_BAND)


def test_predicted_overload_moves_load_before_it_is_there() -> None:
    """`a` is at .60 now and at 1.0 in five minutes: it is brought down to what it may be filled to."""
    loads = [ramp(30, 50), ramp(30, 50), 20.0]
    made = plan(world(loads, ["a", "a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert made.skip is None
    assert {move.reason for move in made.moves} == {Reason.PREDICTED_OVERLOAD}
    assert made.score_before["a"] == pytest.approx(1.0)
    assert made.score_after["a"] <= 0.74 + 1e-9
    assert made.score_after["b"] <= 0.74 + 1e-9


def test_measured_overload_is_called_overload() -> None:
    """At .97 now and falling, the worst column is the newest measurement."""
    made = plan(world([ramp(97, 20), 20.0], ["a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert [move.reason for move in made.moves] == [Reason.OVERLOAD]


def test_what_gets_no_worse_is_called_overload() -> None:
    """At .85 now and .84 from the next column on: over the limit of the window, and nothing is to come."""
    falling = np.array([85.0, *[84.0] * 10])
    made = plan(world([falling, 10.0], ["a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert [move.reason for move in made.moves] == [Reason.OVERLOAD]
    rising = np.array([84.0, *[85.0] * 10])
    made = plan(world([rising, 10.0], ["a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert [move.reason for move in made.moves] == [Reason.PREDICTED_OVERLOAD]


def test_announced_load_is_called_event() -> None:
    """The same ramp on a shard that an event touches."""
    inputs = world([ramp(60, 100), 20.0], ["a", "b"], [cluster("a"), cluster("b")], event_shards={0})
    assert [move.reason for move in plan(inputs, WIDE).moves] == [Reason.EVENT]


def test_announced_capacity_loss_moves_load_before_it_begins() -> None:
    """`a` loses 40 % in two minutes: its least capacity of the window counts, and it is no overload yet."""
    shrinking = cluster("a", capacity=np.array([100.0] * 4 + [60.0] * 7))
    made = plan(world([40.0, 35.0, 10.0], ["a", "a", "b"], [shrinking, cluster("b")]), WIDE)
    assert {move.reason for move in made.moves} == {Reason.PREDICTED_OVERLOAD}
    assert made.score_after["a"] <= 0.89 + 1e-9


def test_big_shards_move_before_small_ones() -> None:
    """One move of a big shard is worth many of small ones."""
    made = plan(world([4.0, 60.0, 36.0, 10.0], ["a", "a", "a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert made.moves[0].shard == 1


def test_growing_shards_move_before_steady_ones() -> None:
    """Of two shards with equal load at the worst time, the one that grows goes."""
    loads = [45.0, ramp(30, 45), 10.0]
    made = plan(world(loads, ["a", "a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert made.moves[0].shard == 1


def test_foreign_shards_go_home_first() -> None:
    """An overloaded target gives back a visitor before it drives out its own shards."""
    inputs = world(
        [60.0, 35.0, 10.0],
        ["a", "b", "b"],
        [cluster("a"), cluster("b"), cluster("c")],
        drifts={1: [(0, 256, "a")]},
    )
    made = plan(inputs, WIDE)
    assert [(m.shard, m.source, m.target) for m in made.moves] == [(1, "a", "b")]
    assert made.moves[0].slots[-1][1] == 256, "what was added to a drift last goes back first"


def test_the_roomiest_cluster_is_the_target() -> None:
    """`c` has more room than `b`."""
    clusters = [cluster(n) for n in "abc"]
    made = plan(world([50.0, 50.0, 40.0, 20.0], ["a", "a", "b", "c"], clusters), WIDE)
    assert [(m.source, m.target) for m in made.moves] == [("a", "c")]


def test_a_shard_has_at_most_max_targets_foreign_clusters() -> None:
    """With one foreign target allowed, more of the shard goes only where it is already."""
    clusters = [cluster(n) for n in "abc"]
    inputs = world([130.0, 30.0, 5.0], ["a", "b", "c"], clusters, drifts={0: [(0, 30, "b"), (30, 256, "a")]})
    assert {m.target for m in plan(inputs, replace(WIDE, max_targets=1)).moves} == {"b"}
    assert "c" in {m.target for m in plan(inputs, WIDE).moves}


def test_slots_go_in_ascending_order_and_only_as_many_as_needed() -> None:
    """One shard of 100 on a cluster of 100: the need of 26 is 67 of 256 slots, the lowest."""
    made = plan(world([100.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert [m.slots for m in made.moves] == [[(0, 67)]]
    assert made.moves[0].load_cps == pytest.approx(100 * 67 / 256)


def test_raising_a_drift_only_adds_slots() -> None:
    """A second move from home continues where the first ended."""
    inputs = world(
        [100.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")], drifts={0: [(0, 10, "b"), (10, 256, "a")]}
    )
    made = plan(inputs, WIDE)
    assert made.moves[0].slots == [(10, 67)]


def test_one_round_moves_no_more_than_the_budget() -> None:
    """9 % of 110 cost units/s may move; the rest waits for the next round, and the plan says so."""
    made = plan(world([100.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")]), SETTINGS)
    moved = sum(m.load_cps for m in made.moves)
    assert 0.09 * 110 - 100 / 256 < moved <= 0.09 * 110
    assert [(s.cluster, s.reason) for s in made.stuck] == [("a", Skip.BUDGET)]
    assert "the budget of the round is spent: 16.2 cost units/s wait" in made.detail


def test_one_round_makes_no_more_than_max_moves() -> None:
    """Sixteen is many; with two allowed, two are made."""
    loads = [10.0] * 10 + [1.0]
    made = plan(world(loads, ["a"] * 10 + ["b"], [cluster("a"), cluster("b")]), replace(WIDE, max_moves=2))
    assert len(made.moves) == 2
    assert [(s.cluster, s.reason) for s in made.stuck] == [("a", Skip.BUDGET)]


def test_slots_that_just_arrived_do_not_go_back() -> None:
    """The cooldown holds the reverse direction for 90 s, and is over after that."""

    def inputs(ago: float) -> object:
        return world(
            [95.0, 10.0],
            ["b", "b"],
            [cluster("a"), cluster("b")],
            drifts={0: [(0, 256, "a")]},
            arrived={(0, "a"): NOW - ago},
            moved={0: NOW - ago},
        )

    made = plan(inputs(89), WIDE)  # type: ignore[arg-type]
    assert (made.moves, made.skip) == ([], Skip.COOLDOWN)
    assert made.detail.startswith("a is at 0.95 of 0.78; its shards arrived less than 90 s ago")
    assert plan(inputs(91), WIDE).moves  # type: ignore[arg-type]


def test_shedding_more_of_the_same_shard_is_not_locked() -> None:
    """Slots of the shard arrived at `b`; that does not hold the rest at `a`."""
    inputs = world(
        [120.0, 10.0],
        ["a", "b"],
        [cluster("a"), cluster("b")],
        drifts={0: [(0, 30, "b"), (30, 256, "a")]},
        arrived={(0, "b"): NOW - 1},
        moved={0: NOW - 1},
    )
    assert plan(inputs, WIDE).moves[0].source == "a"


def test_a_pending_handoff_holds_its_shard() -> None:
    """Nothing of the shard moves until its handoff is finished."""
    made = plan(world([100.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")], pending={0}), WIDE)
    assert (made.moves, made.skip) == ([], Skip.HANDOFF_PENDING)


def test_tiny_shards_are_not_worth_a_handoff() -> None:
    """Moves under .002 of the mean capacity are left out where bigger ones do."""
    made = plan(world([90.0, *[0.15] * 6, 5.0], ["a"] * 7 + ["b"], [cluster("a"), cluster("b")]), WIDE)
    assert {m.shard for m in made.moves} == {0}


def test_many_tiny_shards_still_move_when_there_is_nothing_else() -> None:
    """The least load of a move never exceeds the largest shard: 600 shards of .15 are not stuck."""
    made = plan(world([0.15] * 600, ["a"] * 600, [cluster("a"), cluster("b")]), WIDE)
    assert len(made.moves) == 16


def test_a_backlog_counts_as_load() -> None:
    """600 cost units that wait are 10 cost units/s for a minute: .70 becomes .80."""
    made = plan(world([40.0, 30.0, 10.0], ["a", "a", "b"], [cluster("a", backlog=600.0), cluster("b")]), WIDE)
    assert made.score_before["a"] == pytest.approx(0.8)
    assert made.moves


def test_a_backlog_alone_is_left_to_clear() -> None:
    """A cluster without load cannot give any: it is not stuck, it works off what waits."""
    made = plan(world([0.0, 10.0], ["a", "b"], [cluster("a", backlog=9_000.0), cluster("b")]), WIDE)
    assert (made.moves, made.stuck, made.skip) == ([], [], Skip.WITHIN_BAND)


def test_a_cluster_that_is_over_now_is_relieved_by_one_that_is_forecast_to_fill() -> None:
    """`a` is at 1.02 now, `b` at .60 and forecast at .98: what waits now decides, down to now's limit."""
    loads = [np.full(11, 51.0), np.full(11, 51.0), ramp(60, 98)]
    made = plan(world(loads, ["a", "a", "b"], [cluster("a"), cluster("b")]), WIDE)
    assert [(move.source, move.target, move.reason) for move in made.moves] == [("a", "b", Reason.OVERLOAD)]
    assert made.score_after["b"] <= made.score_before["a"]
    assert made.moves[0].load_cps > 3.0


def test_no_room_says_by_how_much() -> None:
    """The others are full as well: nothing moves, and the plan names the amount."""
    clusters = [cluster("a"), cluster("b", 50.0), cluster("c", 50.0)]
    made = plan(
        world(
            [130.0, 47.0, 47.0],
            ["a", "b", "c"],
            [clusters[0], *(replace(c, closed="memory") for c in clusters[1:])],
        ),
        WIDE,
    )
    assert (made.moves, made.skip) == ([], Skip.NO_ROOM)
    assert made.stuck[0].short_cps > 0
    assert f"no cluster has room: short by {made.stuck[0].short_cps:.1f} cost units/s" in made.detail
    assert made.detail.endswith("no targets: b (memory), c (memory)")


def test_a_single_cluster_has_nothing_to_choose() -> None:
    """Overloaded or not."""
    made = plan(world([130.0], ["a"], [cluster("a")]), WIDE)
    assert (made.moves, made.skip) == ([], Skip.SINGLE_CLUSTER)
    assert made.detail == "a, at 1.30, is the only active cluster"


def test_a_hot_key_moves_whole_or_not_at_all() -> None:
    """Slot 3 carries 70 of 100: `b` has no room for it, so colder slots go instead."""
    skew = np.full(256, 0.3 / 255)
    skew[3] = 0.7
    inputs = world([100.0, 30.0], ["a", "b"], [cluster("a"), cluster("b")], skew={0: skew})
    made = plan(inputs, WIDE)
    assert made.moves
    assert not any(start <= 3 < stop for m in made.moves for start, stop in m.slots)
    assert sum(m.load_cps for m in made.moves) == pytest.approx(26, abs=0.2)


def test_a_hot_key_that_fits_moves_whole() -> None:
    """With room for 70 on `b`, the slot goes in one piece."""
    skew = np.full(256, 0.3 / 255)
    skew[0] = 0.7
    inputs = world([100.0, 1.0], ["a", "b"], [cluster("a"), cluster("b")], skew={0: skew})
    assert plan(inputs, WIDE).moves[0].slots == [(0, 1)]


def test_a_lone_hot_key_that_fits_nowhere_is_unsplittable() -> None:
    """All the load is one key: there is room for half of it, which is no use."""
    skew = np.zeros(256)
    skew[9] = 1.0
    made = plan(world([100.0, 40.0], ["a", "b"], [cluster("a"), cluster("b")], skew={0: skew}), WIDE)
    assert (made.moves, made.skip) == ([], Skip.UNSPLITTABLE_KEY)
    assert "hot keys, which move whole or not at all" in made.detail


def test_bad_settings_are_refused_with_their_value() -> None:
    """A negative budget, and a floor above the ceiling."""
    with pytest.raises(ValueError, match=r"budget must be 0 or more, not -0\.1"):
        PlannerSettings(budget=-0.1)
    with pytest.raises(ValueError, match="retfloor <= floor <= ceil"):
        PlannerSettings(floor=0.95)
