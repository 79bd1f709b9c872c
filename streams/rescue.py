"""Re-routes what waits in the topic of a cluster that is down, each request exactly once.

One transaction per batch holds the re-routed requests and the offsets of the dead cluster's group, so
a batch is moved whole or not at all, whoever is killed when. A fixed transactional id fences an older
rescuer before the offsets are read. The group must stay empty: the broker takes offsets from somebody
who is no member, but it would not stop a member that came back from reading the same requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas import topics
from schemas.errors import BrokerUnreachableError, RescueError
from schemas.records import MappedCluster
from streams.core.keys import KeyReader, KeyRules
from streams.core.mapping import Snapshot
from streams.core.rerouting import Rerouting
from streams.core.routing import Request
from streams.fenced_writer import ASK_S, FencedWriter, put
from streams.groups import admin_client, member_count, reading_consumer, unfinished

BATCH = 5_000
"""Requests per transaction: a transaction takes 4 ms, so a hundred times that is spent on requests."""
BATCH_BYTES = 8_000_000
"""Bytes of a batch after which nothing is added: memory stays bounded where requests are large."""
SLICE = 100
"""Messages asked for at a time: the most by which a batch may pass BATCH_BYTES."""
POLL_S = 0.2
CHECK_S = 1.0
"""Wall seconds between two looks at the members of the dead cluster's group."""
PATIENCE_S = 90.0
"""Wall seconds without a batch before a rescue gives up: an open transaction of a router that was killed
ends after 10 to 20 s, one of a foreign producer after a minute."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Errand:
    """What is to be rescued, and by which mapping."""

    cluster: MappedCluster
    snapshot: Snapshot
    rules: KeyRules
    prefix: str


class RescueTask:
    """One rescue. `run` is called in a thread of its own; the rest is for other threads."""

    def __init__(self, kafka: Mapping[str, Any], errand: Errand) -> None:
        self.requests = 0
        """Requests moved so far, dead letters included."""
        self.letters = 0
        """Those of them that became dead letters: their keys cannot be read."""
        self._kafka = dict(kafka)
        self._cluster = errand.cluster
        self._rerouting = Rerouting(
            errand.snapshot,
            KeyReader(errand.rules),
            errand.cluster.topic,
            errand.prefix + topics.DEAD_LETTER.name,
        )
        self._writer = writer(kafka, errand.prefix)
        self._admin = admin_client(kafka)
        self._stopped = threading.Event()
        self._got_on_at = time.monotonic()
        self._checked_at = 0.0

    def run(self) -> None:
        """Moves everything that waited when it began, a partition after the other.

        Raises RescueError where it must not or cannot go on, FencedError where another rescuer has
        begun. What was moved stays moved, and the next rescue goes on from there.
        """
        self._writer.take_over()
        consumer = reading_consumer(self._kafka, self._cluster.group)
        try:
            rest = self._insist(lambda: unfinished(consumer, self._admin, self._cluster))
            self._all(consumer, rest)
        finally:
            consumer.close()

    def stop(self) -> None:
        """Ends the rescue after the batch in hand."""
        self._stopped.set()
        self._writer.close()

    @property
    def stopped(self) -> bool:
        """Returns whether nobody waits for its end any more."""
        return self._stopped.is_set()

    @property
    def silent_s(self) -> float:
        """Returns the wall seconds since it last got on."""
        return time.monotonic() - self._got_on_at

    def _all(self, consumer: Consumer, rest: Mapping[int, tuple[int, int]]) -> None:
        """Moves everything from each partition's first offset on, at least up to its end."""
        topic = self._cluster.topic
        consumer.assign([TopicPartition(topic, number, start) for number, (start, _) in rest.items()])
        position = {number: start for number, (start, _) in rest.items()}
        while behind := [number for number, (_, end) in rest.items() if position[number] < end]:
            self._check()
            batch, reached = self._batch(consumer)
            reached = {number: offset for number, offset in reached.items() if offset > position[number]}
            if reached:
                self._move(consumer, batch, reached)
                position |= reached
                self._got_on_at = time.monotonic()
            elif self.silent_s > PATIENCE_S:
                place = f"{topic}[{behind[0]}]@{position[behind[0]]}"
                raise RescueError(f"nothing more could be read at {place}: a transaction is open there")

    def _batch(self, consumer: Consumer) -> tuple[list[Message], dict[int, int]]:
        """Returns the next requests, and partition -> offset that was reached with them."""
        batch: list[Message] = []
        reached: dict[int, int] = {}
        size = 0
        while len(batch) < BATCH and size < BATCH_BYTES:
            found = consumer.consume(SLICE, POLL_S)
            for message in found:
                error, number = message.error(), message.partition() or 0
                if error is None:
                    batch.append(message)
                    size += len(message.value() or b"") + len(message.key() or b"")
                    reached[number] = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    reached[number] = message.offset() or 0  # past the markers
                elif error.fatal() or not error.retriable():
                    raise RescueError(f"{self._cluster.topic} cannot be read: {error.str()}")
            if len(found) < SLICE:
                break
        return batch, reached

    def _move(self, consumer: Consumer, batch: list[Message], reached: Mapping[int, int]) -> None:
        """Writes a batch where it belongs now and commits for the dead group, in one transaction."""
        outgoing, letters = self._rerouting.outgoing(cast("list[Request]", batch))
        member = consumer.consumer_group_metadata()
        topic = self._cluster.topic
        offsets = [TopicPartition(topic, number, offset) for number, offset in reached.items()]

        def fill(producer: Producer) -> None:
            for topic, value, key, partition, stamp, headers in outgoing:
                put(producer, topic, value, key, partition, None, None, stamp, headers)

        self._writer.transact(
            fill, lambda producer: producer.send_offsets_to_transaction(offsets, member, ASK_S)
        )
        self.requests += len(batch)
        self.letters += letters

    def _check(self) -> None:
        """Raises RescueError where the rescue is to end, or somebody else reads what it moves."""
        if self._stopped.is_set():
            raise RescueError("this balancer does not lead any longer")
        now = time.monotonic()
        if now < self._checked_at + CHECK_S:
            return
        group = self._cluster.group
        members = self._insist(lambda: _known(member_count(self._admin, group), group))
        if members:
            raise RescueError(f"group {group} has members now ({members}); stop its backend, then ask again")
        self._checked_at = now

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        """Returns the answer to a question that is asked until the broker answers, or patience ends."""
        while True:
            try:
                return ask()
            except (KafkaException, BrokerUnreachableError) as error:
                if self._stopped.is_set() or self.silent_s > PATIENCE_S:
                    raise RescueError(f"no answer from the broker: {error}") from None
                self._stopped.wait(POLL_S)


def writer(kafka: Mapping[str, Any], prefix: str) -> FencedWriter:
    """Returns the writer of rescues; its `take_over` ends every older one."""
    return FencedWriter(kafka, f"{prefix}rescue")


def _known(members: int | None, group: str) -> int:
    if members is None:
        raise BrokerUnreachableError(f"the members of group {group} are not known")
    return members
