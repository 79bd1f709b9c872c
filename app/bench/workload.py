"""The requests that every variant routes: made from a seed, the same in every run."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import ForeshardError
from streams.core.keys import hash_key, place

USERS = 20_000
TENANTS = 200
BODIES = 4096
"""Different bodies: their text is what a compressor finds no repetition of within one batch."""

CHUNK = 10_000
"""Requests made at once."""

TYPE_FIELD = "type"


@dataclass(frozen=True)
class TypeRule:
    """A request type: its keyspace and the dotted paths of its key fields in the JSON value."""

    keyspace: str
    key: tuple[str, ...]


TYPES = {
    "update": TypeRule("user", ("tenant", "user.id")),
    "read": TypeRule("user", ("tenant", "user.id")),
    "order": TypeRule("order", ("tenant", "order.number")),
    "search": TypeRule("search", ("user.id",)),
}
"""Two types share a keyspace, one key field is a number: each of these is a step that a peer must take."""

VALUE = (
    b'{"type":"%s","tenant":"tenant-%d","user":{"id":"user-%d","region":"eu-%d"},"order":{"number":%d},'
    b'"seq":%d,"body":"%s","sent":"%020d"}'
)
BARE_BYTES = 170
"""Bytes of a value without its body, about."""

SENT_AT = slice(-22, -2)
"""Where in a value its monotonic send time in ns is."""

Record = tuple[bytes, bytes]
"""(key, value) of a request."""


class Workload:
    """Makes requests of about `size_bytes`; two with the same arguments make the same ones."""

    def __init__(self, size_bytes: int, seed: int = 1) -> None:
        room = max(8, size_bytes - BARE_BYTES)
        self._chance = np.random.default_rng(seed)
        self._bodies = _bodies(room, random.Random(seed))
        self._names = [name.encode() for name in TYPES]
        self._next = 0

    def take(self, count: int, sent_ns: int = 0) -> list[Record]:
        """Returns the next `count` requests."""
        users = self._chance.integers(0, USERS, count).tolist()
        types = self._chance.integers(0, len(TYPES), count).tolist()
        bodies = self._chance.integers(0, BODIES, count).tolist()
        first, self._next = self._next, self._next + count
        return [
            (
                b"user-%d" % user,
                VALUE
                % (
                    self._names[kind],
                    user % TENANTS,
                    user,
                    user % 3,
                    user * 7 % 100_000,
                    first + number,
                    self._bodies[body],
                    sent_ns,
                ),
            )
            for number, (user, kind, body) in enumerate(zip(users, types, bodies, strict=True))
        ]

    def chunks(self, count: int) -> Iterator[list[Record]]:
        """Yields `count` requests, CHUNK at a time."""
        while count > 0:
            yield self.take(min(CHUNK, count))
            count -= CHUNK


def places_in_use(shards: int, partitions: int) -> int:
    """Returns how many (ingest partition, global slot) pairs requests can come to.

    A user's requests are all in one ingest partition: crc32 of the record key, as librdkafka chooses.
    """
    places = set()
    for user in range(USERS):
        partition = zlib.crc32(b"user-%d" % user) % partitions
        for kind in TYPES:
            places.add((partition, shard_and_slot(_fields(user, kind), shards)[1]))
    return len(places)


def _fields(user: int, kind: str) -> dict[str, Any]:
    """Returns the fields of a user's request that can be in its key, parsed."""
    order = {"number": user * 7 % 100_000}
    return {
        TYPE_FIELD: kind,
        "tenant": f"tenant-{user % TENANTS}",
        "user": {"id": f"user-{user}"},
        "order": order,
    }


def _bodies(length: int, chance: random.Random) -> list[bytes]:
    """Returns texts of words: lz4 makes about half of a batch of them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(2000)]
    texts = (" ".join(chance.choices(words, k=length // 4 + 1)) for _ in range(BODIES))
    return [text[:length].encode() for text in texts]


def produce_all(producer: Any, topic: str, records: list[Record]) -> None:
    """Hands all records to the producer; waits while its queue is full."""
    batch: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in records]
    while batch:
        producer.produce_batch(topic, batch)
        batch = [entry for entry in batch if entry.pop("_error", None) is not None]
        producer.poll(0.05 if batch else 0)


def flush(producer: Any) -> None:
    """Returns when the broker has everything; raises ForeshardError."""
    if producer.flush(120):
        raise ForeshardError("the broker did not take the benchmark's requests")


def key_bytes(value: dict[str, Any]) -> bytes:
    """Returns the key bytes of a parsed request: keyspace NUL field NUL field."""
    rule = TYPES[value[TYPE_FIELD]]
    parts = [rule.keyspace]
    for path in rule.key:
        found: Any = value
        for name in path.split("."):
            found = found[name]
        parts.append(str(found))
    return "\0".join(parts).encode()


def shard_and_slot(value: dict[str, Any], shards: int) -> tuple[int, int]:
    """Returns (shard, global slot) of a parsed request."""
    shard, slot = place(np.array([hash_key(key_bytes(value))], dtype=np.uint64), shards)
    return int(shard[0]), int(slot[0])
