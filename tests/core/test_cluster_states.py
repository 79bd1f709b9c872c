"""Clusters that drain, are down, come back or go for good, by an operator's word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import topics
from schemas.records import (
    SLOTS,
    Answer,
    Cluster,
    ClusterState,
    Freeze,
    MappingMeta,
    MappingRecord,
    Mode,
    Reason,
    Resume,
    SetClusterState,
    Skip,
    WantedState,
)
from streams.core.mapping import SnapshotBuilder, homes
from streams.core.out import Out
from tests.core.rounds_world import (
    SHARDS,
    START,
    World,
    add,
    decisions,
    even,
    mapping_of,
    of,
    started,
    successor,
    with_more,
)

RATES = even(60.0)


def state(cluster: str, wanted: str, number: int = 0) -> SetClusterState:
    return SetClusterState(
        id=f"{wanted}-{cluster}-{number}", at=START, cluster=cluster, state=WantedState(wanted)
    )


def answer(outs: list[Out]) -> Answer:
    (found,) = of(outs, Answer)
    assert isinstance(found, Answer)
    return found


def owned(world: World, cluster: str) -> int:
    """Returns how many slots the cluster owns."""
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    if cluster not in snapshot.names:
        return 0
    return int((snapshot.owners == snapshot.names.index(cluster)).sum())


def drained(wanted: str = "draining") -> World:
    """Returns a world in which c1 leaves and owns nothing any more."""
    world = started()
    world.run(30, RATES)
    world.command(state("c1", wanted))
    world.run(30, RATES)
    assert owned(world, "c1") == 0
    world.run(10, RATES)
    return world


# ---------------------------------------------------------------------------- another state


@pytest.mark.parametrize("wanted", ["draining", "down"])
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.OBSERVE])
def test_a_state_is_told_at_once_and_its_slots_leave_in_every_mode(wanted: str, mode: Mode) -> None:
    """Registry and meta say it with the command, before anything moved; homes stay as they are."""
    world = started(mode=mode)
    world.run(30, RATES)
    before = world.at_home("c1")
    outs = world.command(state("c1", wanted))
    assert answer(outs).accepted
    assert [c.state.value for c in of(outs, Cluster)] == [wanted]  # type: ignore[attr-defined]
    (meta,) = mapping_of(outs)
    assert isinstance(meta, MappingMeta)
    assert (meta.version, meta.clusters["c1"].state.value) == (2, wanted)
    assert decisions(outs)[0].detail == f"c1 is {wanted}, by command"
    moves = [m for d in decisions(world.run(10, RATES)) for m in d.moves]
    assert {m.reason for m in moves} == {Reason.DRAIN if wanted == "draining" else Reason.DOWN}
    assert owned(world, "c1") == 0
    assert world.at_home("c1") == before


def test_activated_cluster_gets_its_slots_back_without_a_dwell() -> None:
    """An operator's word is not held back by what was moved a moment ago; the budget still holds."""
    world = drained()
    outs = world.command(state("c1", "active"))
    assert answer(outs).text == "cluster c1 is active, was draining; its slots come back"
    made = decisions(world.run(200, RATES))
    assert {m.reason for d in made for m in d.moves} == {Reason.JOIN}
    assert owned(world, "c1") == len(world.at_home("c1")) * SLOTS


def test_a_freeze_stops_all_but_what_leaves_clusters_that_are_down() -> None:
    """A draining cluster waits for resume, a dead one does not."""
    world = started(*(add(f"c{number}") for number in range(1, 5)))
    world.run(30, RATES)
    world.command(Freeze(id="f", at=START, reason="release day"))
    world.command(state("c1", "draining"))
    world.command(state("c2", "down"))
    (first, *rest) = decisions(world.run(30, RATES))
    assert {m.source for m in first.moves} == {"c2"}
    assert first.detail.startswith("frozen, only ")
    assert {d.skip for d in rest} == {Skip.FROZEN}
    assert owned(world, "c2") == 0 < owned(world, "c1")
    world.command(Resume(id="r", at=START))
    world.run(20, RATES)
    assert owned(world, "c1") == 0


def test_what_makes_no_sense_is_refused_with_what_to_do() -> None:
    """An unknown cluster; the last active one. What is so already is no mistake."""
    world = started(add("c1"), add("c2"))
    assert "cluster c9 is not registered; see" in answer(world.command(state("c9", "down"))).text
    assert answer(world.command(state("c1", "active"))).text == "cluster c1 is active already"
    world.command(state("c1", "draining"))
    refused = answer(world.command(state("c2", "draining")))
    assert not refused.accepted
    assert refused.text.startswith("no other cluster is active, so the slots of c2 have nowhere to go")
    down = answer(world.command(state("c2", "down")))
    assert down.accepted
    assert down.text.endswith("no other cluster is active, so its slots stay")


def test_states_before_the_first_mapping_are_kept_for_it() -> None:
    """Version 1 gives a cluster that drains nothing, and there is no meta to write yet."""
    world = World()
    world.rounds.take_over()
    for command in (add("c1"), add("c2"), state("c2", "draining")):
        assert mapping_of(world.command(command)) == []
    world.rounds.commands_read = True
    world.written += world.rounds.first_start(world.now)
    assert world.at_home("c2") == []


# ---------------------------------------------------------------------------- removal


def test_removed_cluster_is_named_nowhere_any_more() -> None:
    """A tombstone in the registry; new homes by rendezvous over the others; no record names it."""
    world = drained()
    outs = world.command(state("c1", "removed"), waiting=False)
    assert answer(outs).text == "cluster c1 is removed; its topic requests.c1 is left alone"
    assert [(out.key, out.record) for out in outs if out.topic is topics.CLUSTERS] == [("c1", None)]
    records = [r for r in mapping_of(outs) if isinstance(r, MappingRecord)]
    wanted = homes(SHARDS, {"c2": 100.0, "c3": 100.0})
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    assert [r.home for r in records] == [wanted[r.shard] for r in records]
    assert snapshot.names == ("c2", "c3")
    assert not any(b'"c1"' in r.to_json() for r in snapshot.records)
    heir = successor(world).lead()
    assert sorted(heir.rounds.clusters) == ["c2", "c3"]
    assert not any(d.stuck for d in decisions(heir.run(60, RATES)))


def test_removed_cluster_is_not_in_the_history_of_shards_that_were_its_guests_either() -> None:
    """A shard of c2 had drifted to c1 and came back: its record is written again, without that."""
    world = started()
    shards = world.at_home("c2")
    world.run(30, with_more(RATES, shards, (130.0 - 60.0 * len(shards) / SHARDS) / len(shards)))
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    guests = {r.shard for r in snapshot.records if r.home == "c2" and any(o == "c1" for *_, o in r.segments)}
    assert guests
    world.command(state("c1", "draining"))
    world.run(20, RATES)
    outs = world.command(state("c1", "removed"), waiting=False)
    assert answer(outs).accepted
    records = {r.shard: r for r in mapping_of(outs) if isinstance(r, MappingRecord)}
    assert guests <= set(records)
    assert all(r.home == "c2" for shard, r in records.items() if shard in guests)
    assert not any(b'"c1"' in r.to_json() for r in world.rounds.snapshot.records)  # type: ignore[union-attr]


def test_removal_waits_for_slots_handoffs_and_requests() -> None:
    """Each refusal says what is still there and what to type."""
    world = started()
    world.run(30, RATES)
    text = answer(world.command(state("c1", "removed", 1), waiting=False)).text
    assert "type `foreshard clusters drain c1` first" in text
    assert f"of {SHARDS * SLOTS} slots" in text
    world.command(state("c1", "draining"))
    world.settling = False
    world.run(10, RATES)
    text = answer(world.command(state("c1", "removed", 2), waiting=False)).text
    assert f"the handoff of {len(world.at_home('c1'))} shards is not settled yet" in text
    assert world.rounds.snapshot is not None
    world.rounds.on_settled({0: world.rounds.snapshot.version - 1})  # in it, they were still at c1
    text = answer(world.command(state("c1", "removed", 7), waiting=False)).text
    assert "is not settled yet" in text
    world.settling = True
    world.settle()
    text = answer(world.command(state("c1", "removed", 3), waiting=True)).text
    assert text == "cluster c1 has requests waiting in requests.c1; wait until its backend is done"
    text = answer(world.command(state("c1", "removed", 4), waiting=None)).text
    assert "the broker did not answer" in text
    world.command(state("c1", "down"))
    text = answer(world.command(state("c1", "removed", 5), waiting=True)).text
    assert text.endswith("type `foreshard clusters rescue c1`")
    assert answer(world.command(state("c1", "removed", 6), waiting=False)).accepted


def test_last_active_cluster_cannot_be_removed() -> None:
    """Its shards would live nowhere."""
    world = started(add("c1"), add("c2"))
    world.run(30, RATES)
    world.command(state("c1", "down"))
    assert "no other cluster is active" in answer(world.command(state("c2", "removed"), waiting=False)).text


def test_cluster_that_is_not_mapped_yet_is_forgotten_at_once() -> None:
    """Before the first mapping a slip of the pen is taken back by a tombstone alone."""
    world = World().lead()
    world.rounds.commands_read = False
    world.command(add("c1"))
    world.command(add("c2"))
    outs = world.command(state("c2", "removed"), waiting=False)
    assert mapping_of(outs) == []
    assert sorted(world.rounds.clusters) == ["c1"]


def test_removed_cluster_can_be_added_again() -> None:
    """It joins as a new one would."""
    world = drained()
    world.command(state("c1", "removed"), waiting=False)
    outs = world.command(add("c1", number=2))
    assert "c1 joined: home of" in decisions(outs)[0].detail
    world.run(600, RATES)
    assert owned(world, "c1") > 0


# ---------------------------------------------------------------------------- handoff-pending


def test_a_shard_in_motion_stays_until_it_is_settled_everywhere() -> None:
    """The cluster drains; then its target does: nothing of it moves on before the routers are done."""
    world = started()
    world.run(30, RATES)
    world.settling = False
    world.command(state("c1", "draining"))
    (first,) = decisions(world.run(10, RATES))
    target = first.moves[0].target
    assert world.rounds.snapshot is not None
    moved = {m.shard for m in first.moves if m.target == target}
    world.command(state(target, "draining"))
    (second,) = decisions(world.run(10, RATES))
    assert moved.isdisjoint(m.shard for m in second.moves)
    waits = [item for item in second.stuck if item.reason is Skip.HANDOFF_PENDING]
    assert [item.cluster for item in waits] == [target]
    assert "handoffs that are not finished" in second.detail
    (third,) = decisions(world.run(10, RATES))
    assert third.skip is Skip.HANDOFF_PENDING
    world.settling = True
    (fourth,) = decisions(world.run(10, RATES))
    assert moved <= {m.shard for m in fourth.moves}


def test_one_partition_that_is_behind_holds_all_back() -> None:
    """Settled everywhere means on every ingest partition; one that was never heard of is at 0."""
    world = started()
    world.run(30, RATES)
    world.command(state("c1", "draining"))
    world.run(10, RATES)
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    for versions, settled in (
        ({0: snapshot.version, 1: 2}, 2),
        ({0: snapshot.version, 1: 0}, 0),
        ({0: snapshot.version, 1: snapshot.version}, snapshot.version),
        ({0: snapshot.version + 1, 1: snapshot.version}, 0),  # another mapping's
        ({}, 0),
    ):
        world.rounds.on_settled(versions)
        assert world.rounds.settled == settled


def test_slots_leave_a_cluster_that_is_down_at_once() -> None:
    """Their last move may never settle: it was made towards a cluster that does not drain."""
    world = started()
    world.run(30, RATES)
    world.settling = False
    world.command(state("c1", "draining"))
    (first,) = decisions(world.run(10, RATES))
    target = first.moves[0].target
    world.command(state(target, "down"))
    world.run(10, RATES)
    assert owned(world, target) == 0


def test_joining_shards_wait_for_their_handoffs_too() -> None:
    """A cluster joins while the shards that it is home of are in motion: they come when they are settled."""
    world = started()
    world.run(30, RATES)
    world.settling = False
    world.command(state("c1", "draining"))
    (first,) = decisions(world.run(10, RATES))
    moving = {m.shard for m in first.moves}
    world.command(add("c4"))
    joining = set(world.at_home("c4"))
    assert joining & moving
    made = decisions(world.run(300, RATES))
    assert {m.shard for d in made for m in d.moves} == joining - moving
    world.settling = True
    made = decisions(world.run(300, RATES))
    assert joining & moving <= {m.shard for d in made for m in d.moves}


def test_attacking_the_handoff_on_purpose_waits_for_nothing() -> None:
    """`wait_for_handoff = false` is for the chaos bench: shards move on though nothing is settled."""
    from dataclasses import replace

    world = started()
    world.rounds.settings = replace(world.rounds.settings, wait_for_handoff=False)
    world.run(30, RATES)
    world.settling = False
    world.command(state("c1", "draining"))
    (first,) = decisions(world.run(10, RATES))
    target = first.moves[0].target
    world.command(state(target, "draining"))
    (second,) = decisions(world.run(10, RATES))
    assert {m.shard for m in first.moves if m.target == target} <= {m.shard for m in second.moves}
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    assert max(len(record.previous) for record in snapshot.records) == 2


STEP = st.one_of(
    st.tuples(
        st.just("state"), st.sampled_from(["c1", "c2", "c3", "c4"]), st.sampled_from(list(WantedState))
    ),
    st.tuples(st.just("add"), st.sampled_from(["c1", "c2", "c3", "c4"]), st.just(WantedState.ACTIVE)),
    st.tuples(st.just("run"), st.sampled_from(["", "settle"]), st.just(WantedState.ACTIVE)),
)


@given(st.lists(STEP, max_size=25))
def test_states_in_any_order_leave_a_mapping_that_every_reader_takes(
    steps: list[tuple[str, str, WantedState]],
) -> None:
    """Whatever is asked in whatever order, plans fit, and no snapshot names a removed cluster."""
    world = started()
    world.run(20, RATES)
    for number, (what, name, wanted) in enumerate(steps):
        if what == "state":
            command = SetClusterState(id=f"s{number}", at=START, cluster=name, state=wanted)
            world.command(command, waiting=bool(number % 2))
        elif what == "add":
            world.command(add(name, number=number + 10))
        else:
            world.settling = name == "settle"
            world.run(20, RATES)
    reader = SnapshotBuilder()
    for record in mapping_of(world.written):
        reader.apply(record)
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    assert reader.snapshot is not None
    assert (reader.snapshot.owners == snapshot.owners).all()
    assert snapshot.names == tuple(sorted(world.rounds.clusters))
    for record in snapshot.records:
        named = {owner for entry in record.previous for *_, owner in entry.segments}
        assert named <= set(snapshot.names)
    active = {n for n, c in world.rounds.clusters.items() if c.state is ClusterState.ACTIVE}
    world.settling = True
    world.run(20, RATES)
    world.run(20, RATES)
    if active:
        assert sum(owned(world, name) for name in active) == SHARDS * SLOTS
    assert successor(world).lead().rounds.clusters == world.rounds.clusters
