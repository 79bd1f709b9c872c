"""Which clusters look dead, and what a round does about it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Cluster, ClusterMetrics, ClusterState, Freeze, MappingMeta, Mode, Reason, Skip
from streams.core.dead import DeathWatch
from tests.core.rounds_world import START, World, decisions, even, mapping_of, of, started, successor
from tests.core.test_cluster_states import state

RATES = even(60.0)
DEAD_AFTER_S = 120.0
WAITING = {"c1": 50}


def seen(world: World) -> World:
    """Has every suspect's topic looked into, as the process does before a round: a request is there."""
    for name in world.rounds.suspects(world.now):
        world.rounds.on_look(name, world.now, waiting=True)
    return world


def live(world: World, seconds: float, waiting: bool = True) -> list[object]:
    """Lets time pass; c1 commits nothing of what waits for it, and suspects' topics are looked into."""
    outs: list[object] = []
    for _ in range(round(seconds / 10.0)):
        outs += world.run(10, RATES, lags=WAITING)
        for name in world.rounds.suspects(world.now):
            world.rounds.on_look(name, world.now, waiting)
    return outs


def state_of(world: World, name: str = "c1") -> ClusterState:
    return world.rounds.clusters[name].state


def dying(mode: Mode = Mode.AUTO) -> World:
    """Returns a world in which requests wait for c1, which commits nothing."""
    world = started(mode=mode)
    world.standing = {"c1"}
    return world


def test_a_cluster_that_commits_nothing_for_two_minutes_is_down() -> None:
    """Registry and meta say it, the decision says why, and the same round empties it."""
    world = dying()
    live(world, 120)
    assert state_of(world) is ClusterState.ACTIVE
    outs = live(world, 20)
    (down,) = of(outs, Cluster)
    assert isinstance(down, Cluster)
    assert (down.name, down.state) == ("c1", ClusterState.DOWN)
    said, emptied = decisions(outs)[-2:]
    assert said.detail.startswith("c1 is down: for 130 s it committed and reported nothing, though")
    assert {(m.source, m.reason) for m in emptied.moves} == {("c1", Reason.DOWN)}
    metas = [record for record in mapping_of(outs) if isinstance(record, MappingMeta)]
    assert [meta.version for meta in metas] == [said.version, emptied.version] == [2, 3]
    assert metas[0].clusters["c1"].state is ClusterState.DOWN
    assert state_of(successor(world)) is ClusterState.DOWN


def test_a_backend_that_was_never_started_is_dead_two_minutes_after_its_first_requests() -> None:
    """The count begins when lag is first seen, not when the cluster was added."""
    world = started()
    world.run(300, RATES)
    world.standing = {"c1"}
    live(world, 120)
    assert state_of(world) is ClusterState.ACTIVE
    live(world, 20)
    assert state_of(world) is ClusterState.DOWN


def test_markers_alone_are_no_waiting_requests() -> None:
    """Somebody has looked into the topic and found none: the cluster is well, for two minutes again."""
    world = dying()
    live(world, 400, waiting=False)
    assert state_of(world) is ClusterState.ACTIVE
    live(world, 150)
    assert state_of(world) is ClusterState.DOWN


def test_nobody_is_dead_before_somebody_has_looked() -> None:
    """While the broker does not answer that question, the cluster stays what it is."""
    world = dying()
    world.run(600, RATES, lags=WAITING)
    assert state_of(world) is ClusterState.ACTIVE
    assert world.rounds.suspects(world.now) == ["c1"]
    seen(world).run(10, RATES, lags=WAITING)
    assert state_of(world) is ClusterState.DOWN


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.AUTO])
def test_observe_mode_and_a_freeze_only_say_what_would_be_done(mode: Mode) -> None:
    """The decision names the command that does it."""
    world = dying(mode)
    if mode is Mode.AUTO:
        world.command(Freeze(id="f", at=START, reason="release day"))
    outs = live(world, 150)
    assert state_of(world) is ClusterState.ACTIVE
    assert of(outs, Cluster) == []
    last = decisions(outs)[-1]
    assert "c1 looks dead (for" in last.detail
    assert last.detail.endswith("in auto mode it would be down: `foreshard clusters down c1`")


def test_when_all_stand_still_nobody_is_set_down() -> None:
    """What they all wait for is to blame, and slots would have nowhere to go."""
    world = started()
    world.standing = {"c1", "c2", "c3"}
    for _ in range(30):
        outs = world.run(10, RATES, lags={"c1": 5, "c2": 5, "c3": 5})
        seen(world)
    assert {state_of(world, name) for name in ("c1", "c2", "c3")} == {ClusterState.ACTIVE}
    assert "no other cluster gets on either" in decisions(outs)[-1].detail


def test_a_reporter_that_speaks_keeps_its_cluster() -> None:
    """A long batch without a commit; when the reporter falls silent as well, two minutes from then."""
    world = dying()
    for _ in range(6):
        live(world, 50)
        world.rounds.on_metrics(ClusterMetrics(cluster="c1", instance="i", at=world.now, interval_s=10.0))
    assert state_of(world) is ClusterState.ACTIVE
    live(world, 110)
    assert state_of(world) is ClusterState.ACTIVE
    live(world, 30)
    assert state_of(world) is ClusterState.DOWN


def test_a_broker_that_was_away_makes_nobody_dead() -> None:
    """Without readings there is no telling, and the count begins anew after them."""
    world = dying()
    live(world, 100)
    world.now += 200.0
    live(world, 110)
    assert state_of(world) is ClusterState.ACTIVE


def test_a_draining_cluster_can_die_too() -> None:
    """Its handoffs would never end: it is set down, and rescued or removed from there."""
    world = dying()
    world.command(state("c1", "draining"))
    live(world, 150)
    assert state_of(world) is ClusterState.DOWN


def test_a_dead_cluster_is_set_down_though_no_router_reports() -> None:
    """Load is not needed to know it; slots move when it is known again."""
    world = dying()
    live(world, 120)
    silent_since = world.now
    while world.now < silent_since + 60:
        world.now += 10.0
        for name in world.rounds.clusters:
            world.rounds.on_lag(name, {0: 0}, {0: WAITING.get(name, 0)}, world.now)
        outs = seen(world).evaluate()
    assert state_of(world) is ClusterState.DOWN
    assert decisions(outs)[-1].skip is Skip.INCOMPLETE_METRICS


# ---------------------------------------------------------------------------- the watch alone

READING = st.tuples(
    st.sampled_from(["a", "b"]),
    st.floats(0.5, 50.0),
    st.dictionaries(st.integers(0, 1), st.integers(0, 3), max_size=2),
    st.dictionaries(st.integers(0, 1), st.integers(0, 4), max_size=2),
)


@given(st.lists(READING, max_size=60))
def test_whoever_is_called_silent_has_not_moved_for_that_long(
    readings: list[tuple[str, float, dict[int, int], dict[int, int]]],
) -> None:
    """All readings of the last two minutes had lag, the same offsets, and no gap over 30 s between them."""
    watch = DeathWatch(DEAD_AFTER_S)
    now = START
    history: dict[str, list[tuple[float, dict[int, int], bool]]] = {"a": [], "b": []}
    for name, pause, committed, end in readings:
        now += pause
        watch.reading(name, now, committed, end)
        waits = any(offset > committed.get(number, 0) for number, offset in end.items())
        history[name].append((now, committed, waits))
        for silent in watch.silent(now, {"a", "b"}):
            seen_since = [item for item in history[silent.cluster] if item[0] >= now - silent.for_s]
            assert silent.for_s >= DEAD_AFTER_S
            assert all(waits for _, _, waits in seen_since)
            assert len({tuple(sorted(offsets.items())) for _, offsets, _ in seen_since}) == 1
            times = [at for at, _, _ in seen_since] + [now]
            assert times[0] <= now - DEAD_AFTER_S
            assert all(later - earlier <= 30.0 for earlier, later in pairwise(times))
