"""The judge's own eyes: readers of whole topics without a group, read_committed, and of groups' progress."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from app.chaos.judge import ASKED, VISIBLE, Rows
from app.chaos.traffic import identity
from schemas.errors import BrokerUnreachableError

READ_S = 300.0
"""Seconds until a whole topic must have been read: a million records take ten."""
ASK_S = 10.0
BATCH = 10_000
HEADER_MAPPING = "foreshard-mapping"
OUR_HEADERS = "foreshard-"
"""How the names of the headers begin that routers add."""

Place = tuple[str, int]
"""(topic, partition)"""


def read_to_end(kafka: Mapping[str, Any], topics: Mapping[str, int], take: Callable[[Message], None]) -> None:
    """Gives `take` every committed record of the topics (name -> partitions), up to the ends of now.

    The ends are high watermarks: a committed transaction whose markers are under way is waited for.
    """
    ends = high_watermarks(kafka, topics)
    ours = {
        "group.id": "chaos-judge",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }
    consumer = Consumer(dict(kafka) | ours)
    consumer.assign([TopicPartition(topic, number, 0) for topic, number in ends])
    deadline = time.monotonic() + READ_S
    open_ = {place for place, end in ends.items() if end}
    try:
        while open_:
            if time.monotonic() > deadline:
                raise BrokerUnreachableError(f"{sorted(open_)} not read to the end within {READ_S:.0f} s")
            for message in consumer.consume(BATCH, 0.2):
                if message.error() is None:
                    take(message)
            places = [TopicPartition(topic, number) for topic, number in open_]
            open_ -= {
                (place.topic, place.partition)
                for place in consumer.position(places)
                if place.offset >= ends[place.topic, place.partition]
            }
    finally:
        consumer.close()


def high_watermarks(kafka: Mapping[str, Any], topics: Mapping[str, int]) -> dict[Place, int]:
    """Returns the end of each partition, open transactions included."""
    places = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
    admin = AdminClient(dict(kafka))  # by name: an answer never comes once it is collected
    asked = admin.list_offsets(
        {place: OffsetSpec.latest() for place in places},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=ASK_S,
    )
    return {(place.topic, place.partition): int(found.result(ASK_S).offset) for place, found in asked.items()}


def committed(kafka: Mapping[str, Any], group: str, topics: Mapping[str, int]) -> dict[Place, int]:
    """Returns a group's committed offsets; 0 where it has none, or the broker does not answer."""
    ours = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    places = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
    consumer = Consumer(dict(kafka) | ours)
    try:
        found = consumer.committed(places, timeout=ASK_S)
    except KafkaException:
        return {(place.topic, place.partition): 0 for place in places}
    finally:
        consumer.close()
    return {(place.topic, place.partition): max(0, place.offset) for place in found}


@dataclass
class AskedReader:
    """Gathers the ingest topic."""

    rows: list[tuple[int, ...]] = field(default_factory=list)

    def take(self, message: Message) -> None:
        number, seq = identity(message.headers())
        place = (message.partition() or 0, message.offset() or 0)
        self.rows.append((number << 32 | seq, *place, *_content(message)))

    def table(self) -> Rows:
        return np.array(self.rows, dtype=ASKED)


@dataclass
class VisibleReader:
    """Gathers the clusters' topics and the dead-letter topic."""

    topics: Sequence[str]
    rows: list[tuple[int, ...]] = field(default_factory=list)
    last: dict[Place, int] = field(default_factory=dict)
    """Offset of the last record of each partition that has one."""

    def __post_init__(self) -> None:
        self._index = {name: number for number, name in enumerate(self.topics)}

    def take(self, message: Message) -> None:
        headers = message.headers()
        number, seq = identity(headers)
        topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        self.last[topic, partition] = offset
        code = number << 32 | seq
        place = (self._index[topic], partition, offset)
        self.rows.append((code, *place, _version(headers), *_content(message)))

    def table(self) -> Rows:
        return np.array(self.rows, dtype=VISIBLE)


def _content(message: Message) -> tuple[int, int]:
    """Returns a checksum of all that must pass unchanged, and the timestamp."""
    digest = zlib.crc32(message.key() or b"", zlib.crc32(message.value() or b""))
    headers: Any = message.headers()
    for name, value in headers or ():
        if not name.startswith(OUR_HEADERS):
            digest = zlib.crc32(value or b"", zlib.crc32(name.encode(), digest))
    return digest, message.timestamp()[1]


def _version(headers: Any) -> int:
    """Returns the mapping version by which a record was routed; 0 for a dead letter."""
    for name, value in headers or ():
        if name == HEADER_MAPPING:
            return int(value.partition(b".")[2])
    return 0
