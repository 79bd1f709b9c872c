"""Small worlds for the planner's tests: shards with loads and homes on clusters of 100 cost units/s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from schemas.records import ClusterState, MappedCluster, MappingRecord, Move, Segment
from streams.core.mapping import Snapshot
from streams.core.mapping import SnapshotBuilder as Builder
from streams.core.planner import ClusterInput, PlanInput
from streams.core.plans import apply_moves, first_mapping

COLUMNS = 11
NOW = 100_000.0


def cluster(name: str, capacity: float = 100.0, **fields: object) -> ClusterInput:
    """Returns an active, known, open cluster without backlog."""
    made = ClusterInput(name, ClusterState.ACTIVE, True, np.full(COLUMNS, capacity), 0.0)
    return replace(made, **fields)  # type: ignore[arg-type]


def ramp(now: float, then: float) -> np.ndarray:
    """Returns a load that goes evenly from `now` to `then` over the window, float64[columns]."""
    return np.linspace(now, then, COLUMNS)


def record(shard: int, home: str, segments: Sequence[Segment] | None = None) -> MappingRecord:
    whole: list[Segment] = [(0, 256, home)]
    return MappingRecord(
        shard=shard,
        version=1,
        epoch=1,
        home=home,
        segments=list(segments) if segments else whole,
        plan="1.1",
        reason="first-start",
    )


def world(
    loads: Sequence[float | np.ndarray],
    homes: Sequence[str],
    clusters: Sequence[ClusterInput],
    drifts: Mapping[int, Sequence[Segment]] | None = None,
    **fields: object,
) -> PlanInput:
    """Returns the input of a round: one load (constant, or float64[columns]) and home per shard."""
    rows = [np.full(COLUMNS, load) if np.isscalar(load) else load for load in loads]
    drifted = drifts or {}
    made = PlanInput(
        now=NOW,
        load=np.array(rows, dtype=np.float64),
        skew={},
        records=[record(shard, home, drifted.get(shard)) for shard, home in enumerate(homes)],
        clusters=clusters,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def mapped(clusters: Sequence[ClusterInput]) -> dict[str, MappedCluster]:
    return {
        c.name: MappedCluster(topic=f"requests.{c.name}", group=c.name, partitions=12, state=c.state)
        for c in clusters
    }


def snapshot_of(inputs: PlanInput) -> Snapshot:
    """Returns the mapping of the inputs as a reader would hold it."""
    names = {segment[2] for r in inputs.records for segment in r.segments} | {r.home for r in inputs.records}
    strangers = [cluster(name) for name in sorted(names - {c.name for c in inputs.clusters})]
    clusters = mapped([*inputs.clusters, *strangers])
    weights = dict.fromkeys(clusters, 1.0)
    _, meta = first_mapping(len(inputs.records), weights, clusters, 1, "rules", "1.1")
    builder = Builder()
    for item in inputs.records:
        builder.apply(item)
    snapshot = builder.apply(meta)
    assert snapshot is not None
    return snapshot


def after(inputs: PlanInput, moves: Sequence[Move]) -> list[MappingRecord]:
    """Returns all shard records once the moves are applied; raises if they do not fit the mapping."""
    snapshot = snapshot_of(inputs)
    records, _ = apply_moves(snapshot, moves, epoch=1, plan="1.2", clusters=snapshot.clusters)
    changed = {item.shard: item.model_copy(update={"version": 1}) for item in records}
    return [changed.get(item.shard, item) for item in inputs.records]


def slots(move: Move) -> int:
    return sum(stop - start for start, stop in move.slots)
