"""Feeds on a real broker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from app.local_kafka import LocalKafka, local_kafka
from schemas.errors import TopicError
from streams.feed import Feed, GroupFeed
from tests.streams.broker import WAIT_S, Deliveries, kafka_of, make_topic, send, transactions, until


@contextlib.contextmanager
def running(feed: Feed | GroupFeed) -> Iterator[Feed | GroupFeed]:
    feed.start()
    try:
        yield feed
    finally:
        assert feed.stop(WAIT_S)


def test_empty_topic_is_caught_up_at_once(kafka: LocalKafka, prefix: str) -> None:
    """Nothing to read: the gate opens, nothing is delivered, and what comes later is."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.empty", 3)
    seen = Deliveries()
    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        assert seen.values == []
        send(kafka.bootstrap, topic, "later")
        until(lambda: seen.values == ["later"], "the record sent afterwards")


def test_caught_up_means_everything_was_delivered(kafka: LocalKafka, prefix: str) -> None:
    """When the gate opens, all that was there has been delivered, each partition in its order."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.full", 2)
    other = make_topic(kafka.bootstrap, f"{prefix}.other")
    send(kafka.bootstrap, topic, *(f"a{number}" for number in range(2500)))
    send(kafka.bootstrap, topic, *(f"b{number}" for number in range(1200)), partition=1)
    send(kafka.bootstrap, other, "x", "y", "z")
    seen = Deliveries()
    starts: dict[str, Any] = {topic: "beginning", other: {0: 1}}
    slow = threading.Event()

    def deliver(messages: list[Message]) -> None:
        assert len(messages) <= 1000
        assert not feed.caught_up.is_set()
        slow.wait(0.05)
        seen.deliver(messages)

    feed = Feed("t", kafka_of(kafka.bootstrap), starts, deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        assert [value for value in seen.values if value[0] == "a"] == [f"a{n}" for n in range(2500)]
        assert [value for value in seen.values if value[0] == "b"] == [f"b{n}" for n in range(1200)]
        assert [value for value in seen.values if value[0] in "xyz"] == ["y", "z"]


def test_markers_at_the_end_do_not_hold_the_gate(kafka: LocalKafka, prefix: str) -> None:
    """The last offsets are transaction markers and aborted records: still caught up, aborted not seen."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.markers")
    producer = transactions(kafka.bootstrap, f"{prefix}.writer")
    for value, ending in (("one", "commit"), ("gone", "abort"), ("two", "commit"), ("gone", "abort")):
        producer.begin_transaction()
        producer.produce(topic, value.encode())
        producer.flush(WAIT_S)
        producer.commit_transaction(WAIT_S) if ending == "commit" else producer.abort_transaction(WAIT_S)
    seen = Deliveries()
    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        assert seen.values == ["one", "two"]


def test_only_aborted_records_is_caught_up(kafka: LocalKafka, prefix: str) -> None:
    """A topic with offsets but no visible record opens the gate."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.aborted")
    producer = transactions(kafka.bootstrap, f"{prefix}.writer")
    producer.begin_transaction()
    producer.produce(topic, b"gone")
    producer.flush(WAIT_S)
    producer.abort_transaction(WAIT_S)
    seen = Deliveries()
    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        assert seen.values == []


def test_open_transaction_does_not_hold_the_gate(kafka: LocalKafka, prefix: str) -> None:
    """What is committed counts; a transaction that is still open is not waited for."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.open")
    send(kafka.bootstrap, topic, "before")
    producer = transactions(kafka.bootstrap, f"{prefix}.writer")
    producer.begin_transaction()
    producer.produce(topic, b"pending")
    producer.flush(WAIT_S)
    seen = Deliveries()
    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        assert seen.values == ["before"]
        producer.commit_transaction(WAIT_S)
        until(lambda: seen.values == ["before", "pending"], "the committed record")


def test_compaction_gaps_do_not_hold_the_gate(kafka: LocalKafka, prefix: str) -> None:
    """Records that compaction has removed leave gaps; the gate opens all the same."""
    settings = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "delete.retention.ms": "0",
        "max.compaction.lag.ms": "100",
    }
    topic = make_topic(kafka.bootstrap, f"{prefix}.compact", 1, settings)
    for number in range(5):
        send(kafka.bootstrap, topic, *(f"{key}.{number}" for key in range(4)))
        time.sleep(0.15)  # the broker rolls a segment after 100 ms, at the next record

    def read() -> Deliveries:
        seen = Deliveries()
        feed = Feed(
            "t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed
        )
        with running(feed):
            assert feed.caught_up.wait(WAIT_S)
        return seen

    until(lambda: len(read().values) < 20, "compaction of some records", 60)
    assert read().values[-4:] == ["0.4", "1.4", "2.4", "3.4"]


def test_missing_topic_is_said_at_the_start(kafka: LocalKafka, prefix: str) -> None:
    """A topic that does not exist ends the feed with an error that names it and what to do."""
    seen = Deliveries()
    topic = f"{prefix}.nowhere"
    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
    with running(feed):
        error = seen.failure()
    assert isinstance(error, TopicError)
    assert topic in str(error)
    assert "foreshard topics create" in str(error)
    assert not feed.caught_up.is_set()


def test_what_deliver_raises_is_handed_over(kafka: LocalKafka, prefix: str) -> None:
    """The error of a delivery reaches on_failure, once, and nothing more is delivered."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.fail")
    send(kafka.bootstrap, topic, "one")
    seen = Deliveries()
    wrong = RuntimeError("cannot take this")

    def deliver(messages: list[Message]) -> None:
        seen.deliver(messages)
        raise wrong

    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, deliver, on_failure=seen.failed)
    with running(feed):
        assert seen.failure() is wrong
        until(lambda: feed.stop(0), "the end of the thread")
    assert seen.failures.empty()
    assert seen.values == ["one"]
    assert not feed.caught_up.is_set()


def test_blocked_delivery_stops_reading_and_stop_does_not_hang(kafka: LocalKafka, prefix: str) -> None:
    """While deliver blocks nothing more arrives; stop gives up waiting after its timeout and says so."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.block")
    send(kafka.bootstrap, topic, *(str(number) for number in range(3000)))
    seen, go, blocked = Deliveries(), threading.Event(), threading.Event()

    def deliver(messages: list[Message]) -> None:
        seen.deliver(messages)
        blocked.set()
        go.wait(WAIT_S)

    feed = Feed("t", kafka_of(kafka.bootstrap), {topic: "beginning"}, deliver, on_failure=seen.failed)
    feed.start()
    assert blocked.wait(WAIT_S)
    assert not feed.stop(0.3)
    assert len(seen.values) <= 1000
    go.set()
    assert feed.stop(WAIT_S)
    assert len(seen.values) <= 1000


def test_offsets_below_the_log_start_are_taken_from_there(kafka: LocalKafka, prefix: str) -> None:
    """A start offset that retention has removed means: from the first record left."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.retained")
    send(kafka.bootstrap, topic, "a", "b", "c")
    seen = Deliveries()
    starts: dict[str, Any] = {topic: {0: 3}}
    feed = Feed("t", kafka_of(kafka.bootstrap), starts, seen.deliver, on_failure=seen.failed)
    with running(feed):
        assert feed.caught_up.wait(WAIT_S)
        send(kafka.bootstrap, topic, "d")
        until(lambda: seen.values == ["d"], "the record after the start offset")


def test_feed_started_without_a_broker_waits_for_it(prefix: str) -> None:
    """No broker at the start, then one that stands still for a while: no error, everything is read.

    A member of a group that lost its session in the pause has its partition back afterwards.
    """
    with local_kafka() as own:
        topic = make_topic(own.bootstrap, f"{prefix}.outage")
        send(own.bootstrap, topic, "one")
        own.kill()
        seen = Deliveries()
        feed = Feed("t", kafka_of(own.bootstrap), {topic: "beginning"}, seen.deliver, on_failure=seen.failed)
        with running(feed):
            assert not feed.caught_up.wait(1.0)
            own.restart()
            assert feed.caught_up.wait(WAIT_S)
            member = Member(own.bootstrap, f"{prefix}.g", topic)
            with running(member.feed):
                assert member.feed.caught_up.wait(WAIT_S)
                assert own.pid is not None
                os.kill(own.pid, signal.SIGSTOP)
                time.sleep(4.0)  # the pause under test: longer than the member's session of 2 s
                os.kill(own.pid, signal.SIGCONT)
                send(own.bootstrap, topic, "two")
                until(lambda: seen.values == ["one", "two"], "the record after the pause")
                until(lambda: "two" in member.seen.values, "the member's record after the pause")
                assert member.events[-1] == "assigned [0]"
                assert member.feed.commit({(topic, 0): 2})
        assert seen.failures.empty()
        assert member.seen.failures.empty()


# ---------------------------------------------------------------------------- with a group


class Member:
    """A group feed in this process, with what its callbacks saw."""

    def __init__(self, bootstrap: str, group: str, topic: str, start: int | None = None) -> None:
        self.seen = Deliveries()
        self.events: list[str] = []
        self.start = start
        settings = kafka_of(bootstrap, **{"session.timeout.ms": 2000, "heartbeat.interval.ms": 500})
        self.feed = GroupFeed(
            "t",
            settings,
            group,
            [topic],
            self.seen.deliver,
            on_assigned=self._assigned,
            on_revoked=lambda: self.events.append("revoked"),
            on_lost=lambda: self.events.append("lost"),
            on_failure=self.seen.failed,
        )

    def _assigned(self, partitions: list[TopicPartition]) -> None:
        self.events.append(f"assigned {[partition.partition for partition in partitions]}")
        if self.start is not None:
            partitions[0].offset = self.start


def committed(bootstrap: str, group: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        return consumer.committed([TopicPartition(topic, 0)], WAIT_S)[0].offset
    finally:
        consumer.close()


def test_leadership_passes_in_order_and_nothing_commits_by_itself(kafka: LocalKafka, prefix: str) -> None:
    """The second member gets the partition when the first leaves, at the offset that was committed."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.commands")
    group = f"{prefix}.leaders"
    send(kafka.bootstrap, topic, "a", "b", "c")
    one, two = (Member(kafka.bootstrap, group, topic) for _ in range(2))
    with running(one.feed):
        assert one.feed.caught_up.wait(WAIT_S)
        assert one.events == ["assigned [0]"]
        assert one.seen.values == ["a", "b", "c"]
        assert committed(kafka.bootstrap, group, topic) < 0
        assert one.feed.commit({(topic, 0): 2})
        assert committed(kafka.bootstrap, group, topic) == 2
        with running(two.feed):
            time.sleep(1.5)  # time for a rebalance: the newcomer must not get the partition
            assert two.events == []
            assert one.events == ["assigned [0]"]
            assert not two.feed.caught_up.is_set()
            assert not two.feed.commit({(topic, 0): 3})
            assert one.feed.stop(WAIT_S)
            assert two.feed.caught_up.wait(WAIT_S)
            assert two.events == ["assigned [0]"]
            assert two.seen.values == ["c"]
    assert one.events[-1] == "revoked"
    assert not one.feed.commit({(topic, 0): 3})


def test_leadership_passes_within_the_session_timeout_of_a_killed_member(
    kafka: LocalKafka, prefix: str
) -> None:
    """A member killed outright is replaced when its session (2 s) has run out."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.commands")
    group = f"{prefix}.leaders"
    command = [sys.executable, "-m", "tests.streams.feed_member", kafka.bootstrap, group, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "assigned 1"
            member = Member(kafka.bootstrap, group, topic)
            with running(member.feed):
                time.sleep(0.5)  # it has joined, or will, after the kill: both must work
                process.kill()
                killed = time.monotonic()
                until(lambda: member.events == ["assigned [0]"], "the take-over")
                assert time.monotonic() - killed < 10
        finally:
            process.kill()


def test_assignment_callback_may_choose_the_offset(kafka: LocalKafka, prefix: str) -> None:
    """A start offset set in on_assigned goes before the committed one."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.commands")
    send(kafka.bootstrap, topic, "a", "b", "c", "d")
    member = Member(kafka.bootstrap, f"{prefix}.g", topic, start=3)
    with running(member.feed):
        assert member.feed.caught_up.wait(WAIT_S)
        assert member.seen.values == ["d"]


def test_group_feed_says_that_its_topic_is_missing(kafka: LocalKafka, prefix: str) -> None:
    """As a feed without a group does."""
    member = Member(kafka.bootstrap, f"{prefix}.g", f"{prefix}.nowhere")
    with running(member.feed):
        assert isinstance(member.seen.failure(), TopicError)


def test_what_a_group_callback_raises_is_handed_over(kafka: LocalKafka, prefix: str) -> None:
    """An error in on_assigned ends the feed and reaches on_failure."""
    topic = make_topic(kafka.bootstrap, f"{prefix}.commands")
    seen = Deliveries()
    wrong = ValueError("not now")

    def refuse(partitions: list[TopicPartition]) -> None:
        raise wrong

    feed = GroupFeed(
        "t",
        kafka_of(kafka.bootstrap),
        f"{prefix}.g",
        [topic],
        seen.deliver,
        on_assigned=refuse,
        on_revoked=lambda: None,
        on_lost=lambda: None,
        on_failure=seen.failed,
    )
    with running(feed):
        assert seen.failure() is wrong


@pytest.mark.parametrize("setting", ["isolation.level", "enable.auto.commit"])
def test_settings_the_promises_rest_on_cannot_be_changed(setting: str) -> None:
    """A user's value for them does not win."""
    from streams.feed import consumer_settings

    wrong = {"isolation.level": "read_uncommitted", "enable.auto.commit": True}
    assert consumer_settings(wrong, "g")[setting] in ("read_committed", False)
