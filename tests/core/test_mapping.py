"""The mapping: homes, and what a reader makes of its records."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import MappingError, StaleError
from schemas.records import SLOTS, MappingMeta, MappingRecord, check_tiles
from streams.core.mapping import Snapshot, SnapshotBuilder, advance, homes, parts_at, ranges
from streams.core.plans import first_mapping
from tests.core.mapping_world import CLUSTERS, NAMES, SHARDS, cluster, feed, first, other_than, plan, shift


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


# ---------------------------------------------------------------------------- slots


@given(st.sets(st.integers(0, SLOTS - 1)))
def test_ranges_hold_the_same_slots(slots: set[int]) -> None:
    """Ranges are sorted, apart, and hold what they were made of."""
    found = ranges(slots)
    assert {slot for start, stop in found for slot in range(start, stop)} == slots
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


# ---------------------------------------------------------------------------- reading


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


def test_what_a_cluster_has_of_a_shard_counts_by_load_where_a_slot_is_hot() -> None:
    """Three slots of 256 have moved; one of them has half the load. The parts of all clusters sum to 1."""
    _, snapshot = first()
    home = snapshot.records[0].home
    target = other_than(home)
    records, meta = plan(snapshot, shift(snapshot, 0, target, 3))
    after = advance(snapshot, {record.shard: record for record in records}, meta)
    moved = int(np.flatnonzero(after.owners[:SLOTS] == after.names.index(target))[0])
    weights = np.full(SLOTS, 0.5 / (SLOTS - 1))
    weights[moved] = 0.5
    number = after.names.index(target)
    assert parts_at(after, number, {})[0] == pytest.approx(3 / SLOTS)
    assert parts_at(after, number, {0: weights})[0] == pytest.approx(0.5 + 2 * 0.5 / (SLOTS - 1))
    whole = sum(parts_at(after, one, {0: weights}) for one in range(len(after.names)))
    assert whole == pytest.approx(np.ones(SHARDS))
