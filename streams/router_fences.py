"""What a router asks the broker about the clusters' topics: progress of their groups, ends, tails.

Committed offsets come from never-subscribed consumers of the clusters' groups, in the unstable view:
older at worst, and it never blocks. (`AdminClient.list_consumer_group_offsets` would end the process
while the broker is away.)
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.records import MappedCluster
from streams.core.fences import NOTHING
from streams.groups import admin_client
from streams.kafka_settings import EVERY_CLIENT, PRODUCER_ONLY
from streams.one_thread import OneThread

log = logging.getLogger(__name__)

ASK_S = 3.0
"""Longest wait for one answer; a question that nobody answers is asked again."""

WAITED_S = 0.05
"""Seconds between two looks at a group that a slot waits for: half of what the fastest commit interval
of backends (0.1 s) adds to a hold."""

IDLE_S = 1.0
"""Seconds between two looks at a group that nothing waits for just now."""

FORGET_S = 60.0
"""Seconds after which a group that nothing waited for is no longer looked at: each costs some threads."""

STARTS_S = 5.0
"""Seconds between two looks at the log starts of a topic: retention moves them by minutes."""

TAIL_RECORDS = 200
"""Offsets before the end that are read first; further back where they hold no record."""

TAIL_S = 2.0
"""Longest read of one tail; an open transaction below the end makes it longer: then it is read again."""

NO_COMMIT_S = 10.0
"""Seconds that a slot may wait for a group without any committed offset before we say so."""

Place = tuple[str, int]
"""(topic, partition)"""


@dataclass(frozen=True)
class Reading:
    """How far one cluster's group is: committed offset per partition, the log start where that is higher."""

    number: int
    offsets: tuple[int, ...]
    any_commit: bool


def read_ends(admin: AdminClient, clusters: Mapping[int, MappedCluster]) -> dict[int, list[int]]:
    """Returns number of a cluster -> end of each partition of its topic; raises KafkaException.

    The ends of everything written, open transactions included: the last stable offset may still lie
    before a transaction whose commit has been confirmed.
    """
    places = [
        TopicPartition(cluster.topic, partition)
        for cluster in clusters.values()
        for partition in range(cluster.partitions)
    ]
    if not places:
        return {}
    ends = _offsets(admin, places, OffsetSpec.latest())
    return {
        number: [ends[cluster.topic, partition] for partition in range(cluster.partitions)]
        for number, cluster in clusters.items()
    }


def _offsets(admin: AdminClient, places: list[TopicPartition], which: OffsetSpec) -> dict[Place, int]:
    asked = admin.list_offsets(
        dict.fromkeys(places, which), isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ASK_S
    )
    try:
        return {
            (place.topic or "", place.partition or 0): future.result().offset
            for place, future in asked.items()
        }
    except KafkaException:
        # Of a topic that was missing once the client would go on to say so: all of them, read anew, help.
        admin.list_topics(timeout=ASK_S)
        raise


class GroupWatch:
    """A thread that reads how far the watched clusters' groups have committed."""

    def __init__(self, kafka: Mapping[str, Any], on_failure: Callable[[BaseException], None]) -> None:
        self._kafka = {k: v for k, v in kafka.items() if k not in PRODUCER_ONLY}
        self._admin = admin_client(kafka)
        self._on_failure = on_failure
        self._clusters: Mapping[int, MappedCluster] = {}
        self._awaited: frozenset[int] = frozenset()
        self._consumers: dict[int, Consumer] = {}
        self._starts: dict[int, tuple[float, list[int]]] = {}
        self._looked: dict[int, float] = {}
        self._wanted: dict[int, float] = {}
        """Number of a cluster -> when something waited for it last."""
        self._silent: dict[int, float] = {}
        """Number of a cluster that is waited for and has committed nothing -> since when."""
        self._found: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="groups", daemon=True)

    def start(self) -> None:
        """Starts to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread soon, without waiting for it."""
        self._stopped = True
        self._wake.set()

    def watch(self, clusters: Mapping[int, MappedCluster], awaited: frozenset[int]) -> None:
        """Replaces what is watched, by number, and which of them something waits for."""
        self._clusters = clusters
        if awaited != self._awaited:
            self._awaited = awaited
            self._wake.set()

    def forget(self, number: int) -> None:
        """Drops what is known of a cluster's topic: it was made again."""
        self._starts.pop(number, None)
        self._looked.pop(number, None)
        self.take()

    def take(self) -> list[Reading]:
        """Returns what was read since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._found.get_nowait())
        return found

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._look()
                self._wake.wait(WAITED_S if self._awaited else IDLE_S)
                self._wake.clear()
            self._close(set(self._wanted))
        except Exception as error:  # noqa: BLE001 - a thread that dies unseen would hold slots for ever
            self._on_failure(error)

    def _look(self) -> None:
        """Reads every group that is waited for, and once in IDLE_S those that were lately."""
        now = time.monotonic()
        clusters, awaited = self._clusters, self._awaited
        self._wanted.update(dict.fromkeys(awaited, now))
        self._close({n for n, since in self._wanted.items() if now - since > FORGET_S or n not in clusters})
        late = {n for n in self._wanted if now - self._looked.get(n, -IDLE_S) >= IDLE_S}
        for number in sorted(awaited & set(clusters)) + sorted(late - awaited):
            reading = self._read(number, clusters[number])
            if reading is not None:
                self._looked[number] = time.monotonic()
                self._found.put(reading)
                self._tell(reading, clusters[number])
            if self._stopped:
                return

    def _close(self, numbers: set[int]) -> None:
        """Ends to look at some groups: how far they are is unknown from now on."""
        for number in numbers:
            del self._wanted[number]
            consumer = self._consumers.pop(number, None)
            if consumer is not None:
                consumer.close()
            if number in self._clusters:
                self._found.put(Reading(number, (NOTHING,) * self._clusters[number].partitions, True))

    def _read(self, number: int, cluster: MappedCluster) -> Reading | None:
        """Returns one reading, None while the broker does not answer."""
        places = [TopicPartition(cluster.topic, partition) for partition in range(cluster.partitions)]
        try:
            starts = self._log_starts(number, places)
            answers = self._consumer(number, cluster.group).committed(places, timeout=ASK_S)
        except KafkaException as failure:
            log.debug("progress of %s: %s", cluster.group, failure)
            return None
        committed = {answer.partition: answer.offset for answer in answers if answer.error is None}
        if len(committed) < len(places):
            return None
        offsets = tuple(max(committed[number], start) for number, start in enumerate(starts))
        return Reading(number, offsets, any(offset >= 0 for offset in committed.values()))

    def _log_starts(self, number: int, places: list[TopicPartition]) -> list[int]:
        at, starts = self._starts.get(number, (-STARTS_S, []))
        if time.monotonic() - at >= STARTS_S:
            found = _offsets(self._admin, places, OffsetSpec.earliest())
            starts = [found[place.topic, place.partition] for place in places]
            self._starts[number] = (time.monotonic(), starts)
        return starts

    def _tell(self, reading: Reading, cluster: MappedCluster) -> None:
        """Says once that slots wait for a group that commits nothing: they would wait for ever."""
        if reading.any_commit or reading.number not in self._awaited:
            self._silent.pop(reading.number, None)
            return
        since = self._silent.setdefault(reading.number, time.monotonic())
        if 0 < since < time.monotonic() - NO_COMMIT_S:
            self._silent[reading.number] = float("inf")
            log.warning(
                "no-commit: slots wait for %s, but its group %s has no committed offset; start its consumer, "
                "or `foreshard clusters down` it",
                cluster.topic,
                cluster.group,
            )

    def _consumer(self, number: int, group: str) -> Consumer:
        if number not in self._consumers:
            own = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
            self._consumers[number] = Consumer(EVERY_CLIENT | self._kafka | own)
        return self._consumers[number]


class TailReader:
    """Finds the last record below an end, in a thread of its own: markers take offsets too."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = {k: v for k, v in kafka.items() if k not in PRODUCER_ONLY}
        self._consumer: Consumer | None = None
        self._thread = OneThread("tails")

    def ask(self, place: Place, committed: int, end: int) -> Future[int | None]:
        """Returns the future of the last record's offset in [committed, end), NOTHING where there is none.

        None where it cannot be told yet: an open transaction lies below the end, or no broker answers.
        """
        return self._thread.submit(lambda: self._read(place, committed, end))

    def end(self) -> None:
        """Ends the thread after what it has in hand; does not wait."""
        self._thread.submit(self._close)
        self._thread.end()

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _read(self, place: Place, committed: int, end: int) -> int | None:
        depth = TAIL_RECORDS
        while True:
            start = max(committed, end - depth)
            known, last = self._last_record(place, start, end)
            if not known or last is not None or start <= committed:
                return None if not known else NOTHING if last is None else last
            depth *= 16

    def _last_record(self, place: Place, start: int, end: int) -> tuple[bool, int | None]:
        """Returns (whether it is known, last offset in [start, end) of a committed record)."""
        consumer = self._own()
        topic, partition = place
        consumer.assign([TopicPartition(topic, partition, start)])
        last = None
        deadline = time.monotonic() + TAIL_S
        try:
            while time.monotonic() < deadline:
                for message in consumer.consume(1_000, 0.05):
                    error, offset = message.error(), message.offset() or 0
                    if error is None:
                        if offset >= end:
                            return True, last
                        last = offset
                    elif error.code() == KafkaError._PARTITION_EOF and offset >= end:
                        return True, last
        finally:
            consumer.unassign()
        return False, None

    def _own(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                EVERY_CLIENT
                | self._kafka
                | {
                    "group.id": "foreshard-tails",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 20,
                }
            )
        return self._consumer
