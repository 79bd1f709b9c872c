"""What the tests of the mapping and of plans share: three clusters, eight shards, plans and their reader."""

from __future__ import annotations

from typing import Any

from schemas.records import ClusterState, MappedCluster, MappingMeta, MappingRecord, Move, Reason
from streams.core.mapping import Snapshot, SnapshotBuilder, ranges, slots_of
from streams.core.plans import apply_moves, first_mapping

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
