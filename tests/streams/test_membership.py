"""Leaving a group on a real broker: who goes is gone at once, also one that had nothing to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, ConsumerGroupState

from app.local_kafka import LocalKafka
from streams.feed import GroupFeed
from streams.groups import admin_client, member_count
from streams.kafka_settings import router_consumer
from streams.membership import leave_group
from tests.streams.broker import Deliveries, kafka_of, make_topic, until

pytestmark = pytest.mark.broker

SOON_S = 6.0
"""Under the 8 s of a router's session, and the 10 s of a balancer's: a ghost would still be there."""


def members(kafka: LocalKafka, group: str) -> int | None:
    return member_count(admin_client(kafka_of(kafka.bootstrap)), group)


def stable(kafka: LocalKafka, group: str, count: int) -> bool:
    """Returns whether the group has so many members, and all of them have their part."""
    admin = admin_client(kafka_of(kafka.bootstrap))
    found = admin.describe_consumer_groups([group], request_timeout=SOON_S)[group].result()
    return found.state is ConsumerGroupState.STABLE and len(found.members) == count


@contextmanager
def two_members(
    kafka: LocalKafka, topic: str, group: str, *, static: bool
) -> Iterator[tuple[Consumer, Consumer]]:
    """A member that has the topic's only partition, which goes on polling, and one that has none."""
    ended = threading.Event()
    busy, idle = (
        Consumer(router_consumer(kafka_of(kafka.bootstrap), group, name if static else ""))
        for name in ("busy", "idle")
    )

    def poll() -> None:
        while not ended.is_set():
            busy.poll(0.05)

    busy.subscribe([topic])
    until(lambda: busy.poll(0.05) is None and len(busy.assignment()) == 1, "the first has the partition")
    polling = threading.Thread(target=poll)
    polling.start()
    try:
        joined: list[int] = []
        idle.subscribe([topic], on_assign=lambda _consumer, places: joined.append(len(places)))
        until(lambda: idle.poll(0.05) is None and joined == [0], "the second has joined, without a partition")
        yield busy, idle
    finally:
        ended.set()
        polling.join()
        busy.close()


@pytest.mark.parametrize(("static", "left"), [(False, 1), (True, 2)])
def test_member_without_a_partition_is_gone_when_it_has_left(
    kafka: LocalKafka, prefix: str, static: bool, left: int
) -> None:
    """Nobody waits for its session; a static member stays, so that it finds its part again."""
    topic, group = make_topic(kafka.bootstrap, f"{prefix}.requests"), f"{prefix}.routers"
    with two_members(kafka, topic, group, static=static) as (_, idle):
        assert members(kafka, group) == 2
        began = time.monotonic()
        leave_group(idle, static=static)
        assert members(kafka, group) == left
        assert time.monotonic() - began < SOON_S


def test_standby_of_a_group_feed_is_gone_when_it_has_stopped(kafka: LocalKafka, prefix: str) -> None:
    """A balancer that stands by and stops holds no take-over up."""
    topic, group = make_topic(kafka.bootstrap, f"{prefix}.commands"), f"{prefix}.balancers"
    feeds = [
        GroupFeed(
            name,
            kafka_of(kafka.bootstrap),
            group,
            [topic],
            Deliveries().deliver,
            on_assigned=lambda _partitions: None,
            on_revoked=lambda: None,
            on_lost=lambda: None,
            on_failure=Deliveries().failed,
        )
        for name in ("leads", "stands-by")
    ]
    feeds[0].start()
    until(feeds[0].caught_up.is_set, "the first leads")
    feeds[1].start()
    until(lambda: stable(kafka, group, 2), "the second stands by")
    began = time.monotonic()
    assert feeds[1].stop(SOON_S)
    assert members(kafka, group) == 1
    assert time.monotonic() - began < SOON_S
    assert feeds[0].stop(SOON_S)
    assert members(kafka, group) == 0
