"""The mapping: which cluster owns each slot of each shard, and what a reader makes of its records.

A plan is some shard records and then one meta record (streams/core/plans.py makes it). Readers take it
whole or not at all: the snapshot they hold is immutable and is replaced by the next one when the meta
record arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mmh3
import numpy as np
import numpy.typing as npt

from schemas.errors import MappingError, StaleError
from schemas.records import SLOTS, MappedCluster, MappingMeta, MappingRecord, Segment

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


def parts_at(
    snapshot: Snapshot, number: int, skew: Mapping[int, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Returns float64[shards], the part of each shard's load that one cluster, `names[number]`, has.

    skew: shard -> float64[256], the slots' parts of its load; absent = uniform.
    """
    held = snapshot.owners.reshape(snapshot.shards, SLOTS) == number
    parts: npt.NDArray[np.float64] = held.mean(axis=1)
    for shard, weights in skew.items():
        parts[shard] = weights[held[shard]].sum()
    return parts


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
    given = slots if isinstance(slots, np.ndarray) else np.fromiter(slots, dtype=np.int64)
    if not len(given):
        return []
    ordered = np.sort(given)
    gaps = np.flatnonzero(ordered[1:] - ordered[:-1] > 1)
    starts = [int(ordered[0]), *ordered[gaps + 1].tolist()]
    return list(zip(starts, [*(ordered[gaps] + 1).tolist(), int(ordered[-1]) + 1], strict=True))
