"""One read of a topic from its beginning, or its newest records, to the end that it has now."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.errors import BrokerUnreachableError, TopicError
from streams.feed import Feed, Starts, consumer_settings

READ_S = 60.0
"""Wall seconds that a whole read may take; our tables take well under one."""
ASK_S = 10.0
MARKERS = 3
"""Offsets read per wanted record: between two decisions stands at least one transaction marker."""


def read_table(kafka: Mapping[str, Any], topic: str, *, newest: int | None = None) -> list[Message]:
    """Returns the committed records of `topic`, per partition in order, tombstones included.

    With `newest` about that many of the newest records of a topic of one partition. Raises TopicError
    where the topic is missing, BrokerUnreachableError where no broker answers in time.
    """
    failures: list[BaseException] = []
    ended = threading.Event()
    messages: list[Message] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        ended.set()

    starts: Starts = {topic: "beginning" if newest is None else _near_end(kafka, topic, newest)}
    feed = Feed("table", dict(kafka), starts, messages.extend, on_failure=failed, on_caught_up=ended.set)
    feed.start()
    in_time = ended.wait(READ_S)
    feed.stop()
    if failures:
        raise failures[0]
    if not in_time:
        raise BrokerUnreachableError(f"{topic} was not read within {READ_S:.0f} s; is the broker there?")
    return messages if newest is None else messages[-newest:]


def offsets_since(kafka: Mapping[str, Any], topic: str, wall_s: float) -> dict[int, int]:
    """Returns per partition the offset of the first record with this Kafka timestamp or a later one.

    The end where there is none. Raises TopicError where the topic is missing, KafkaException where no
    broker answers.
    """
    at_ms = max(0, int(wall_s * 1000))
    consumer = Consumer(consumer_settings(dict(kafka), "foreshard-since"))
    try:
        numbers = sorted(consumer.list_topics(topic, timeout=ASK_S).topics[topic].partitions)
        if not numbers:
            raise TopicError(f"topic {topic} does not exist; `foreshard topics create` makes it")
        asked = [TopicPartition(topic, number, at_ms) for number in numbers]
        return {
            place.partition: place.offset
            if place.offset >= 0
            else consumer.get_watermark_offsets(place, timeout=ASK_S)[1]
            for place in consumer.offsets_for_times(asked, timeout=ASK_S)
        }
    finally:
        consumer.close()


def _near_end(kafka: Mapping[str, Any], topic: str, newest: int) -> dict[int, int]:
    consumer = Consumer(consumer_settings(dict(kafka), "foreshard-table"))
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=ASK_S)
    except KafkaException as error:
        raise TopicError(f"{topic} cannot be read: {error}; try `foreshard topics check`") from None
    finally:
        consumer.close()
    return {0: max(low, high - MARKERS * newest)}
