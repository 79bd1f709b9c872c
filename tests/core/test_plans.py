"""Plans: the records of the next version, and what they say of the versions before."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import MappingError, StaleError
from schemas.records import SLOTS, ClusterState, Move, PreviousSegments, Reason, check_tiles
from streams.core.mapping import homes, ranges, slots_of
from streams.core.plans import unsettled
from tests.core.mapping_world import CLUSTERS, NAMES, SHARDS, cluster, feed, first, other_than, plan, shift


def test_first_mapping_puts_every_shard_at_its_home() -> None:
    """Version 1: every shard whole, at the cluster that rendezvous hashing names."""
    _, snapshot = first()
    expected = homes(SHARDS, dict.fromkeys(NAMES, 1.0))
    assert [record.home for record in snapshot.records] == expected
    assert [snapshot.owner(shard * SLOTS + 255) for shard in range(SHARDS)] == expected
    assert (snapshot.version, snapshot.epoch, snapshot.rules_hash) == (1, 7, "hash")


def test_plan_changes_only_what_moves_and_says_why() -> None:
    """A plan's records: the moved shards, the next version, the reasons."""
    _, snapshot = first()
    home = snapshot.records[3].home
    target = other_than(home)
    records, meta = plan(snapshot, shift(snapshot, 3, target, 64), plan="7.311")
    (record,) = records
    assert record.segments == [(0, 64, target), (64, 256, home)]
    assert (record.version, record.home, record.plan, record.reason) == (2, home, "7.311", "event")
    assert record.previous == [PreviousSegments(version=1, segments=[(0, 256, home)])]
    assert meta.version == 2


def test_moves_of_one_shard_follow_one_another() -> None:
    """Slots may go on to a third cluster within one plan; the record names both reasons once."""
    _, snapshot = first()
    home = snapshot.records[0].home
    one, other = (name for name in NAMES if name != home)
    there = shift(snapshot, 0, one, 10)
    onward = Move(shard=0, source=one, target=other, slots=[(0, 5)], load_cps=0.0, reason=Reason.OVERLOAD)
    (record,), _ = plan(snapshot, there, onward, there.model_copy(update={"slots": [(10, 12)]}))
    assert record.segments == [(0, 5, other), (5, 12, one), (12, 256, home)]
    assert record.reason == "event,overload"


SLOT_SETS = st.sets(st.integers(0, SLOTS - 1), max_size=60)


@settings(max_examples=60)
@given(st.lists(st.tuples(SLOT_SETS, st.sampled_from(NAMES)), max_size=8))
def test_each_slot_is_where_the_last_move_of_it_has_put_it(steps: list[tuple[set[int], str]]) -> None:
    """Whatever slots go to whom, the segments tile 0..256, and no two neighbours are of one cluster."""
    builder, snapshot = first()
    owners = [snapshot.records[0].home] * SLOTS
    for slots, target in steps:
        moves = []
        for source in sorted({owners[slot] for slot in slots} - {target}):
            mine = ranges(slot for slot in slots if owners[slot] == source)
            whole = shift(snapshot, 0, target, SLOTS, source)
            moves.append(whole.model_copy(update={"slots": mine}))
        snapshot = feed(builder, *plan(snapshot, *moves))
        for slot in slots:
            owners[slot] = target
    segments = snapshot.records[0].segments
    check_tiles(segments, 0)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(segments))
    assert [snapshot.owner(slot) for slot in range(SLOTS)] == owners


@given(st.lists(st.integers(0, SLOTS), min_size=2, max_size=12))
def test_raising_a_drift_only_adds_and_lowering_only_returns(steps: list[int]) -> None:
    """A drift of any size that follows another holds it or is held by it."""
    builder, snapshot = first()
    home, drifted = snapshot.records[0].home, 0
    away = other_than(home)
    for wanted in steps:
        before = set(slots_of(snapshot.records[0].segments, away))
        if wanted > drifted:
            move = shift(snapshot, 0, away, wanted - drifted)
        elif wanted < drifted:
            back = ranges(slots_of(snapshot.records[0].segments, away)[wanted:])
            move = shift(snapshot, 0, home, SLOTS, away).model_copy(update={"slots": back})
        else:
            continue
        snapshot = feed(builder, *plan(snapshot, move))
        after = set(slots_of(snapshot.records[0].segments, away))
        assert after >= before if wanted > drifted else after <= before
        assert len(after) == wanted
        drifted = wanted


def test_wrong_moves_are_refused() -> None:
    """Slots that are not the source's, an unknown target, empty or impossible ranges, unknown shards."""
    _, snapshot = first()
    home = snapshot.records[0].home
    good = shift(snapshot, 0, other_than(home), 10)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"source": other_than(home), "target": home}, "slot 0 belongs to"),
        ({"target": "c9"}, "c9 is unknown"),
        ({"target": home}, "moves nothing"),
        ({"slots": []}, "moves nothing"),
        ({"slots": [(5, 5)]}, r"\[5, 5\)"),
        ({"slots": [(250, 257)]}, r"\[250, 257\)"),
        ({"slots": [(0, 6), (5, 7)]}, "slot 5 belongs to"),
        ({"shard": SHARDS}, "8 shards"),
    ]
    for changes, message in wrong:
        with pytest.raises(MappingError, match=message):
            plan(snapshot, good.model_copy(update=changes))
    with pytest.raises(StaleError, match="epoch 6"):
        plan(snapshot, good, epoch=6)


def test_homes_change_in_one_plan_and_slots_stay() -> None:
    """New homes alone rewrite their shards; slots stay where they were until they are moved."""
    _, snapshot = first()
    shard = 2
    home = snapshot.records[shard].home
    clusters = dict(CLUSTERS) | {"c9": cluster("c9")}
    records, _ = plan(snapshot, clusters=clusters, new_homes={shard: "c9", 3: snapshot.records[3].home})
    assert [(record.shard, record.home, record.segments) for record in records] == [
        (shard, "c9", [(0, SLOTS, home)])
    ]
    assert records[0].reason == "join"
    for state, reason in ((ClusterState.DRAINING, "drain"), (ClusterState.DOWN, "down")):
        records, _ = plan(snapshot, clusters=clusters | {home: cluster(home, state)}, new_homes={shard: "c9"})
        assert records[0].reason == reason
    with pytest.raises(MappingError, match="new home of shard 8"):
        plan(snapshot, new_homes={8: "c1"})
    with pytest.raises(MappingError, match="names cluster c9"):
        plan(snapshot, new_homes={shard: "c9"})


@settings(max_examples=60)
@given(st.data())
def test_previous_says_all_that_was_in_force_since_any_version_not_settled_everywhere(data: Any) -> None:
    """A router that settled S finds in the newest record every owner of each slot from S on, and no more."""
    builder, snapshot = first()
    history = [snapshot, snapshot]  # index = version; there was none before version 1
    settled = 0
    for _ in range(data.draw(st.integers(1, 8))):
        settled = data.draw(st.integers(settled, snapshot.version))
        moves = []
        for shard in data.draw(st.sets(st.integers(0, 2), max_size=3)):
            source = data.draw(st.sampled_from(snapshot.records[shard].segments))[2]
            moves.append(shift(snapshot, shard, other_than(source), data.draw(st.integers(1, SLOTS)), source))
        homes_of = data.draw(st.dictionaries(st.integers(0, 3), st.sampled_from(NAMES), max_size=2))
        snapshot = feed(builder, *plan(snapshot, *moves, new_homes=homes_of, settled=settled))
        history.append(snapshot)
        for record in snapshot.records:
            newer = [entry.version for entry in record.previous]
            assert newer == sorted(set(newer))
            for since in range(max(settled, 1), snapshot.version + 1):
                told = [entry.segments for entry in record.previous if entry.version >= since]
                in_force = [version.records[record.shard].segments for version in history[since:]]
                assert [*told, record.segments] == [key for key, _ in itertools.groupby(in_force)]
                assert unsettled(record, since) == (len(told) > 0)


def test_previous_keeps_what_may_be_in_use_and_drops_what_is_settled() -> None:
    """Two moves and a new home; then everything up to the first move's version is settled."""
    builder, snapshot = first()
    home = snapshot.records[0].home
    one, other = (name for name in NAMES if name != home)
    snapshot = feed(builder, *plan(snapshot, shift(snapshot, 0, one, 10)))
    snapshot = feed(builder, *plan(snapshot, shift(snapshot, 0, other, 10, one)))
    assert [entry.version for entry in snapshot.records[0].previous] == [1, 2]
    snapshot = feed(builder, *plan(snapshot, new_homes={0: one}))
    assert [entry.version for entry in snapshot.records[0].previous] == [1, 2]
    after = feed(builder, *plan(snapshot, shift(snapshot, 0, one, 10, other), settled=2))
    assert [entry.version for entry in after.records[0].previous] == [2, 4]
    assert after.records[0].previous[-1].segments == snapshot.records[0].segments
    assert unsettled(after.records[0], 4)
    assert not unsettled(after.records[0], 5)
    after = feed(builder, *plan(after, new_homes={0: other}, settled=5))
    assert after.records[0].previous == []


def test_moves_that_cancel_out_leave_nothing_in_motion() -> None:
    """There and back within one plan: the record is written, its segments were always in force."""
    _, snapshot = first()
    home = snapshot.records[0].home
    there = shift(snapshot, 0, other_than(home), 10)
    back = there.model_copy(update={"source": there.target, "target": home})
    (record,), _meta = plan(snapshot, there, back)
    assert (record.version, record.previous) == (2, [])


def test_cluster_that_still_owns_something_cannot_go() -> None:
    """Removing a cluster is refused while it has slots or is a home; then it may go."""
    builder, snapshot = first()
    left = {name: CLUSTERS[name] for name in ("c1", "c2")}
    with pytest.raises(MappingError, match="belongs to c3, which is gone"):
        plan(snapshot, clusters=left)
    mine = [record.shard for record in snapshot.records if record.home == "c3"]
    snapshot = feed(builder, *plan(snapshot, *(shift(snapshot, shard, "c1", SLOTS) for shard in mine)))
    with pytest.raises(MappingError, match="has the home c3, which is gone"):
        plan(snapshot, clusters=left)
    snapshot = feed(builder, *plan(snapshot, clusters=left, new_homes=dict.fromkeys(mine, "c2")))
    assert snapshot.names == ("c1", "c2")
    assert {record.home for record in snapshot.records} == {"c1", "c2"}
