"""From a batch of requests to what is produced: the router's pure half.

`route` reads type and key of every request, looks up the owner of its slot in one snapshot of the
mapping and says what goes where; it has no state, does no I/O and never raises for a bad request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, BadRequest, BadRequestError
from streams.core.keys import KeyReader, place
from streams.core.mapping import Snapshot
from streams.core.poison import Condemned, Keep, Place

Header = tuple[str, bytes | None]
Outgoing = tuple[str, bytes | None, bytes | None, int, int, list[Header]]
"""(topic, value, key, partition or -1, timestamp in ms or 0 = now, headers)."""

HEADER_SHARD = "foreshard-shard"
HEADER_TYPE = "foreshard-type"
HEADER_MAPPING = "foreshard-mapping"

TYPES_KEPT = 1024
"""Type names whose header lists are kept; beyond it (rule `*`) they are made anew."""

RECORD_BYTES = 512
"""Bytes of a record batch around key, value and headers: generous, so that `fits` errs to the safe side."""


class Request(Protocol):
    """What is needed of a consumed record; confluent_kafka.Message has it."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def headers(self) -> list[Header] | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...


@dataclass(frozen=True)
class DeadLetter:
    """A request that found no way, and why."""

    partition: int
    offset: int
    bad: BadRequest
    reason: str


@dataclass(frozen=True)
class Routed:
    """What one batch causes. The arrays have one entry per forwarded request, in ingest order."""

    records: int
    """Requests of the batch, dead letters included."""
    places: list[Place]
    """(ingest partition, offset) of every request of the batch."""
    offsets: dict[int, int]
    """Next offset to read per ingest partition of the batch."""
    outgoing: list[Outgoing]
    dead: list[DeadLetter]
    partition: npt.NDArray[np.int64]
    series: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]
    """Global slots."""
    owner: npt.NDArray[np.int64]
    """Indices into `Routes.snapshot.names`."""
    target: npt.NDArray[np.int64]
    """Output partitions."""
    timestamp_ms: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    """Bytes of value and key."""

    def by_cluster(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Returns (cluster, forwarded requests) of every cluster that gets some."""
        counts = np.bincount(self.owner, minlength=len(names)).tolist()
        return [(name, count) for name, count in zip(names, counts, strict=True) if count]


class _ByShard(dict[int, list[Header]]):
    """The headers that a type's requests get, by shard, made when first needed."""

    def __init__(self, type_name: str, version: bytes) -> None:
        self._rest = [(HEADER_TYPE, type_name.encode()), (HEADER_MAPPING, version)]

    def __missing__(self, shard: int) -> list[Header]:
        headers = self[shard] = [(HEADER_SHARD, b"%d" % shard), *self._rest]
        return headers


class _Added(dict[str, _ByShard]):
    """The same by type name."""

    def __init__(self, version: bytes) -> None:
        self._version = version

    def __missing__(self, type_name: str) -> _ByShard:
        if len(self) >= TYPES_KEPT:
            self.clear()
        headers = self[type_name] = _ByShard(type_name, self._version)
        return headers


class Routes:
    """One snapshot of the mapping, prepared for `route`: topics, partitions and ready header lists."""

    def __init__(self, snapshot: Snapshot, dead_letter: str, dead_letter_bytes: int, ingest: str) -> None:
        self.snapshot = snapshot
        self.dead_letter = dead_letter
        self.dead_letter_bytes = dead_letter_bytes
        """What the dead-letter topic takes at most."""
        self.ingest = ingest
        self.topics = [snapshot.clusters[name].topic for name in snapshot.names]
        self.partitions = np.array([snapshot.clusters[n].partitions for n in snapshot.names], dtype=np.int64)
        self.added = _Added(f"{snapshot.epoch}.{snapshot.version}".encode())
        """Headers that a forwarded request gets: by type name, then shard."""


class _Columns:
    """A batch by columns: one list per part of its records, read once."""

    def __init__(self, batch: Sequence[Request]) -> None:
        self.values = [record.value() for record in batch]
        self.keys = [record.key() for record in batch]
        self.headers = [record.headers() for record in batch]
        self.timestamps = [record.timestamp()[1] for record in batch]

    def keep(self, indices: list[int]) -> None:
        """Drops all records but these."""
        self.values = [self.values[index] for index in indices]
        self.keys = [self.keys[index] for index in indices]
        self.headers = [self.headers[index] for index in indices]
        self.timestamps = [self.timestamps[index] for index in indices]


Reading = tuple[int, int, str]
"""(series index, hash, type name)."""


def route(
    batch: Sequence[Request], routes: Routes, reader: KeyReader, condemned: Mapping[Place, Condemned]
) -> Routed:
    """Returns what the batch causes under this mapping; requests in `condemned` become dead letters."""
    partitions = [record.partition() for record in batch]
    places = list(zip(partitions, [record.offset() for record in batch], strict=True))
    columns = _Columns(batch)
    readings, bad = _read(columns, places, reader, condemned)
    dead = [DeadLetter(*places[index], error.bad, str(error)) for index, error in bad.items()]
    letters = [
        _letter(batch[index], letter, routes, condemned.get(places[index]))
        for index, letter in zip(bad, dead, strict=True)
    ]
    if bad:
        good = [index for index in range(len(batch)) if index not in bad]
        columns.keep(good)
        partitions = [partitions[index] for index in good]
    series, hashes, names = zip(*readings, strict=True) if readings else ((), (), ())
    shard, slot = place(np.array(hashes, dtype=np.uint64), routes.snapshot.shards)
    owner = routes.snapshot.owners[slot].astype(np.int64)
    target = slot % routes.partitions[owner]
    timestamps = np.maximum(np.array(columns.timestamps, dtype=np.int64), 0)
    sizes = [
        len(value or b"") + len(key or b"") for value, key in zip(columns.values, columns.keys, strict=True)
    ]
    outgoing = _forward(columns, names, (shard, owner, target, timestamps), routes)
    return Routed(
        records=len(batch),
        places=places,
        offsets={partition: offset + 1 for partition, offset in dict(places).items()},
        outgoing=outgoing + letters,
        dead=dead,
        partition=np.array(partitions, dtype=np.int64),
        series=np.array(series, dtype=np.int64),
        slot=slot,
        owner=owner,
        target=target,
        timestamp_ms=timestamps,
        size=np.array(sizes, dtype=np.int64),
    )


def _read(
    columns: _Columns, places: list[Place], reader: KeyReader, condemned: Mapping[Place, Condemned]
) -> tuple[list[Reading], dict[int, BadRequestError]]:
    """Returns the readings of the good records, in order, and by index why the others are bad."""
    readings: list[Reading] = []
    bad: dict[int, BadRequestError] = {}
    rest = map(reader.read, columns.values, columns.keys, columns.headers)
    while True:
        try:
            readings.extend(rest)  # keeps what came before an error, and `rest` goes on after it
            break
        except BadRequestError as error:
            bad[len(readings) + len(bad)] = error
    if not condemned:
        return readings, bad
    good = [index for index in range(len(places)) if index not in bad]
    kept = []
    for index, reading in zip(good, readings, strict=True):
        why = condemned.get(places[index])
        if why is None:
            kept.append(reading)
        else:
            bad[index] = BadRequestError(why.bad, why.reason)
    return kept, dict(sorted(bad.items()))


def _forward(
    columns: _Columns,
    names: Sequence[str],
    numbers: tuple[npt.NDArray[np.int64], ...],
    routes: Routes,
) -> list[Outgoing]:
    """Returns what is produced; `numbers`: shard, owner, output partition, timestamp of each record."""
    topics, added = routes.topics, routes.added
    rows = zip(
        names,
        columns.values,
        columns.keys,
        columns.headers,
        *(column.tolist() for column in numbers),
        strict=True,
    )
    return [
        (topics[owner], value, key, partition, stamp, own + added[name][shard] if own else added[name][shard])
        for name, value, key, own, shard, owner, partition, stamp in rows
    ]


def _letter(record: Request, dead: DeadLetter, routes: Routes, condemned: Condemned | None) -> Outgoing:
    """Returns the dead letter of a request: all of it, or as much as the dead-letter topic takes."""
    ours: list[Header] = [
        (HEADER_ERROR, dead.bad.value.encode()),
        (HEADER_REASON, dead.reason.encode(errors="replace")),
        (HEADER_SOURCE, f"{routes.ingest}[{dead.partition}]@{dead.offset}".encode()),
    ]
    keep = condemned.keep if condemned else Keep.ALL
    if keep is Keep.OUR_HEADERS:
        return routes.dead_letter, None, None, -1, 0, ours
    value, key = record.value(), record.key()
    headers = [*(record.headers() or ()), *ours]
    if keep is Keep.NO_VALUE or not _fits(value, key, headers, routes.dead_letter_bytes):
        value = None
    return routes.dead_letter, value, key, -1, 0, headers


def _fits(value: bytes | None, key: bytes | None, headers: list[Header], limit: int) -> bool:
    size = RECORD_BYTES + len(value or b"") + len(key or b"")
    size += sum(len(name) + len(data or b"") + 8 for name, data in headers)
    return size <= limit
