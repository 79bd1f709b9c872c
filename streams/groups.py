"""What a consumer group is asked about from outside: its members, and whether anything waits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.feed import consumer_settings
from streams.kafka_settings import CONSUMER_ONLY, EVERY_CLIENT, PRODUCER_ONLY

ANSWER_S = 5.0
"""Wall seconds that one question to the broker may take."""
LOOK_S = 5.0
"""Wall seconds that a look into a topic may take."""
POLL_S = 0.2
EMPTY = frozenset({ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD})


class Backend(Protocol):
    """A cluster's topic and group; Cluster and MappedCluster have them."""

    @property
    def topic(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def partitions(self) -> int: ...


def admin_client(kafka: Mapping[str, Any]) -> AdminClient:
    """Returns an admin client with those of the user's settings that it takes."""
    only = PRODUCER_ONLY | CONSUMER_ONLY
    return AdminClient(EVERY_CLIENT | {name: value for name, value in kafka.items() if name not in only})


def member_count(admin: AdminClient, group: str) -> int | None:
    """Returns how many members a group has, None where no broker answers in time.

    A group of the newer protocol is not described by every client: that it is not empty counts as one.
    """
    try:
        found = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result()
        if found.members:
            return len(found.members)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            return None
    try:
        listed = admin.list_consumer_groups(request_timeout=ANSWER_S).result()
    except KafkaException:
        return None
    return int(any(item.group_id == group and item.state not in EMPTY for item in listed.valid))


def high_watermarks(admin: AdminClient, backend: Backend) -> dict[int, int]:
    """Returns the end of every partition, open transactions included; raises KafkaException."""
    places = [TopicPartition(backend.topic, number) for number in range(backend.partitions)]
    asked = admin.list_offsets({place: OffsetSpec.latest() for place in places}, request_timeout=ANSWER_S)
    return {place.partition: future.result().offset for place, future in asked.items()}


def unfinished(consumer: Consumer, admin: AdminClient, backend: Backend) -> dict[int, tuple[int, int]]:
    """Returns partition -> (first offset that its group has not committed, end), where they differ.

    `consumer` is of that group, never subscribed, and reads committed: an offset of a transaction
    whose end is under way is waited for. Raises KafkaException where no broker answers in time.
    """
    places = [TopicPartition(backend.topic, number) for number in range(backend.partitions)]
    committed = consumer.committed(places, timeout=ANSWER_S)
    ends = high_watermarks(admin, backend)  # after the offsets: what is committed is below its end
    found = {}
    for place in committed:
        if place.error is not None:
            raise KafkaException(place.error)
        first, _ = consumer.get_watermark_offsets(place, timeout=ANSWER_S)
        start = max(place.offset, first)
        if start < ends[place.partition]:
            found[place.partition] = (start, ends[place.partition])
    return found


def reading_consumer(kafka: Mapping[str, Any], group: str) -> Consumer:
    """Returns a consumer of committed records that is no member of its group and tells partition ends.

    It reads 4 MiB of each partition ahead, not 64: a topic may have many.
    """
    return Consumer(consumer_settings(dict(kafka), group, queued_max_messages_kbytes=4_096))


def request_waits(kafka: Mapping[str, Any], backend: Backend) -> bool | None:
    """Returns whether a request lies in the topic that the group has not committed; None: not known.

    Offsets alone do not tell: markers of transactions and records of aborted ones take some too.
    """
    consumer = reading_consumer(kafka, backend.group)
    try:
        rest = unfinished(consumer, admin_client(kafka), backend)
        consumer.assign([TopicPartition(backend.topic, number, start) for number, (start, _) in rest.items()])
        deadline = time.monotonic() + LOOK_S
        while rest and time.monotonic() < deadline:
            for message in consumer.consume(100, POLL_S):
                error = message.error()
                if error is None:
                    return True
                if error.code() == KafkaError._PARTITION_EOF:
                    number, reached = message.partition() or 0, message.offset() or 0
                    if number in rest and reached >= rest[number][1]:
                        del rest[number]
    except KafkaException:
        return None
    finally:
        consumer.close()
    return None if rest else False
