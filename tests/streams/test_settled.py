"""Settled versions as the balancer reads them, on a real broker: durable notes only, nothing else counts."""

from __future__ import annotations

import logging
import queue

import pytest
from confluent_kafka import Consumer, TopicPartition

from app.local_kafka import LocalKafka
from streams.core.offset_note import Held, OffsetNote, encode_note
from streams.settled import Notes, RoutersGroup, SettledWatcher, asking_consumer, read_notes
from tests.streams.broker import WAIT_S, kafka_of, make_topic, transactions, until

pytestmark = pytest.mark.broker


def note(settled: int, *held: int) -> str:
    groups = (Held(7, tuple(held)),) if held else ()
    return encode_note(OffsetNote(settled, settled + 2, 9, "e3" * 32, groups))


class Fixture:
    """The ingest topic and the routers' group of one test."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int) -> None:
        self.kafka = kafka_of(bootstrap)
        self.routers = RoutersGroup(
            f"{prefix}.r", make_topic(bootstrap, f"{prefix}.in", partitions), partitions
        )
        self.readings: queue.Queue[Notes] = queue.Queue()
        self.failures: list[BaseException] = []

    def place(self, partition: int, offset: int, metadata: str = "") -> TopicPartition:
        return TopicPartition(self.routers.topic, partition, offset, metadata)

    def commit(self, *places: TopicPartition) -> None:
        """Commits as a router would that is no member."""
        consumer = Consumer(self.kafka | {"group.id": self.routers.group})
        consumer.commit(offsets=list(places), asynchronous=False)
        consumer.close()

    def watcher(self) -> SettledWatcher:
        return SettledWatcher(self.kafka, self.routers, 0.05, self.readings.put, self.failures.append)

    def read(self) -> Notes:
        consumer = asking_consumer(self.kafka, self.routers.group)
        try:
            return read_notes(consumer, self.routers)
        finally:
            consumer.close()


def test_every_partition_has_the_version_of_its_note_or_none(
    kafka: LocalKafka, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No offset, an offset without a note, a foreign note: 0. The foreign one is warned about once."""
    given = Fixture(kafka.bootstrap, prefix, 4)
    given.commit(given.place(0, 10, note(41)), given.place(1, 10), given.place(2, 10, "spark:7"))
    with caplog.at_level(logging.WARNING, logger="streams.settled"):
        watcher = given.watcher()
        watcher.start()
        seen = [given.readings.get(timeout=WAIT_S) for _ in range(3)]
        given.commit(given.place(3, 0, note(7, 1, 2, 300)), given.place(0, 11))
        while (newest := given.readings.get(timeout=WAIT_S)).settled == seen[0].settled:
            pass
        watcher.stop()
    assert seen[0].settled == {0: 41, 1: 0, 2: 0, 3: 0}
    assert list(seen[0].unreadable) == [2]
    assert (newest.settled, newest.held_slots) == ({0: 0, 1: 0, 2: 0, 3: 7}, 3)
    assert len(caplog.records) == 1
    assert f"{given.routers.topic}[2] of group {given.routers.group} counts as not settled" in caplog.text
    assert given.failures == []


def test_a_note_counts_once_its_transaction_has_ended(kafka: LocalKafka, prefix: str) -> None:
    """What trims `previous` must be durable: an open transaction's note is not, and is not waited for."""
    given = Fixture(kafka.bootstrap, prefix, 1)
    given.commit(given.place(0, 10, note(3)))
    member = Consumer(given.kafka | {"group.id": given.routers.group})
    producer = transactions(kafka.bootstrap, f"{prefix}.t")
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [given.place(0, 20, note(5))], member.consumer_group_metadata(), WAIT_S
    )
    assert given.read().settled == {0: 3}
    producer.abort_transaction(WAIT_S)
    assert given.read().settled == {0: 3}
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [given.place(0, 20, note(6))], member.consumer_group_metadata(), WAIT_S
    )
    producer.commit_transaction(WAIT_S)
    until(lambda: given.read().settled == {0: 6}, "the committed note")
    member.close()
