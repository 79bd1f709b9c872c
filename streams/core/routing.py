"""From a batch of requests to what is produced: the router's pure half.

`route` reads type and key of every request, looks up the owner of its slot and says what goes where,
as far as the handoffs of the ingest partitions allow. It does no I/O and never raises for a bad request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, BadRequest, BadRequestError
from schemas.records import SLOTS
from streams.core.fences import ClusterNumbers
from streams.core.handoffs import Aim, Handoffs
from streams.core.held import HeldRequest
from streams.core.keys import KeyReader, place
from streams.core.poison import UNLIMITED, Condemned, Keep, Place

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
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


NOT_CONDEMNED: Mapping[Place, Condemned] = {}


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
class Taken:
    """The requests that a batch decided about first, forwarded or held: its arrivals, by columns."""

    partition: Ints
    series: Ints
    slot: Ints
    """Global slots."""
    hash: npt.NDArray[np.uint64]
    """Of the key bytes."""
    timestamp_ms: Ints
    size: Ints
    """Bytes of value and key."""


@dataclass(frozen=True)
class Sent:
    """The requests that a batch forwards, those released from hold first, by columns."""

    partition: Ints
    """Ingest partitions."""
    slot: Ints
    owner: Ints
    """Numbers of clusters."""
    target: Ints
    """Output partitions."""
    ordered: Bools
    """False where the request's type needs no order: it has no fence."""

    def last(self) -> list[int]:
        """Returns the index of the last request of each (cluster, output partition)."""
        if not len(self.owner):
            return []
        place = self.owner * (int(self.target.max()) + 1) + self.target
        newest = np.full(int(place.max()) + 1, -1, dtype=np.int64)
        newest[place] = np.arange(len(place))  # of several values for one place the last one stays
        return [int(index) for index in newest[newest >= 0]]

    def by_cluster(self) -> dict[int, int]:
        """Returns number of a cluster -> forwarded requests, of every cluster that gets some."""
        counts = np.bincount(self.owner).tolist() if len(self.owner) else []
        return {number: count for number, count in enumerate(counts) if count}


@dataclass(frozen=True)
class Routed:
    """What one batch causes."""

    records: int
    """Requests that were read, dead letters and held ones included."""
    origins: list[Place]
    """(ingest partition, offset) of each record in `outgoing`."""
    outgoing: list[Outgoing]
    """Sent requests, then dead letters."""
    positions: dict[int, int]
    """Next offset to decide about, per ingest partition of the batch."""
    cut: dict[int, int]
    """Ingest partitions that can hold no more, with the offset from which they are read again later."""
    dead: list[DeadLetter]
    taken: Taken
    sent: Sent
    unproven: int
    """Sent requests whose order a dead cluster leaves unproven."""


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

    def __init__(
        self, aim: Aim, numbers: ClusterNumbers, dead_letter: str, dead_letter_bytes: int, ingest: str
    ) -> None:
        snapshot = aim.snapshot
        self.aim = aim
        self.snapshot = snapshot
        self.dead_letter = dead_letter
        self.dead_letter_bytes = dead_letter_bytes
        """What the dead-letter topic takes at most."""
        self.ingest = ingest
        self.topics = list(numbers.topics)
        self.added = _Added(f"{snapshot.epoch}.{snapshot.version}".encode())
        """Headers that a forwarded request gets: by type name, then shard."""


Reading = tuple[int, int, str]
"""(series index, hash, type name)."""


class _Batch:
    """A batch by columns, read once: the good requests in arrays, and why the others are bad."""

    def __init__(self, records: Sequence[Request], routes: Routes, reader: KeyReader) -> None:
        self.partitions = [record.partition() for record in records]
        self.offsets = [record.offset() for record in records]
        self.values = [record.value() for record in records]
        self.keys = [record.key() for record in records]
        self.headers = [record.headers() for record in records]
        self.timestamps = [record.timestamp()[1] for record in records]
        readings: list[Reading] = []
        self.bad: dict[int, BadRequestError] = {}
        """Index in the batch -> why; in order."""
        rest = map(reader.read, self.values, self.keys, self.headers)
        while True:
            try:
                readings.extend(rest)  # keeps what came before an error, and `rest` goes on after it
                break
            except BadRequestError as error:
                self.bad[len(readings) + len(self.bad)] = error
        self.names: Sequence[str]
        series, hashes, self.names = zip(*readings, strict=True) if readings else ((), (), ())
        self.row = np.arange(len(records), dtype=np.int64)
        """int64[good]: index in the batch of each good request; so are all arrays."""
        if self.bad:
            self.row = np.delete(self.row, list(self.bad))
        self.partition = np.array(self.partitions, dtype=np.int64)[self.row]
        self.offset = np.array(self.offsets, dtype=np.int64)[self.row]
        self.series = np.array(series, dtype=np.int64)
        self.hash = np.array(hashes, dtype=np.uint64)
        self.shard, self.slot = place(self.hash, routes.snapshot.shards)
        self.owner = routes.aim.owners[self.slot].astype(np.int64)
        self.free = reader.free[self.series]
        self.send = np.ones(len(self.row), dtype=np.bool_)
        self.take = self.send.copy()
        self.skipped: set[int] = set()
        """Good requests that the predecessor has decided about."""
        self.unproven = 0
        self.positions = {
            number: last + 1 for number, last in dict(zip(self.partitions, self.offsets, strict=True)).items()
        }
        self.cut: dict[int, int] = {}

    def held(self, row: int) -> HeldRequest:
        """Returns a good request as it is held."""
        index = int(self.row[row])
        return HeldRequest(
            offset=self.offsets[index],
            slot=int(self.slot[row]),
            type_name=self.names[row],
            value=self.values[index],
            key=self.keys[index],
            headers=self.headers[index],
            timestamp_ms=self.timestamps[index],
        )

    def drop_from(self, partition: int, offset: int) -> None:
        """Leaves a partition's requests from `offset` on undecided."""
        late = (self.partition == partition) & (self.offset >= offset)
        self.send[late] = self.take[late] = False
        self.forget_bad(partition, lambda other: other >= offset)
        self.positions[partition] = self.cut[partition] = offset

    def forget_bad(self, partition: int, which: Callable[[int], bool]) -> None:
        """Drops the bad requests of a partition whose offset is such."""
        for index in [i for i in self.bad if self.partitions[i] == partition and which(self.offsets[i])]:
            del self.bad[index]


def route(
    records: Sequence[Request],
    routes: Routes,
    reader: KeyReader,
    handoffs: Handoffs,
    condemned: Mapping[Place, Condemned] = NOT_CONDEMNED,
    most_released: int = UNLIMITED,
) -> Routed:
    """Returns what a batch causes: every request is sent, held or dead-lettered, in order per slot.

    1. Read type and key and look up the owner of each slot; 2. let the handoffs of the partitions
    judge, where something is on its way; 3. dead-letter what the broker refused before; 4. send: what
    was released from hold first, then the rest, then dead letters.
    """
    batch = _Batch(records, routes, reader)
    for partition in batch.positions:
        if not handoffs.active[partition].quiet:
            _judge(batch, partition, handoffs, condemned)
        handoffs.active[partition].decided(batch.positions[partition])
    if condemned:
        _condemn(batch, condemned)
    released = handoffs.take_released(most_released)
    dead = [
        DeadLetter(batch.partitions[index], batch.offsets[index], error.bad, str(error))
        for index, error in sorted(batch.bad.items())
    ]
    letters = [
        _letter(records[index], letter, routes, condemned.get((letter.partition, letter.offset)))
        for index, letter in zip(sorted(batch.bad), dead, strict=True)
    ]
    sent, outgoing, origins = _send(batch, released, routes, handoffs)
    return Routed(
        records=len(records),
        origins=origins + [(letter.partition, letter.offset) for letter in dead],
        outgoing=outgoing + letters,
        positions=batch.positions,
        cut=batch.cut,
        dead=dead,
        taken=_take(batch),
        sent=sent,
        unproven=batch.unproven,
    )


def _judge(batch: _Batch, partition: int, handoffs: Handoffs, condemned: Mapping[Place, Condemned]) -> None:
    """Applies the verdict of one partition's handoff, and holds what is to be held while there is room."""
    handoff = handoffs.active[partition]
    rows = np.flatnonzero(batch.partition == partition)
    verdict = handoff.judge(batch.offset[rows], batch.slot[rows], batch.free[rows])
    batch.owner[rows] = verdict.owner
    batch.send[rows] = ~(verdict.hold | verdict.skip)
    batch.take[rows] = batch.offset[rows] >= handoff.resumed
    batch.forget_bad(partition, lambda offset: offset < handoff.resumed)
    batch.skipped.update(rows[verdict.skip].tolist())
    requests = [batch.held(row) for row in rows[verdict.hold].tolist()]
    room = handoffs.room(partition, requests)
    if condemned:  # such a one waits for its slot: no note could say that it left before what is held
        late = (n for n, one in enumerate(requests[:room]) if (partition, one.offset) in condemned)
        room = next(late, room)
    if room < len(requests):
        batch.drop_from(partition, requests[room].offset)
    for request in requests[:room]:
        handoff.hold(request)
    unproven = batch.send[rows] & verdict.unproven
    batch.unproven += int(unproven.sum())


def _condemn(batch: _Batch, condemned: Mapping[Place, Condemned]) -> None:
    """Turns good requests that the broker refused before into bad ones, but for those skipped or cut."""
    for row, index in enumerate(batch.row.tolist()):
        place = (batch.partitions[index], batch.offsets[index])
        why = condemned.get(place)
        cut = batch.cut.get(place[0])
        if why is None or row in batch.skipped or (cut is not None and place[1] >= cut):
            continue
        batch.send[row] = batch.take[row] = False
        batch.bad[index] = BadRequestError(why.bad, why.reason)


def _take(batch: _Batch) -> Taken:
    """Returns the arrivals of a batch."""
    stamps = np.maximum(np.array(batch.timestamps, dtype=np.int64), 0)[batch.row]
    sizes = [len(value or b"") + len(key or b"") for value, key in zip(batch.values, batch.keys, strict=True)]
    size = np.array(sizes, dtype=np.int64)[batch.row]
    taken = Taken(batch.partition, batch.series, batch.slot, batch.hash, stamps, size)
    if batch.take.all():
        return taken
    return Taken(*(getattr(taken, column.name)[batch.take] for column in fields(Taken)))


def _send(
    batch: _Batch, released: list[tuple[int, HeldRequest]], routes: Routes, handoffs: Handoffs
) -> tuple[Sent, list[Outgoing], list[Place]]:
    """Returns what is forwarded, as columns and as what is produced, and where each came from."""
    target = batch.slot % routes.aim.partitions[batch.owner]
    columns: list[Sequence[Any]] = [batch.values, batch.keys, batch.headers, batch.timestamps, batch.names]
    numbers = [batch.partition, batch.slot, batch.owner, target]
    ordered, shard = ~batch.free, batch.shard
    origins = list(zip(batch.partitions, batch.offsets, strict=True))
    if len(batch.row) < len(origins) or not batch.send.all():
        rows = batch.row[batch.send].tolist()
        columns = [[column[row] for row in rows] for column in columns[:4]]
        columns.append([batch.names[row] for row in np.flatnonzero(batch.send).tolist()])
        numbers = [column[batch.send] for column in numbers]
        ordered, shard = ordered[batch.send], shard[batch.send]
        origins = [origins[row] for row in rows]
    topics, added = routes.topics, routes.added
    lists = (shard.tolist(), numbers[2].tolist(), numbers[3].tolist())
    outgoing: list[Outgoing] = [
        (topics[to], value, key, number, stamp, own + added[name][part] if own else added[name][part])
        for value, key, own, stamp, name, part, to, number in zip(*columns, *lists, strict=True)
    ]
    if not released:
        return _sent(numbers, ordered), outgoing, origins
    first, early = _release(released, routes, handoffs)
    batch.unproven += sum(handoffs.active[p].unproven([request.slot]) for p, request in released)
    joined = [np.concatenate([one, other]) for one, other in zip(first, numbers, strict=True)]
    sent = _sent(joined, np.concatenate([np.ones(len(released), dtype=np.bool_), ordered]))
    return sent, early + outgoing, [(place, request.offset) for place, request in released] + origins


def _sent(numbers: list[Ints], ordered: Bools) -> Sent:
    partition, slot, owner, target = numbers
    return Sent(partition, slot, owner, target, ordered)


def _release(
    released: list[tuple[int, HeldRequest]], routes: Routes, handoffs: Handoffs
) -> tuple[list[Ints], list[Outgoing]]:
    """Returns the released requests as columns of `Sent`, and as what is produced."""
    partition = np.array([place for place, _ in released], dtype=np.int64)
    slot = np.array([request.slot for _, request in released], dtype=np.int64)
    owner = np.array([handoffs.active[p].owner(request.slot) for p, request in released], dtype=np.int64)
    target = slot % routes.aim.partitions[owner]
    outgoing: list[Outgoing] = []
    for (_, request), to, number in zip(released, owner.tolist(), target.tolist(), strict=True):
        added = routes.added[request.type_name][request.slot // SLOTS]
        headers = request.headers + added if request.headers else added
        outgoing.append(
            (routes.topics[to], request.value, request.key, number, request.timestamp_ms, headers)
        )
    return [partition, slot, owner, target], outgoing


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
