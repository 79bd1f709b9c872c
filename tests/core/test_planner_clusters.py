"""Clusters that are not known, closed, leaving or new, and shards that go back home."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import ClusterState, Reason, Skip
from streams.core.planner import Plan, PlannerSettings, plan
from tests.core.planner_world import NOW, after, cluster, slots, world

SETTINGS = PlannerSettings()
WIDE = replace(SETTINGS, budget=1.0)
"""Rules other than the budget are tested without it: small worlds move large parts at once."""


def test_an_unknown_cluster_is_neither_source_nor_target() -> None:
    """`c` has the most room and `d` the most load, but nothing fresh is known of them."""
    clusters = [cluster("a"), cluster("b"), cluster("c", known=False), cluster("d", known=False)]
    made = plan(world([100.0, 30.0, 0.0, 150.0], ["a", "b", "c", "d"], clusters), WIDE)
    assert {(m.source, m.target) for m in made.moves} == {("a", "b")}
    assert made.detail.endswith("c, d are not known and left alone")


def test_a_cluster_missing_in_the_registry_is_unknown() -> None:
    """The mapping names `x`, the registry does not: its shard stays."""
    made = plan(world([30.0, 30.0], ["a", "x"], [cluster("a"), cluster("b")]), WIDE)
    assert made.moves == []
    assert "x is not known and left alone" in made.detail
    assert set(made.score_before) == {"a", "b"}


def test_a_closed_cluster_is_no_target_but_a_source() -> None:
    """`b` is short of memory: it takes nothing, and sheds like any other."""
    clusters = [cluster("a"), cluster("b", closed="memory"), cluster("c")]
    made = plan(world([90.0, 90.0, 10.0], ["a", "b", "c"], clusters), WIDE)
    assert {m.target for m in made.moves} == {"c"}
    assert {m.source for m in made.moves} == {"a", "b"}


@pytest.mark.parametrize(
    ("state", "reason"), [(ClusterState.DRAINING, Reason.DRAIN), (ClusterState.DOWN, Reason.DOWN)]
)
def test_a_leaving_cluster_is_emptied_outside_the_budget(state: ClusterState, reason: Reason) -> None:
    """All of it goes in one round, cooldown, budget and unknown lag notwithstanding."""
    clusters = [cluster("a", state=state, known=False), cluster("b"), cluster("c")]
    inputs = world([30.0, 30.0, 10.0, 10.0], ["a", "a", "b", "c"], clusters, arrived={(0, "a"): NOW - 1})
    made = plan(inputs, SETTINGS)
    assert {m.reason for m in made.moves} == {reason}
    assert not any(s[2] == "a" for r in after(inputs, made.moves) for s in r.segments)
    assert made.score_after == pytest.approx({"a": 0.0, "b": 0.4, "c": 0.4})


def test_a_leaving_cluster_is_emptied_even_when_all_others_are_full() -> None:
    """It is spread, and the clusters that are over now are reported with the amount."""
    clusters = [cluster("a", state=ClusterState.DOWN), cluster("b"), cluster("c")]
    inputs = world([40.0, 40.0, 95.0, 95.0], ["a", "a", "b", "c"], clusters)
    made = plan(inputs, SETTINGS)
    assert not any(s[2] == "a" for r in after(inputs, made.moves) for s in r.segments)
    assert made.score_after["b"] == pytest.approx(made.score_after["c"])


def test_a_leaving_cluster_with_nowhere_to_go_says_so() -> None:
    """The only other cluster is not known."""
    clusters = [cluster("a", state=ClusterState.DOWN), cluster("b", known=False)]
    made = plan(world([40.0, 10.0], ["a", "b"], clusters), SETTINGS)
    assert (made.moves, made.skip) == ([], Skip.NO_ROOM)
    assert made.detail.startswith("a is down and not empty; no cluster has room: short by 40.0")


def test_a_shard_in_motion_holds_a_drain_but_not_the_end_of_a_dead_cluster() -> None:
    """`a` drains and keeps the shard whose handoff is not finished; down, it keeps nothing."""

    def made(state: ClusterState) -> Plan:
        clusters = [cluster("a", state=state), cluster("b"), cluster("c")]
        return plan(world([30.0, 20.0, 10.0], ["a", "a", "b"], clusters, pending={0}), SETTINGS)

    draining, down = made(ClusterState.DRAINING), made(ClusterState.DOWN)
    assert {m.shard for m in draining.moves} == {1}
    assert [(item.cluster, item.reason) for item in draining.stuck] == [("a", Skip.HANDOFF_PENDING)]
    assert {m.shard for m in down.moves} == {0, 1}
    assert down.stuck == []


def test_a_shard_in_motion_does_not_go_home() -> None:
    """Neither as a return nor towards a cluster that joined."""
    drifts = {0: [(0, 64, "b"), (64, 256, "a")], 1: [(0, 32, "b"), (32, 256, "a")]}
    clusters = [cluster("a"), cluster("b")]
    inputs = world([20.0, 20.0, 10.0], ["a", "a", "b"], clusters, drifts=drifts, pending={0}, joined={0})
    assert {m.shard for m in plan(inputs, WIDE).moves} == {1}


def test_slots_return_home_when_the_load_is_gone() -> None:
    """Smallest first, once nothing moved for dwell_s."""
    drifts = {0: [(0, 64, "b"), (64, 256, "a")], 1: [(0, 32, "b"), (32, 256, "a")]}
    inputs = world([20.0, 20.0, 10.0], ["a", "a", "b"], [cluster("a"), cluster("b")], drifts=drifts)
    made = plan(inputs, WIDE)
    assert [(m.shard, m.target, m.reason) for m in made.moves] == [
        (1, "a", Reason.RETURN),
        (0, "a", Reason.RETURN),
    ]
    assert all(r.segments == [(0, 256, r.home)] for r in after(inputs, made.moves))


def test_a_return_waits_for_the_dwell() -> None:
    """899 s after the shard's last move it stays, 901 s after it goes."""

    def made(ago: float) -> object:
        return plan(
            world(
                [20.0, 10.0],
                ["a", "b"],
                [cluster("a"), cluster("b")],
                drifts={0: [(0, 64, "b"), (64, 256, "a")]},
                moved={0: NOW - ago},
            ),
            WIDE,
        )

    assert made(899).skip is Skip.WITHIN_BAND  # type: ignore[attr-defined]
    assert "1 shard is away from home" in made(899).detail  # type: ignore[attr-defined]
    assert made(901).moves  # type: ignore[attr-defined]


def test_a_return_keeps_the_home_low_and_gives_back_what_came_last() -> None:
    """Home takes back up to .68: a part of the drift, its highest slots."""
    inputs = world(
        [80.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")], drifts={0: [(0, 128, "b"), (128, 256, "a")]}
    )
    made = plan(inputs, WIDE)
    assert made.moves[0].slots == [(39, 128)]
    assert made.score_after["a"] <= 0.68


def test_returns_share_the_budget() -> None:
    """9 % of 90 cost units/s is 8.1: 25 slots of a shard of 80."""
    inputs = world(
        [80.0, 10.0], ["a", "b"], [cluster("a"), cluster("b")], drifts={0: [(0, 128, "b"), (128, 256, "a")]}
    )
    assert [slots(m) for m in plan(inputs, SETTINGS).moves] == [25]


def test_shards_follow_a_joined_cluster_as_returns() -> None:
    """Their home is the new cluster; they come under the budget with the reason `join`."""
    clusters = [cluster("a"), cluster("b"), cluster("new")]
    inputs = world(
        [5.0] * 10,
        ["a", "b"] * 4 + ["new"] * 2,
        clusters,
        drifts={8: [(0, 256, "a")], 9: [(0, 256, "b")]},
        joined={8},
    )
    made = plan(inputs, replace(SETTINGS, budget=0.2))
    assert [(m.shard, m.target, m.reason) for m in made.moves] == [
        (8, "new", Reason.JOIN),
        (9, "new", Reason.RETURN),
    ]


def test_a_home_that_is_shedding_takes_nothing_back() -> None:
    """In the round in which `a` sheds, nothing returns to it."""
    inputs = world(
        [100.0, 1.0, 5.0], ["a", "a", "b"], [cluster("a"), cluster("b")], drifts={1: [(0, 256, "b")]}
    )
    assert all(m.target != "a" for m in plan(inputs, WIDE).moves)
