"""How far the routers are: the settled version that each ingest partition has in its offset's note."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import InvalidRecordError
from streams.core.offset_note import OffsetNote, decode_note
from streams.kafka_settings import EVERY_CLIENT, PRODUCER_ONLY

log = logging.getLogger(__name__)

READ_S = 1.0
"""Wall seconds between two readings, at most: what a handoff takes on a healthy cluster."""
REQUEST_TIMEOUT_S = 5.0
"""Longest wait for the broker's answer; a reading that takes longer is skipped, not waited for."""


@dataclass(frozen=True)
class RoutersGroup:
    """The consumer group of the routers and what it reads."""

    group: str
    topic: str
    partitions: int


@dataclass(frozen=True)
class Notes:
    """One reading of the notes beside the group's committed offsets."""

    settled: Mapping[int, int]
    """Ingest partition -> settled mapping version; 0 without an offset, a note, or one that can be read."""
    held_slots: int
    """Slots of which routers hold requests."""
    unreadable: Mapping[int, str]
    """Ingest partition -> what is wrong with its note."""


def read_notes(consumer: Consumer, routers: RoutersGroup) -> Notes:
    """Returns the notes that are durable; raises KafkaException where no broker answers in time.

    `consumer` is of the routers' group and never subscribed, so it is no member. It reads
    uncommitted: an offset of an open transaction is not waited for, the one before it counts.
    """
    places = [TopicPartition(routers.topic, number) for number in range(routers.partitions)]
    settled = dict.fromkeys(range(routers.partitions), 0)
    held: set[int] = set()
    unreadable = {}
    for place in consumer.committed(places, timeout=REQUEST_TIMEOUT_S):
        if place.error is not None:
            raise KafkaException(place.error)
        note: OffsetNote | None = None
        try:
            note = decode_note(place.metadata) if place.offset >= 0 else None
        except InvalidRecordError as error:
            unreadable[place.partition] = str(error)
        if note is not None:
            settled[place.partition] = note.settled
            held.update(slot for group in note.held for slot in group.slots)
    return Notes(settled, len(held), unreadable)


def asking_consumer(kafka: Mapping[str, Any], group: str) -> Consumer:
    """Returns a consumer that only asks for what a group has committed.

    `AdminClient.list_consumer_group_offsets` would abort the process while the broker is away.
    """
    own = {name: value for name, value in kafka.items() if name not in PRODUCER_ONLY}
    ours = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    return Consumer(EVERY_CLIENT | own | ours)


class SettledWatcher:
    """A thread that reads the settled versions, at once and then again and again."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        routers: RoutersGroup,
        interval_s: float,
        deliver: Callable[[Notes], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._kafka = dict(kafka)
        self._routers = routers
        self._interval_s = min(interval_s, READ_S)
        self._deliver = deliver
        self._on_failure = on_failure
        self._warned: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settled", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Asks the thread to end and waits for it at most `timeout_s`."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            consumer = asking_consumer(self._kafka, self._routers.group)
            try:
                while not self._ended.is_set():
                    self._read(consumer)
                    self._ended.wait(self._interval_s)
            finally:
                consumer.close()
        except Exception as error:  # noqa: BLE001 - a thread that dies unseen would hold all moves back
            self._on_failure(error)

    def _read(self, consumer: Consumer) -> None:
        try:
            notes = read_notes(consumer, self._routers)
        except KafkaException as error:
            log.debug("settled versions not read: %s", error)
            return
        for partition, reason in notes.unreadable.items():
            if partition not in self._warned:
                self._warned.add(partition)
                place = f"{self._routers.topic}[{partition}] of group {self._routers.group}"
                log.warning("%s counts as not settled: %s", place, reason)
        self._deliver(notes)
