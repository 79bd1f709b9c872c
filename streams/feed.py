"""Kafka consumer threads that hand messages to a callback, without a group or with one.

A feed without a group reads every partition of its topics and knows when it has caught up: position
has reached the end offsets taken at the start. (Waiting for a certain record would not do:
transaction markers and compaction leave offsets without one.) A feed with a group is how one of
several processes is elected: the owner of a topic's only partition leads.

What a callback raises, and a topic that is missing, ends the feed and is handed to `on_failure`,
once. A broker that is away is waited for, without a word.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.errors import TopicError
from streams.kafka_settings import EVERY_CLIENT, PRODUCER_ONLY
from streams.membership import leave_group

BATCH = 1000
"""Messages per delivery, at most: keeps one delivery well under a second."""
POLL_S = 0.2
"""Wall seconds an idle feed waits before it looks whether it is to stop."""
ASK_S = 5.0
"""Wall seconds one question to the broker may take before it is asked again."""
COMMIT_S = 10.0
"""Wall seconds a commit may take, a delivery that is under way included."""
OPEN_TRANSACTION_S = 2.0
"""Wall seconds to wait for the end of a transaction: the marker of a committed one takes milliseconds,
an open one may never end. (So the end is the high watermark, not the last stable offset: that may
still lie before a transaction whose commit has been confirmed.)"""
NEW_TOPIC_S = 5.0
"""Wall seconds for a topic that was made a moment ago to become known."""

Starts = Mapping[str, Literal["beginning"] | dict[int, int]]
Place = tuple[str, int]
"""(topic, partition)"""


def consumer_settings(kafka: Mapping[str, Any], group: str, **needed: Any) -> dict[str, Any]:
    """Returns the settings of a consumer: `kafka` wins over defaults, what is needed over `kafka`."""
    own = {name: value for name, value in kafka.items() if name not in PRODUCER_ONLY}
    return (
        EVERY_CLIENT
        | own
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
        | {name.replace("_", "."): value for name, value in needed.items()}
    )


class _Gate:
    """What is still to be read before a feed has caught up."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._ends: dict[Place, int] = {}
        self._stuck: dict[Place, float] = {}
        """Since when (monotonic) a partition ends, to a reader of committed records, below its end."""

    def expect(self, ends: Mapping[Place, int]) -> None:
        self._ends.update(ends)

    def drop(self, places: Sequence[Place]) -> None:
        for place in places:
            self._ends.pop(place, None)
            self._stuck.pop(place, None)

    def passed(self, consumer: Consumer, eofs: Mapping[Place, int]) -> bool:
        """Returns whether everything expected has now been read, but for what is in open transactions."""
        now = time.monotonic()
        if self._ends:
            asked = [TopicPartition(topic, number) for topic, number in self._ends]
            for found in consumer.position(asked):
                place = (found.topic, found.partition)
                if place in eofs:
                    self._stuck[place] = now
                stuck_s = now - self._stuck.get(place, now)
                reached = max(found.offset, eofs.get(place, OFFSET_INVALID))
                if reached >= self._ends[place] or stuck_s > OPEN_TRANSACTION_S:
                    del self._ends[place]
        return not self._ends


class _ConsumerThread(ABC):
    """One thread around one consumer: opened, read and closed there."""

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        deliver: Callable[[list[Message]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self._settings = settings
        self._deliver = deliver
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed-{name}", daemon=True)
        self._gate = _Gate()

    @property
    def caught_up(self) -> threading.Event:
        """Set once everything that was there at the start (of the assignment) has been delivered."""
        return self._gate.open

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Ends the thread; returns whether it has ended in time (a delivery may be blocking it)."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            consumer = Consumer(self._settings)
            try:
                self._open(consumer)
                while not self._stopping.is_set():
                    self._step(consumer)
            finally:
                self._close(consumer)
        except BaseException as error:  # noqa: BLE001 - nobody else would notice that this thread ended
            self._on_failure(error)

    @abstractmethod
    def _open(self, consumer: Consumer) -> None:
        """Assigns or subscribes; may wait for a broker."""

    @abstractmethod
    def _topics(self) -> Sequence[str]:
        """Returns what is read."""

    def _on_caught_up(self) -> None:  # noqa: B027 - most feeds do nothing here
        """What happens in the thread just before `caught_up` is set."""

    def _close(self, consumer: Consumer) -> None:
        """Closes the consumer, in the thread."""
        consumer.close()

    def _step(self, consumer: Consumer) -> None:
        """Reads what is there, up to a batch, and delivers it."""
        found = consumer.consume(1, POLL_S)
        if found:
            found += consumer.consume(BATCH - 1, 0)
        messages, eofs = [], {}
        for message in found:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                eofs[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0)
            else:
                self._check(consumer, error)
        if messages:
            self._deliver(messages)
        if not self._gate.open.is_set() and self._ready_to_catch_up() and self._gate.passed(consumer, eofs):
            self._on_caught_up()
            self._gate.open.set()

    def _ready_to_catch_up(self) -> bool:
        return True

    def _check(self, consumer: Consumer, error: KafkaError) -> None:
        """Raises where an error event means that reading cannot go on; others pass by themselves."""
        if error.fatal() or error.code() in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            raise KafkaException(error)
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            for topic in self._topics():
                self._partitions(consumer, topic)

    def _partitions(self, consumer: Consumer, topic: str) -> list[int]:
        """Returns the topic's partitions once a broker answers; TopicError where it has none.

        Returns nothing where the feed is to stop.
        """
        tries = int(NEW_TOPIC_S / POLL_S)
        while not self._stopping.is_set():
            try:
                described = consumer.list_topics(topic, timeout=ASK_S).topics[topic]
            except KafkaException:
                self._stopping.wait(POLL_S)
                continue
            if described.partitions:
                return sorted(described.partitions)
            tries -= 1
            if tries < 0:
                reason = described.error.str() if described.error else "it has no partitions"
                raise TopicError(f"feed {self.name}: topic {topic}: {reason}; run `foreshard topics create`")
            self._stopping.wait(POLL_S)
        return []

    def _bounds(self, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        """Returns (first offset, high watermark) per partition once a broker answers; {} to stop."""
        probe = Consumer(self._settings | {"isolation.level": "read_uncommitted"})
        found: dict[Place, tuple[int, int]] = {}
        try:
            while not self._stopping.is_set() and len(found) < len(places):
                place = places[len(found)]
                try:
                    found[place] = probe.get_watermark_offsets(TopicPartition(*place), timeout=ASK_S)
                except KafkaException:
                    self._stopping.wait(POLL_S)
        finally:
            probe.close()
        return found if len(found) == len(places) else {}


class Feed(_ConsumerThread):
    """Reads every partition of its topics without a group, from given offsets on.

    `starts` maps each topic to "beginning" or to the first offset per partition (a partition that is
    not in it is read from its beginning). `deliver` gets up to 1,000 messages in the order of each
    partition, in the feed's thread; while it blocks, nothing more is read.
    """

    def __init__(
        self,
        name: str,
        kafka: dict[str, Any],
        starts: Starts,
        deliver: Callable[[list[Message]], None],
        *,
        on_failure: Callable[[BaseException], None],
        on_caught_up: Callable[[], None] | None = None,
    ) -> None:
        settings = consumer_settings(kafka, f"foreshard-feed-{name}")
        super().__init__(name, settings, deliver, on_failure)
        self._starts = dict(starts)
        self._caught_up_callback = on_caught_up

    def _topics(self) -> Sequence[str]:
        return list(self._starts)

    def _open(self, consumer: Consumer) -> None:
        places = [(topic, number) for topic in self._starts for number in self._partitions(consumer, topic)]
        assigned = []
        for (topic, number), (low, end) in self._bounds(places).items():
            start = self._starts[topic]
            first = low if start == "beginning" else max(low, start.get(number, low))
            if first < end:
                self._gate.expect({(topic, number): end})
            assigned.append(TopicPartition(topic, number, OFFSET_BEGINNING if first == low else first))
        consumer.assign(assigned)

    def _on_caught_up(self) -> None:
        if self._caught_up_callback is not None:
            self._caught_up_callback()


class GroupFeed(_ConsumerThread):
    """Reads topics as a member of a group; nothing is committed but by `commit`.

    Callbacks run in the feed's thread. `on_assigned` gets the new partitions and may set the offset
    at which each is to be read (else: the committed one, or the beginning). `on_revoked`: given back
    in order. `on_lost`: another member may own them already. `caught_up` is set when all that was
    there at the assignment has been delivered, and cleared when partitions go.
    """

    def __init__(  # noqa: PLR0913 - four callbacks, each with a name of its own
        self,
        name: str,
        kafka: dict[str, Any],
        group: str,
        topics: Sequence[str],
        deliver: Callable[[list[Message]], None],
        *,
        on_assigned: Callable[[list[TopicPartition]], None],
        on_revoked: Callable[[], None],
        on_lost: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        # 10 s: how long a dead leader may go unnoticed. Sticky: a newcomer does not take its partition.
        settings = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000} | kafka
        settings = consumer_settings(settings, group, partition_assignment_strategy="cooperative-sticky")
        super().__init__(name, settings, deliver, on_failure)
        self._subscribed = list(topics)
        self._callbacks = (on_assigned, on_revoked, on_lost)
        self._owned: set[Place] = set()
        self._consumer: Consumer | None = None
        self._commits: queue.SimpleQueue[tuple[list[TopicPartition], Future[bool]]] = queue.SimpleQueue()

    def _topics(self) -> Sequence[str]:
        return self._subscribed

    def _ready_to_catch_up(self) -> bool:
        return bool(self._owned)

    def _open(self, consumer: Consumer) -> None:
        for topic in self._subscribed:
            self._partitions(consumer, topic)
        self._consumer = consumer
        consumer.subscribe(
            self._subscribed, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        self._callbacks[0](partitions)
        self._gate.open.clear()
        places = [(partition.topic, partition.partition) for partition in partitions]
        bounds = self._bounds(places)
        for place, partition in zip(places, partitions, strict=True):
            low, end = bounds.get(place, (0, 0))
            if self._first(consumer, partition, low) < end:
                self._gate.expect({place: end})
        self._owned.update(places)
        consumer.incremental_assign(partitions)

    def _first(self, consumer: Consumer, partition: TopicPartition, low: int) -> int:
        """Returns the offset at which reading will start."""
        if partition.offset >= 0:
            return max(low, partition.offset)
        while not self._stopping.is_set():
            try:
                committed = consumer.committed([partition], timeout=ASK_S)[0]
            except KafkaException:
                self._stopping.wait(POLL_S)
                continue
            partition.offset = committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
            return max(low, committed.offset)
        return low

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(partitions)
        self._callbacks[1]()

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(partitions)
        self._callbacks[2]()

    def _gone(self, partitions: list[TopicPartition]) -> None:
        places = [(partition.topic, partition.partition) for partition in partitions]
        self._owned.difference_update(places)
        self._gate.drop(places)
        self._gate.open.clear()

    def commit(self, offsets: Mapping[Place, int]) -> bool:
        """Commits the next offset to read of each partition; waits for the broker's answer.

        The feed's thread does it between two deliveries (librdkafka's commit hangs beside a running
        consume): never wait for it in what a delivery waits for. Returns False where it did not
        succeed: the partition is another's by now, or no broker answered. What was delivered since
        the last commit is then delivered again, to somebody.
        """
        wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        if threading.current_thread() is self._thread:
            return self._commit_now(wanted)
        answer: Future[bool] = Future()
        self._commits.put((wanted, answer))
        if not self._thread.is_alive():
            self._refuse_commits()
        try:
            return answer.result(COMMIT_S)
        except TimeoutError:
            return False

    def _step(self, consumer: Consumer) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                wanted, answer = self._commits.get_nowait()
                answer.set_result(self._commit_now(wanted))
        super()._step(consumer)

    def _commit_now(self, wanted: list[TopicPartition]) -> bool:
        if self._consumer is None or not {(part.topic, part.partition) for part in wanted} <= self._owned:
            return False
        try:
            done = self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException:
            return False
        return all(partition.error is None for partition in done or [])

    def _close(self, consumer: Consumer) -> None:
        leave_group(consumer, static="group.instance.id" in self._settings)
        self._consumer = None
        self._refuse_commits()

    def _refuse_commits(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._commits.get_nowait()[1].set_result(False)
