"""How one version of the mapping follows another: the records of a plan.

A record's `previous` says what was in force before it, as far back as a router may still use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

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
)
from streams.core.mapping import Snapshot, advance, homes

_NO_HOMES: Mapping[int, str] = MappingProxyType({})


def first_mapping(
    shards: int,
    weights: Mapping[str, float],
    clusters: Mapping[str, MappedCluster],
    epoch: int,
    rules_hash: str,
    plan: str,
) -> tuple[list[MappingRecord], MappingMeta]:
    """Returns version 1: every shard wholly at its home; weights are capacities in cost units/s."""
    records = [
        MappingRecord(
            shard=shard,
            version=1,
            epoch=epoch,
            home=home,
            segments=[(0, SLOTS, home)],
            plan=plan,
            reason=Reason.FIRST_START.value,
        )
        for shard, home in enumerate(homes(shards, weights))
    ]
    meta = MappingMeta(version=1, epoch=epoch, shards=shards, rules_hash=rules_hash, clusters=dict(clusters))
    advance(None, {record.shard: record for record in records}, meta)
    return records, meta


def apply_moves(
    snapshot: Snapshot,
    moves: Sequence[Move],
    *,
    epoch: int,
    plan: str,
    clusters: Mapping[str, MappedCluster],
    new_homes: Mapping[int, str] = _NO_HOMES,
    settled: int = 0,
) -> tuple[list[MappingRecord], MappingMeta]:
    """Returns the records of the changed shards, by shard, and the meta record of the next version.

    Moves of one shard follow one another. `settled` is the mapping version that every ingest partition
    has settled: what was in force before it is left out of the records' `previous`. Raises MappingError
    where a moved slot is not its source's, where a cluster is unknown, and StaleError where the epoch
    is lower than the snapshot's.
    """
    if epoch < snapshot.epoch:
        raise StaleError(f"epoch {epoch} is lower than the mapping's {snapshot.epoch}")
    version = snapshot.version + 1
    owners, reasons = _changed(snapshot, moves, clusters, new_homes, settled)
    records = []
    for shard in sorted(owners):
        old, segments = snapshot.records[shard], _segments(owners[shard])
        records.append(
            MappingRecord(
                shard=shard,
                version=version,
                epoch=epoch,
                home=new_homes.get(shard, old.home),
                segments=segments,
                previous=previous_of(old, segments, version, settled),
                plan=plan,
                reason=",".join(dict.fromkeys(reasons[shard])),
            )
        )
    meta = MappingMeta(
        version=version,
        epoch=epoch,
        shards=snapshot.shards,
        rules_hash=snapshot.rules_hash,
        clusters=dict(clusters),
    )
    advance(snapshot, {record.shard: record for record in records}, meta)
    return records, meta


def _changed(
    snapshot: Snapshot,
    moves: Sequence[Move],
    clusters: Mapping[str, MappedCluster],
    new_homes: Mapping[int, str],
    settled: int,
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Returns the slots' owners after a plan, and why, of each shard whose record changes.

    A shard named with the home it has changes where something in its `previous` is settled by now.
    """
    owners: dict[int, list[str]] = {}
    reasons: dict[int, list[str]] = {}
    for move in moves:
        if move.shard >= snapshot.shards:
            raise MappingError(f"move of shard {move.shard}: the mapping has {snapshot.shards} shards")
        row = owners.setdefault(move.shard, _slot_owners(snapshot.records[move.shard].segments))
        _apply_move(row, move, clusters)
        reasons.setdefault(move.shard, []).append(move.reason.value)
    for shard, home in new_homes.items():
        if not 0 <= shard < snapshot.shards:
            raise MappingError(f"new home of shard {shard}: the mapping has {snapshot.shards} shards")
        old = snapshot.records[shard]
        if home != old.home:
            owners.setdefault(shard, _slot_owners(old.segments))
            reasons.setdefault(shard, []).append(_home_reason(clusters.get(old.home)))
        elif any(entry.version < settled for entry in old.previous):
            owners.setdefault(shard, _slot_owners(old.segments))
            reasons.setdefault(shard, [old.reason])
    return owners, reasons


def previous_of(
    old: MappingRecord, segments: Sequence[Segment], version: int, settled: int
) -> list[PreviousSegments]:
    """Returns the `previous` of the record that follows `old` in `version`, oldest first.

    An entry's version is the last one in which its segments were in force, so an ingest partition
    that settled version 7 needs the entries from 7 on. Segments that stay are no entry.
    """
    kept = [entry for entry in old.previous if entry.version >= settled]
    if list(segments) != list(old.segments):
        kept.append(PreviousSegments(version=version - 1, segments=old.segments))
    return kept


def unsettled(record: MappingRecord, settled: int) -> bool:
    """Returns whether the record's newest change of segments may not be settled everywhere yet."""
    return bool(record.previous) and record.previous[-1].version >= settled


def _apply_move(row: list[str], move: Move, clusters: Mapping[str, MappedCluster]) -> None:
    """Gives the move's slots to its target, in place."""
    what = f"move of shard {move.shard} from {move.source} to {move.target}"
    if move.target not in clusters:
        raise MappingError(f"{what}: cluster {move.target} is unknown")
    if move.target == move.source or not move.slots:
        raise MappingError(f"{what}: it moves nothing")
    for start, stop in move.slots:
        if not 0 <= start < stop <= SLOTS:
            raise MappingError(f"{what}: [{start}, {stop}) is no range of slots in 0..{SLOTS}")
        for slot in range(start, stop):
            if row[slot] != move.source:
                raise MappingError(f"{what}: slot {slot} belongs to {row[slot]}")
            row[slot] = move.target


def _home_reason(old: MappedCluster | None) -> str:
    """Returns why a shard gets another home: its old one drains, is down or gone, or one has joined."""
    if old is None or old.state is ClusterState.DRAINING:
        return Reason.DRAIN.value
    return Reason.DOWN.value if old.state is ClusterState.DOWN else Reason.JOIN.value


def _slot_owners(segments: Sequence[Segment]) -> list[str]:
    """Returns the owner of each slot; the segments tile, as every record is checked to do."""
    return [cluster for start, stop, cluster in segments for _ in range(start, stop)]


def _segments(owners: Sequence[str]) -> list[Segment]:
    borders = [slot for slot in range(SLOTS) if slot == 0 or owners[slot] != owners[slot - 1]]
    return [(start, stop, owners[start]) for start, stop in zip(borders, [*borders[1:], SLOTS], strict=True)]
