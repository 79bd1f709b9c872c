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
        self.version = f"{snapshot.epoch}.{snapshot.version}".encode()
        self._headers: dict[str, list[list[Header] | None]] = {}

    def headers_of(self, type_name: str) -> list[list[Header] | None]:
        """Returns the header lists of a type by shard, filled in by `added`."""
        known = self._headers.get(type_name)
        if known is None:
            if len(self._headers) >= TYPES_KEPT:
                self._headers.clear()
            known = self._headers[type_name] = [None] * self.snapshot.shards
        return known

    def added(self, type_name: str, shard: int) -> list[Header]:
        """Returns the headers that a forwarded request gets."""
        return [
            (HEADER_SHARD, b"%d" % shard),
            (HEADER_TYPE, type_name.encode()),
            (HEADER_MAPPING, self.version),
        ]


def route(
    batch: Sequence[Request], routes: Routes, reader: KeyReader, condemned: Mapping[Place, Condemned]
) -> Routed:
    """Returns what the batch causes under this mapping; requests in `condemned` become dead letters."""
    places = [(record.partition(), record.offset()) for record in batch]
    offsets = {partition: offset + 1 for partition, offset in places}
    good: list[int] = []
    series: list[int] = []
    hashes: list[int] = []
    names: list[str] = []
    dead: list[DeadLetter] = []
    letters: list[Outgoing] = []
    read = reader.read
    for index, record in enumerate(batch):
        try:
            if condemned and places[index] in condemned:
                why = condemned[places[index]]
                raise BadRequestError(why.bad, why.reason)
            one_series, one_hash, name = read(record.value(), record.key(), record.headers())
        except BadRequestError as error:
            dead.append(DeadLetter(*places[index], error.bad, str(error)))
            letters.append(_letter(record, dead[-1], routes, condemned.get(places[index])))
            continue
        good.append(index)
        series.append(one_series)
        hashes.append(one_hash)
        names.append(name)
    kept = batch if not dead else [batch[index] for index in good]
    shard, slot = place(np.array(hashes, dtype=np.uint64), routes.snapshot.shards)
    owner = routes.snapshot.owners[slot].astype(np.int64)
    target = slot % routes.partitions[owner]
    outgoing, timestamps, sizes = _forward(kept, names, shard, owner, target, routes)
    return Routed(
        records=len(batch),
        places=places,
        offsets=offsets,
        outgoing=outgoing + letters,
        dead=dead,
        partition=np.array([places[index][0] for index in good], dtype=np.int64),
        series=np.array(series, dtype=np.int64),
        slot=slot,
        owner=owner,
        target=target,
        timestamp_ms=np.array(timestamps, dtype=np.int64),
        size=np.array(sizes, dtype=np.int64),
    )


def _forward(
    batch: Sequence[Request],
    names: list[str],
    shard: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    routes: Routes,
) -> tuple[list[Outgoing], list[int], list[int]]:
    """Returns (what is produced, timestamps in ms, bytes of value and key), one entry per request."""
    outgoing: list[Outgoing] = []
    timestamps: list[int] = []
    sizes: list[int] = []
    topics = routes.topics
    columns = zip(batch, names, shard.tolist(), owner.tolist(), target.tolist(), strict=True)
    for record, name, one_shard, one_owner, partition in columns:
        ready = routes.headers_of(name)
        headers = ready[one_shard]
        if headers is None:
            headers = ready[one_shard] = routes.added(name, one_shard)
        own = record.headers()
        if own:
            headers = own + headers
        value, key, timestamp = record.value(), record.key(), record.timestamp()[1]
        timestamp = max(timestamp, 0)
        outgoing.append((topics[one_owner], value, key, partition, timestamp, headers))
        timestamps.append(timestamp)
        sizes.append((len(value) if value else 0) + (len(key) if key else 0))
    return outgoing, timestamps, sizes


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
