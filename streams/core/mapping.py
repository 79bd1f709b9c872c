"""The mapping: which cluster owns each slot of each shard, and how one version follows another.

A plan is some shard records and then one meta record. Readers take a plan whole or not at all: the
snapshot they hold is immutable and is replaced by the next one when the meta record arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mmh3
import numpy as np
import numpy.typing as npt

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

Owners = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of the mapping, immutable."""

    version: int
    epoch: int
    shards: int
    rules_hash: str
    records: tuple[MappingRecord, ...]
    """Index = shard."""
    clusters: Mapping[str, MappedCluster]
    names: tuple[str, ...]
    """Cluster names, sorted: what `owners` counts in."""
    owners: Owners
    """uint16[shards * 256], read-only: global slot -> index into `names`."""

    def owner(self, global_slot: int) -> str:
        """Returns the cluster that owns a global slot."""
        return self.names[int(self.owners[global_slot])]


def advance(old: Snapshot | None, records: Mapping[int, MappingRecord], meta: MappingMeta) -> Snapshot:
    """Returns the snapshot after a plan: `old` with the changed shards' records, under `meta`.

    Without `old` the records must be all shards'. Raises MappingError where a shard is missing or
    over, or a slot or a home would belong to a cluster that meta does not have.
    """
    over = sorted(shard for shard in records if shard >= meta.shards)
    if over:
        raise MappingError(f"shard {over[0]} is not below {meta.shards}, the mapping's shards")
    if old is not None and old.shards != meta.shards:
        raise MappingError(f"meta has {meta.shards} shards, the mapping has {old.shards}: N never changes")
    if old is None and len(records) < meta.shards:
        missing = [shard for shard in range(meta.shards) if shard not in records]
        raise MappingError(f"{len(missing)} of {meta.shards} shards are missing, the first is {missing[0]}")
    for record in records.values():
        _check_record(record, meta)
    names = tuple(sorted(meta.clusters))
    index = {name: number for number, name in enumerate(names)}
    owners = _carried_owners(old, meta, index)
    rows = list(old.records) if old is not None else [records[shard] for shard in range(meta.shards)]
    for shard, record in records.items():
        rows[shard] = record
        base = shard * SLOTS
        for start, stop, cluster in record.segments:
            owners[base + start : base + stop] = index[cluster]
    _check_carried(rows, records, owners, index, old)
    owners.flags.writeable = False
    clusters = MappingProxyType({name: meta.clusters[name] for name in names})
    return Snapshot(
        meta.version, meta.epoch, meta.shards, meta.rules_hash, tuple(rows), clusters, names, owners
    )


def _check_record(record: MappingRecord, meta: MappingMeta) -> None:
    place = f"shard {record.shard}@{record.epoch}.{record.version}"
    if record.version > meta.version or record.epoch > meta.epoch:
        raise MappingError(f"{place} is newer than its meta record {meta.epoch}.{meta.version}")
    for name in (record.home, *(cluster for _, _, cluster in record.segments)):
        if name not in meta.clusters:
            raise MappingError(f"{place} names cluster {name}, which meta does not have")


def _carried_owners(old: Snapshot | None, meta: MappingMeta, index: Mapping[str, int]) -> Owners:
    """Returns a writable copy of the old owners, counted in the new names; len(index) = gone."""
    if old is None:
        return np.full(meta.shards * SLOTS, len(index), dtype=np.uint16)
    if old.names == tuple(index):
        return old.owners.copy()
    renumbered = np.array([index.get(name, len(index)) for name in old.names], dtype=np.uint16)
    return renumbered[old.owners]


def _check_carried(
    rows: Sequence[MappingRecord],
    changed: Mapping[int, MappingRecord],
    owners: Owners,
    index: Mapping[str, int],
    old: Snapshot | None,
) -> None:
    """Raises MappingError where a shard that the plan left alone still needs a cluster that is gone."""
    if old is None or set(old.names) <= set(index):
        return
    gone = np.flatnonzero(owners == len(index))
    if len(gone):
        first = int(gone[0])
        raise MappingError(
            f"slot {first % SLOTS} of shard {first // SLOTS} belongs to {old.owner(first)}, which is gone"
        )
    for row in rows:
        if row.shard not in changed and row.home not in index:
            raise MappingError(f"shard {row.shard} has the home {row.home}, which is gone")


class SnapshotBuilder:
    """The reader's pure half: takes the records of the mapping topic in order, makes snapshots.

    Until the first snapshot exists, records are kept across plans that cannot be used yet: in a
    compacted topic an old meta record may be followed, not preceded, by the newest record of a shard.
    """

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.refused = 0
        """Records and plans refused so far."""
        self._plan: dict[int, MappingRecord] = {}
        self._spoiled: list[str] = []

    def apply(self, record: MappingRecord | MappingMeta) -> Snapshot | None:
        """Returns the new snapshot where `record` ends a plan that changes something, else None.

        Raises StaleError (older than the snapshot) or MappingError (not a whole, valid plan): then
        the plan's records are dropped and the snapshot stays. A plan read twice changes nothing.
        """
        try:
            if isinstance(record, MappingRecord):
                self._check_newer(record)
                self._plan[record.shard] = record
                return None
            return self._finish(record)
        except MappingError as error:
            self.refused += 1
            if isinstance(record, MappingRecord):
                self._spoiled.append(str(error))
            raise

    def reject(self, shard: int | None, reason: str) -> None:
        """Takes note of a record that could not be read; `shard` is the one its key names, if any.

        The plan that it belongs to will be refused, for half of it is missing. Before the first
        snapshot, that shard is missing until a later plan writes it.
        """
        self.refused += 1
        if shard is None:
            return
        if self.snapshot is None:
            self._plan.pop(shard, None)
        else:
            self._spoiled.append(f"shard {shard}: {reason}")

    def _check_newer(self, record: MappingRecord | MappingMeta) -> None:
        if self.snapshot is None:
            return
        have = f"{self.snapshot.epoch}.{self.snapshot.version}"
        what = f"shard {record.shard}" if isinstance(record, MappingRecord) else "meta"
        if record.epoch < self.snapshot.epoch or record.version < self.snapshot.version:
            raise StaleError(f"{what}@{record.epoch}.{record.version} is older than the mapping {have}")

    def _finish(self, meta: MappingMeta) -> Snapshot | None:
        plan, spoiled = self._plan, self._spoiled
        old = self.snapshot
        if old is not None:
            self._plan, self._spoiled = {}, []
        self._check_newer(meta)
        name = f"plan {meta.epoch}.{meta.version}"
        if spoiled:
            raise MappingError(f"{name} is refused: {'; '.join(spoiled)}")
        new = advance(old, plan, meta)
        if old is not None and new.version == old.version:
            if any(old.records[shard] != record for shard, record in plan.items()):
                raise MappingError(f"{name} has other records than the version {old.version} already read")
            if new.epoch == old.epoch and _same_meta(old, new):
                return None
            if new.epoch == old.epoch:
                raise MappingError(f"{name} has another meta record than the one already read")
        self._plan, self._spoiled = {}, []
        self.snapshot = new
        return new


def _same_meta(one: Snapshot, other: Snapshot) -> bool:
    return one.rules_hash == other.rules_hash and one.clusters == other.clusters


# ---------------------------------------------------------------------------- homes and slots


def homes(shards: int, weights: Mapping[str, float]) -> list[str]:
    """Returns the home of each shard: weighted rendezvous hashing, score -w / ln(u), highest wins.

    u in (0, 1) is the hash of (cluster, shard), so a cluster that joins only takes shards, one that
    leaves only gives its own away, and each holds shards in proportion to its weight on average.
    Raises MappingError where a weight is not positive or there is none.
    """
    if not weights:
        raise MappingError("no active cluster with a capacity: no shard can have a home")
    bad = {name: weight for name, weight in weights.items() if not 0 < weight < float("inf")}
    if bad:
        raise MappingError(f"weights of homes must be positive numbers: {bad}")
    names = sorted(weights)
    hashes = np.array(
        [[mmh3.hash64(f"{name}\0{shard}", 0, signed=False)[0] for shard in range(shards)] for name in names],
        dtype=np.uint64,
    )
    unit = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)
    scores = -np.array([weights[name] for name in names])[:, None] / np.log(unit)
    return [names[winner] for winner in scores.argmax(axis=0)]


def slots_of(segments: Sequence[Segment], cluster: str) -> list[int]:
    """Returns the slots that a cluster owns in a shard, ascending: the fixed order of a drift.

    A drift takes the first slots of its source and gives back the last of its target, so raising it
    only adds keys and lowering it only returns them.
    """
    return [slot for start, stop, name in segments if name == cluster for slot in range(start, stop)]


def ranges(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Returns the slots as sorted half-open ranges: {7, 3, 4} -> [(3, 5), (7, 8)]."""
    found: list[tuple[int, int]] = []
    for slot in sorted(set(slots)):
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found


def reassign(segments: Sequence[Segment], slots: Iterable[int], target: str) -> list[Segment]:
    """Returns the segments with `slots` given to `target`; neighbours of one cluster are merged."""
    owners = _slot_owners(segments)
    for slot in slots:
        if not 0 <= slot < SLOTS:
            raise MappingError(f"slot {slot} is not in 0..{SLOTS - 1}")
        owners[slot] = target
    return _segments(owners)


def _slot_owners(segments: Sequence[Segment]) -> list[str]:
    """Returns the owner of each slot; the segments tile, as every record is checked to do."""
    return [cluster for start, stop, cluster in segments for _ in range(start, stop)]


def _segments(owners: Sequence[str]) -> list[Segment]:
    borders = [slot for slot in range(SLOTS) if slot == 0 or owners[slot] != owners[slot - 1]]
    return [(start, stop, owners[start]) for start, stop in zip(borders, [*borders[1:], SLOTS], strict=True)]


# ---------------------------------------------------------------------------- plans


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


_NO_HOMES: Mapping[int, str] = MappingProxyType({})


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
