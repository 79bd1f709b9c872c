"""The mapping: homes, segments, plans, and what a reader makes of them."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import MappingError, StaleError
from schemas.records import (
    SLOTS,
    ClusterState,
    MappedCluster,
    MappingMeta,
    MappingRecord,
    Move,
    PreviousSegments,
    Reason,
    Segment,
    check_tiles,
)
from streams.core.mapping import (
    Snapshot,
    SnapshotBuilder,
    advance,
    apply_moves,
    first_mapping,
    homes,
    ranges,
    reassign,
    slots_of,
    unsettled,
)

NAMES = ("c1", "c2", "c3")
SHARDS = 8


def cluster(name: str, state: ClusterState = ClusterState.ACTIVE) -> MappedCluster:
    return MappedCluster(topic=f"requests.{name}", group=name, partitions=12, state=state)


CLUSTERS = {name: cluster(name) for name in NAMES}


def first(shards: int = SHARDS) -> tuple[SnapshotBuilder, Snapshot]:
    """Returns a builder that has read version 1, and its snapshot."""
    builder = SnapshotBuilder()
    records, meta = first_mapping(shards, dict.fromkeys(NAMES, 1.0), CLUSTERS, 7, "hash", "7.0")
    assert [builder.apply(record) for record in records] == [None] * shards
    snapshot = builder.apply(meta)
    assert snapshot is not None
    return builder, snapshot


def shift(snapshot: Snapshot, shard: int, target: str, count: int, source: str = "") -> Move:
    """Returns the move of the source's first `count` slots (default: the home's)."""
    source = source or snapshot.records[shard].home
    slots = slots_of(snapshot.records[shard].segments, source)[:count]
    return Move(
        shard=shard, source=source, target=target, slots=ranges(slots), load_cps=1.0, reason=Reason.EVENT
    )


def other_than(name: str) -> str:
    return next(other for other in NAMES if other != name)


def plan(snapshot: Snapshot, *moves: Move, **changes: Any) -> tuple[list[MappingRecord], MappingMeta]:
    given_fields = {"epoch": snapshot.epoch, "plan": "7.1", "clusters": dict(snapshot.clusters)} | changes
    return apply_moves(snapshot, moves, **given_fields)


def feed(builder: SnapshotBuilder, records: list[MappingRecord], meta: MappingMeta) -> Snapshot:
    for record in records:
        builder.apply(record)
    snapshot = builder.apply(meta)
    assert snapshot is not None
    return snapshot


def rewritten(snapshot: Snapshot, shard: int, **changes: Any) -> MappingRecord:
    """Returns the shard's record as the next version would have it, with changes."""
    fields = snapshot.records[shard].model_dump(by_alias=True) | {"version": snapshot.version + 1} | changes
    return MappingRecord.model_validate(fields)


def meta_after(snapshot: Snapshot, **changes: Any) -> MappingMeta:
    return MappingMeta(
        **{
            "version": snapshot.version + 1,
            "epoch": snapshot.epoch,
            "shards": snapshot.shards,
            "rules_hash": snapshot.rules_hash,
            "clusters": dict(snapshot.clusters),
        }
        | changes
    )


def assert_equal(one: Snapshot, other: Snapshot) -> None:
    """Two snapshots say the same."""
    assert (one.version, one.epoch, one.records, one.names) == (
        other.version,
        other.epoch,
        other.records,
        other.names,
    )
    assert dict(one.clusters) == dict(other.clusters)
    assert np.array_equal(one.owners, other.owners)


# ---------------------------------------------------------------------------- homes


@settings(max_examples=30)
@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(0.5, 8), min_size=2, max_size=8),
    st.data(),
)
def test_joining_or_leaving_cluster_moves_only_its_own_part(weights: dict[str, float], data: Any) -> None:
    """With one cluster more, shards change home only to it; with it gone, only its own move."""
    name = data.draw(st.sampled_from(sorted(weights)))
    without = {other: weight for other, weight in weights.items() if other != name}
    few, many = homes(512, without), homes(512, weights)
    assert all(after in (before, name) for before, after in zip(few, many, strict=True))


def test_homes_follow_the_weights() -> None:
    """Each cluster is home to its part of the shards, chance allowed for (5 sd)."""
    weights = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 9.0}
    counts = Counter(homes(4096, weights))
    for name, weight in weights.items():
        share = weight / 16
        assert abs(counts[name] - 4096 * share) < 5 * (4096 * share * (1 - share)) ** 0.5


def test_homes_do_not_depend_on_order_or_scale() -> None:
    """Weights given in another order or unit make the same homes."""
    one = homes(256, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert one == homes(256, {"c": 300.0, "a": 100.0, "b": 200.0})


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_homes_need_positive_weights(weights: dict[str, float]) -> None:
    """No cluster, or a weight that is no positive number, is refused."""
    with pytest.raises(MappingError):
        homes(8, weights)


# ---------------------------------------------------------------------------- segments

SLOT_LISTS = st.lists(st.integers(0, SLOTS - 1), max_size=60)
WHOLE: list[Segment] = [(0, SLOTS, "c1")]


@given(st.lists(st.tuples(SLOT_LISTS, st.sampled_from(NAMES)), max_size=8))
def test_segments_tile_after_any_reassignment(steps: list[tuple[list[int], str]]) -> None:
    """Whatever slots go to whom, the segments tile 0..256, merged, and each slot is where it was sent."""
    segments, owners = WHOLE, ["c1"] * SLOTS
    for slots, target in steps:
        segments = reassign(segments, slots, target)
        for slot in slots:
            owners[slot] = target
    check_tiles(segments, 0)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(segments))
    for name in NAMES:
        assert slots_of(segments, name) == [slot for slot in range(SLOTS) if owners[slot] == name]


@given(st.sets(st.integers(0, SLOTS - 1)))
def test_ranges_hold_the_same_slots(slots: set[int]) -> None:
    """Ranges are sorted, apart, and hold what they were made of."""
    found = ranges(slots)
    assert {slot for start, stop in found for slot in range(start, stop)} == slots
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@given(st.lists(st.integers(0, SLOTS), min_size=2, max_size=12))
def test_raising_a_drift_only_adds_and_lowering_only_returns(steps: list[int]) -> None:
    """A drift of any size that follows another holds it or is held by it."""
    segments, drifted = WHOLE, 0
    for wanted in steps:
        before = set(slots_of(segments, "c2"))
        if wanted >= drifted:
            segments = reassign(segments, slots_of(segments, "c1")[: wanted - drifted], "c2")
            assert set(slots_of(segments, "c2")) >= before
        else:
            segments = reassign(segments, slots_of(segments, "c2")[wanted - drifted :], "c1")
            assert set(slots_of(segments, "c2")) <= before
        drifted = wanted
        assert len(slots_of(segments, "c2")) == drifted


def test_slots_outside_a_shard_are_refused() -> None:
    """Slot 256 does not exist, nor does -1."""
    for slot in (-1, SLOTS):
        with pytest.raises(MappingError, match=str(slot)):
            reassign(WHOLE, [slot], "c2")


# ---------------------------------------------------------------------------- plans


@settings(max_examples=60)
@given(st.data())
def test_incremental_snapshot_equals_one_from_scratch(data: Any) -> None:
    """After any run of plans the reader that followed and one that starts now hold the same, and it tiles."""
    builder, snapshot = first()
    log: dict[str, MappingRecord] = {str(record.shard): record for record in snapshot.records}
    for number in range(data.draw(st.integers(1, 6))):
        moves = []
        for shard in data.draw(st.sets(st.integers(0, SHARDS - 1), max_size=4)):
            source = data.draw(st.sampled_from(snapshot.records[shard].segments))[2]
            count = data.draw(st.integers(1, SLOTS))
            moves.append(shift(snapshot, shard, other_than(source), count, source))
        clusters = dict(snapshot.clusters)
        if data.draw(st.booleans()):
            clusters[f"b{number}"] = cluster(f"b{number}")  # sorts first: every index changes
        records, meta = plan(snapshot, *moves, clusters=clusters)
        assert [record.shard for record in records] == sorted({move.shard for move in moves})
        snapshot = feed(builder, records, meta)
        log |= {str(record.shard): record for record in records}
        scratch = advance(None, {record.shard: record for record in log.values()}, meta)
        assert_equal(snapshot, scratch)
        for record in snapshot.records:
            check_tiles(record.segments, record.shard)
            for start, stop, owner in record.segments:
                for slot in (start, stop - 1):
                    assert snapshot.owner(record.shard * SLOTS + slot) == owner


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


# ---------------------------------------------------------------------------- reading


@given(st.integers(0, 3))
def test_half_a_plan_is_never_visible(count: int) -> None:
    """The snapshot changes with the meta record, not before."""
    builder, snapshot = first()
    targets = [other_than(snapshot.records[shard].home) for shard in range(3)]
    records, meta = plan(snapshot, *(shift(snapshot, shard, targets[shard], 9) for shard in range(3)))
    for record in records[:count]:
        assert builder.apply(record) is None
        assert builder.snapshot is snapshot
    if count == 3:
        after = builder.apply(meta)
        assert builder.snapshot is after
        assert [after.owner(shard * SLOTS) for shard in range(3)] == targets


def test_snapshot_cannot_be_changed() -> None:
    """Neither the owners nor the clusters of a snapshot can be written to."""
    _, snapshot = first()
    with pytest.raises(ValueError, match="read-only"):
        snapshot.owners[0] = 1
    with pytest.raises(TypeError):
        snapshot.clusters["c9"] = cluster("c9")  # type: ignore[index]
    with pytest.raises(AttributeError):
        snapshot.version = 3  # type: ignore[misc]


def test_older_epoch_or_version_is_refused() -> None:
    """What an old leader wrote, or an old plan, is refused and counted; the snapshot stays."""
    builder, snapshot = first()
    move = shift(snapshot, 0, other_than(snapshot.records[0].home), 5)
    records, meta = plan(snapshot, move, epoch=9)
    newest = feed(builder, records, meta)
    old_records, old_meta = plan(newest, shift(newest, 1, other_than(newest.records[1].home), 5), epoch=9)
    stale = [
        old_records[0].model_copy(update={"epoch": 8}),
        old_meta.model_copy(update={"epoch": 8}),
        old_records[0].model_copy(update={"version": 1}),
        old_meta.model_copy(update={"version": 1}),
    ]
    for number, record in enumerate(stale, 1):
        with pytest.raises(StaleError):
            builder.apply(record)
        assert builder.refused == number
        assert builder.snapshot is newest


def test_stale_record_spoils_its_plan_and_the_next_plan_applies() -> None:
    """A plan with one stale record is refused whole; what comes after it is not touched by it."""
    builder, snapshot = first()
    good = rewritten(snapshot, 0, segments=[(0, SLOTS, other_than(snapshot.records[0].home))])
    builder.apply(good)
    with pytest.raises(StaleError):
        builder.apply(rewritten(snapshot, 1, epoch=6))
    with pytest.raises(MappingError, match="is refused"):
        builder.apply(meta_after(snapshot))
    assert builder.snapshot is snapshot
    after = feed(builder, [], meta_after(snapshot, version=3))
    assert after.records == snapshot.records


def test_plan_read_twice_changes_nothing() -> None:
    """The same plan again is neither an error nor a new snapshot; another one of its version is."""
    builder, snapshot = first()
    records, meta = plan(snapshot, shift(snapshot, 0, other_than(snapshot.records[0].home), 5))
    after = feed(builder, records, meta)
    assert [builder.apply(record) for record in (*records, meta)] == [None, None]
    assert builder.snapshot is after
    assert builder.refused == 0
    builder.apply(records[0].model_copy(update={"reason": "overload"}))
    with pytest.raises(MappingError, match="other records"):
        builder.apply(meta)
    with pytest.raises(MappingError, match="another meta"):
        builder.apply(meta.model_copy(update={"rules_hash": "x"}))
    assert builder.snapshot is after


def test_take_over_raises_the_epoch_alone() -> None:
    """A meta record of the same version and a higher epoch makes a snapshot of that epoch."""
    builder, snapshot = first()
    after = feed(builder, [], meta_after(snapshot, version=1, epoch=8))
    assert (after.version, after.epoch) == (1, 8)
    assert np.array_equal(after.owners, snapshot.owners)


def test_impossible_plans_are_refused_and_the_next_one_applies() -> None:
    """Unknown clusters, shards over N, another N, records newer than meta: each refused, none harmful."""
    builder, snapshot = first()
    newer = rewritten(snapshot, 0, version=3)
    stranger = rewritten(snapshot, 0, segments=[(0, 1, "c9"), (1, 256, "c1")])
    homeless = rewritten(snapshot, 0, home="c9")
    beyond = rewritten(snapshot, 0).model_copy(update={"shard": SHARDS})
    wrong: list[tuple[list[MappingRecord], dict[str, Any], str]] = [
        ([stranger], {}, "names cluster c9"),
        ([homeless], {}, "names cluster c9"),
        ([beyond], {}, "shard 8 is not below 8"),
        ([newer], {}, "newer than its meta"),
        ([], {"shards": 16}, "N never changes"),
        ([], {"clusters": {"c1": CLUSTERS["c1"]}}, "which is gone"),
    ]
    for number, (records, changes, message) in enumerate(wrong, 1):
        for record in records:
            builder.apply(record)
        with pytest.raises(MappingError, match=message):
            builder.apply(meta_after(snapshot, **changes))
        assert builder.refused == number
        assert builder.snapshot is snapshot
    target = other_than(snapshot.records[0].home)
    after = feed(builder, *plan(snapshot, shift(snapshot, 0, target, SLOTS)))
    assert after.owner(0) == target


def test_unreadable_record_spoils_its_plan() -> None:
    """Half of that plan is missing, so none of it may be seen; the next plan applies."""
    builder, snapshot = first()
    target = other_than(snapshot.records[0].home)
    records, meta = plan(snapshot, shift(snapshot, 0, target, 5))
    builder.reject(1, "not JSON")
    builder.apply(records[0])
    with pytest.raises(MappingError, match="shard 1: not JSON"):
        builder.apply(meta)
    assert builder.snapshot is snapshot
    after = feed(builder, *plan(snapshot, shift(snapshot, 3, other_than(snapshot.records[3].home), 5)))
    assert after.owner(0) != target
    builder.reject(None, "no shard's key")
    feed(builder, *plan(after, shift(after, 0, target, 5)))
    assert builder.refused == 3


def test_compacted_topic_is_read_whatever_meta_records_are_left() -> None:
    """An old meta record before the newest record of a shard does not throw the other shards away."""
    _, snapshot = first()
    move = shift(snapshot, 5, other_than(snapshot.records[5].home), 9)
    (newest,), meta = plan(snapshot, move)
    builder = SnapshotBuilder()
    for record in snapshot.records:
        if record.shard != 5:
            builder.apply(record)
    with pytest.raises(MappingError, match="1 of 8 shards are missing, the first is 5"):
        builder.apply(meta_after(snapshot, version=1))
    assert builder.snapshot is None
    builder.apply(newest)
    after = builder.apply(meta)
    assert after is not None
    assert after.records[5] == newest


def test_shard_unreadable_at_the_start_is_missing_until_it_is_written_again() -> None:
    """Without a snapshot, the old record of an unreadable shard is not used in its place."""
    _, snapshot = first()
    builder = SnapshotBuilder()
    for record in snapshot.records:
        builder.apply(record)
    builder.reject(4, "not JSON")
    with pytest.raises(MappingError, match="the first is 4"):
        builder.apply(meta_after(snapshot, version=1))
    after = feed(builder, [rewritten(snapshot, 4)], meta_after(snapshot))
    assert after.version == 2


def test_plan_at_full_size_copies_and_changes_only_what_moved() -> None:
    """4,096 shards: a plan's snapshot is a copy with a few changes, not a new build."""
    records, meta = first_mapping(4096, dict.fromkeys(NAMES, 1.0), CLUSTERS, 7, "hash", "7.0")
    snapshot = advance(None, {record.shard: record for record in records}, meta)
    assert snapshot.owners.shape == (4096 * SLOTS,)
    moves = [shift(snapshot, shard, other_than(snapshot.records[shard].home), 3) for shard in range(16)]
    records, meta = plan(snapshot, *moves)
    after = advance(snapshot, {record.shard: record for record in records}, meta)
    assert sum(one is not other for one, other in zip(snapshot.records, after.records, strict=True)) == 16
    assert int((after.owners != snapshot.owners).sum()) == 48
