"""What the tests on a real broker share: topics, producers, waiting for an outcome."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

WAIT_S = 30.0
"""Longest wait for an outcome; the machine may be busy."""


def make_topic(
    bootstrap: str, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None
) -> str:
    """Makes a topic and returns its name."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1, config=dict(settings or {}))])[name].result()
    return name


def send(bootstrap: str, topic: str, *values: str, partition: int = 0) -> None:
    """Sends values as they are, each with its index as key."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for number, value in enumerate(values):
        producer.produce(topic, value.encode(), b"%d" % number, partition)
    assert producer.flush(WAIT_S) == 0


def transactions(bootstrap: str, name: str) -> Producer:
    """Returns a transactional producer of that id, ready to begin."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "retry.backoff.ms": 5})
    producer.init_transactions(WAIT_S)
    return producer


def until(true: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Returns once it is true; fails with `what` when it takes too long."""
    deadline = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < deadline, f"not within {wait_s} s: {what}"
        time.sleep(0.02)


class Deliveries:
    """Callbacks of a feed under test: what was delivered, and what failed."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.places: list[tuple[str, int, int]] = []
        self.failures: queue.Queue[BaseException] = queue.Queue()

    def deliver(self, messages: list[Message]) -> None:
        for message in messages:
            self.values.append((message.value() or b"").decode())
            self.places.append((message.topic() or "", message.partition() or 0, message.offset() or 0))

    def failed(self, error: BaseException) -> None:
        self.failures.put(error)

    def failure(self) -> BaseException:
        return self.failures.get(timeout=WAIT_S)


def kafka_of(bootstrap: str, **more: Any) -> dict[str, Any]:
    return {"bootstrap.servers": bootstrap} | more
