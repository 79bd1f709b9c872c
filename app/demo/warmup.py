"""Warms up a broker that was just started: a JVM compiles its busy paths only once they are busy.

A cold broker answers a transaction ten times as slowly as it does a minute later. Without this the first
pass would be measured on a cold broker and the second on a warm one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.demo.backends import PROPORTIONS
from app.demo.settings import CLUSTER_PARTITIONS

PARTITIONS = len(PROPORTIONS) * CLUSTER_PARTITIONS
"""Partitions that one transaction touches: as many as a router's does."""
PAUSE_S = 0.004
"""Wall seconds between transactions: leaves the processes that start meanwhile their CPU."""
TIMEOUT_S = 10.0
ENOUGH = 600
"""Transactions after which a small broker answers one in a few milliseconds."""
ALONE_S = 8.0
"""Wall seconds that the warm-up has for itself at most, before the processes start beside it."""


class WarmUp:
    """Writes and reads small transactions on a topic of its own, in a thread, from `with` to `stop`."""

    def __init__(self, kafka: dict[str, Any], topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)
        self._enough = threading.Event()
        self.transactions = 0

    def __enter__(self) -> WarmUp:
        """Returns when the broker is fairly warm, or `ALONE_S` are over; the thread goes on."""
        self._thread.start()
        self._enough.wait(ALONE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the thread; the topic goes too. A second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(TIMEOUT_S)
        admin = AdminClient(self._kafka)
        with contextlib.suppress(KafkaException):
            admin.delete_topics([self._topic])[self._topic].result(TIMEOUT_S)

    def _run(self) -> None:
        admin = AdminClient(self._kafka)
        admin.create_topics([NewTopic(self._topic, PARTITIONS, 1)])[self._topic].result(TIMEOUT_S)
        settings = {"transactional.id": self._topic, "linger.ms": 0, "retry.backoff.ms": 5, "log_level": 3}
        producer = Producer(self._kafka | settings)
        reader = {"group.id": self._topic, "isolation.level": "read_committed", "enable.auto.commit": False}
        consumer = Consumer(self._kafka | reader)
        consumer.assign([TopicPartition(self._topic, number, 0) for number in range(PARTITIONS)])
        try:
            producer.init_transactions(TIMEOUT_S)
            while not self._stop.is_set():
                self._transaction(producer, consumer)
                time.sleep(PAUSE_S)
        except KafkaException:
            return  # a broker that is not well shows itself in the pass
        finally:
            consumer.close()

    def _transaction(self, producer: Producer, consumer: Consumer) -> None:
        """One transaction as a router makes it: records to many partitions, and offsets."""
        producer.begin_transaction()
        for number in range(PARTITIONS):
            producer.produce(self._topic, b"x" * 200, partition=number)
        offsets = [TopicPartition(self._topic, number, self.transactions) for number in range(PARTITIONS)]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), TIMEOUT_S)
        producer.commit_transaction(TIMEOUT_S)
        consumer.consume(10 * PARTITIONS, 0.0)
        self.transactions += 1
        if self.transactions == ENOUGH:
            self._enough.set()
