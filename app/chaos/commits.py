"""The history of the routers' committed offsets with their notes: what each take-over began with.

Read from the broker's own topic of offsets, which is in nobody's contract: only for whoever has to
find out why a request was lost or repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Message

from app.chaos.readers import read_to_end
from schemas.errors import InvalidRecordError
from streams.core.offset_note import decode_note

OFFSETS_TOPIC = "__consumer_offsets"
OFFSETS_PARTITIONS = 4  # of the local broker
OFFSET_KEYS = (0, 1)
"""Versions of a key that stands for a committed offset; others stand for members of groups."""


@dataclass(frozen=True)
class Commit:
    """One committed offset."""

    timestamp_ms: int
    topic: str
    partition: int
    offset: int
    metadata: str

    def to_json(self) -> bytes:
        """Returns one line; held slots as `from: [first slot, ...]`."""
        row: dict[str, Any] = {
            "ms": self.timestamp_ms,
            "place": f"{self.topic}[{self.partition}]@{self.offset}",
        }
        try:
            note = decode_note(self.metadata)
        except InvalidRecordError as error:
            return orjson.dumps(row | {"note": str(error), "metadata": self.metadata})
        if note is not None:
            row |= {"settled": note.settled, "newest": note.newest, "position": note.position}
            row["held"] = {str(group.from_offset): list(group.slots) for group in note.held}
        return orjson.dumps(row)


def read_commits(kafka: Mapping[str, Any], group: str) -> Iterator[Commit]:
    """Yields what a group has committed, per partition in order."""
    found: list[Message] = []
    read_to_end(kafka, {OFFSETS_TOPIC: OFFSETS_PARTITIONS}, found.append)
    for message in found:
        key, value = message.key(), message.value()
        if isinstance(key, bytes) and isinstance(value, bytes):
            commit = _decoded(key, value, group)
            if commit is not None:
                yield commit


def _decoded(key: bytes, value: bytes, group: str) -> Commit | None:
    """Returns the offset that a record stands for; None where it is another group's, or something else."""
    (version,) = struct.unpack_from(">h", key)
    if version not in OFFSET_KEYS:
        return None
    name, place = _text(key, 2)
    topic, place = _text(key, place)
    if name != group:
        return None
    (partition,) = struct.unpack_from(">i", key, place)
    (layout, offset) = struct.unpack_from(">hq", value)
    start = 14 if layout >= 3 else 10  # from 3 on the leader's epoch comes before it
    metadata, place = _compact_text(value, start) if layout >= 4 else _text(value, start)
    (timestamp_ms,) = struct.unpack_from(">q", value, place)
    return Commit(
        timestamp_ms, topic, partition, offset, metadata.rstrip("\0")
    )  # the client sends its end too


def _compact_text(data: bytes, place: int) -> tuple[str, int]:
    """Returns a text with an unsigned varint of its length + 1 before it, and the place after it."""
    length = shift = 0
    while True:
        byte = data[place]
        place, length, shift = place + 1, length | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return data[place : place + length - 1].decode(), place + length - 1


def _text(data: bytes, place: int) -> tuple[str, int]:
    """Returns a text with its length before it, and the place after it."""
    (length,) = struct.unpack_from(">h", data, place)
    return data[place + 2 : place + 2 + length].decode(), place + 2 + length
