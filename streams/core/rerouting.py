"""What a rescue makes of the requests in a dead cluster's topic: the same, by the current mapping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, BadRequestError
from streams.core.keys import KeyReader, place
from streams.core.mapping import Snapshot
from streams.core.routing import HEADER_MAPPING, HEADER_SHARD, HEADER_TYPE, Header, Outgoing, Request

OURS = frozenset({HEADER_SHARD, HEADER_TYPE, HEADER_MAPPING})
"""Headers that a router added when it forwarded the request: they say where it was to go then."""


class Rerouting:
    """One snapshot of the mapping, ready to say where requests go. Its topic is that of the dead cluster."""

    def __init__(self, snapshot: Snapshot, reader: KeyReader, topic: str, dead_letter: str) -> None:
        self._snapshot = snapshot
        self._reader = reader
        self._topic = topic
        self._dead_letter = dead_letter
        self._version = f"{snapshot.epoch}.{snapshot.version}".encode()

    def outgoing(self, batch: Sequence[Request]) -> tuple[list[Outgoing], int]:
        """Returns what is written for a batch, in its order, and how many of that are dead letters.

        Value, key, timestamp and the user's headers are as they were, ours are new. A request whose
        key cannot be read (by rules accepted since, say) becomes a dead letter that says why.
        """
        made: list[Outgoing] = []
        letters = 0
        for record in batch:
            headers = _users(record.headers() or ())
            try:
                _series, digest, type_name = self._reader.read(record.value(), record.key(), headers)
            except BadRequestError as error:
                letters += 1
                made.append(self._letter(record, headers, error))
            else:
                made.append(self._forwarded(record, headers, digest, type_name))
        return made, letters

    def _forwarded(self, record: Request, headers: list[Header], digest: int, type_name: str) -> Outgoing:
        snapshot = self._snapshot
        shards, slots = place(np.array([digest], dtype=np.uint64), snapshot.shards)
        slot = int(slots[0])
        cluster = snapshot.clusters[snapshot.owner(slot)]
        ours: list[Header] = [
            (HEADER_SHARD, b"%d" % shards[0]),
            (HEADER_TYPE, type_name.encode()),
            (HEADER_MAPPING, self._version),
        ]
        where = cluster.topic, slot % cluster.partitions
        return where[0], record.value(), record.key(), where[1], _stamp(record), [*headers, *ours]

    def _letter(self, record: Request, headers: list[Header], error: BadRequestError) -> Outgoing:
        ours: list[Header] = [
            (HEADER_ERROR, error.bad.value.encode()),
            (HEADER_REASON, str(error).encode(errors="replace")),
            (HEADER_SOURCE, f"{self._topic}[{record.partition()}]@{record.offset()}".encode()),
        ]
        return self._dead_letter, record.value(), record.key(), -1, _stamp(record), [*headers, *ours]


def _users(headers: Sequence[Header]) -> list[Header]:
    """Returns the headers without the newest of each of ours: older ones came with the request."""
    kept: list[Header] = []
    left = set(OURS)
    for name, value in reversed(headers):
        if name in left:
            left.remove(name)
        else:
            kept.append((name, value))
    return kept[::-1]


def _stamp(record: Request) -> int:
    """Returns the record's time in ms; 0, which is now, where it has none."""
    return max(record.timestamp()[1], 0)
