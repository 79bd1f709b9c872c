"""The mapping topic on a real broker: plans whole or not at all, one writer at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka import Producer

from app.local_kafka import LocalKafka, local_kafka
from schemas.errors import BrokerUnreachableError, FencedError, NotReadyError, TopicError
from schemas.records import (
    SLOTS,
    ClusterState,
    MappedCluster,
    MappingMeta,
    MappingRecord,
    Move,
    Reason,
    check_tiles,
)
from schemas.topics import MAPPING
from streams.core.mapping import Snapshot
from streams.core.plans import apply_moves, first_mapping
from streams.feed import Feed
from streams.mapping_topic import MappingReader, MappingWriter, plan_messages
from tests.streams.broker import WAIT_S, Deliveries, kafka_of, make_topic, transactions, until

SHARDS = 16
NAMES = ("c1", "c2")
CLUSTERS = {
    name: MappedCluster(topic=f"requests.{name}", group=name, partitions=12, state=ClusterState.ACTIVE)
    for name in NAMES
}


class Fixture:
    """A mapping topic of one test's own, with its writer."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.kafka = kafka_of(bootstrap)
        self.prefix = f"{prefix}."
        self.topic = make_topic(bootstrap, self.prefix + MAPPING.name, 1, MAPPING.settings)
        self.writer = MappingWriter(self.kafka, self.prefix)

    def write(self, records: Sequence[MappingRecord], meta: MappingMeta) -> None:
        self.writer.write(plan_messages(self.topic, records, meta))

    def begin(self) -> None:
        """Takes over and writes version 1."""
        self.writer.take_over()
        self.write(*version_1())

    def send(self, key: str, value: str) -> None:
        """Writes a record as somebody who is no leader would."""
        producer = Producer(self.kafka)
        producer.produce(self.topic, value.encode(), key.encode())
        assert producer.flush(WAIT_S) == 0

    @contextlib.contextmanager
    def reader(self, versions: list[Snapshot] | None = None) -> Iterator[MappingReader]:
        failures = Deliveries()
        seen: list[Snapshot] = [] if versions is None else versions
        reader = MappingReader(self.kafka, self.topic, on_failure=failures.failed, on_change=seen.append)
        reader.start()
        try:
            yield reader
        finally:
            assert reader.stop(WAIT_S)
            assert failures.failures.empty()


def version_1() -> tuple[list[MappingRecord], MappingMeta]:
    return first_mapping(SHARDS, dict.fromkeys(NAMES, 1.0), CLUSTERS, 1, "hash", "1.0")


def all_to(snapshot: Snapshot, target: str, epoch: int = 1) -> tuple[list[MappingRecord], MappingMeta]:
    """Returns the plan that brings every slot to one cluster."""
    moves = [
        Move(shard=record.shard, source=owner, target=target, slots=[(start, stop)], load_cps=0.0,
             reason=Reason.EVENT)
        for record in snapshot.records
        for start, stop, owner in record.segments
        if owner != target
    ]  # fmt: skip
    return apply_moves(snapshot, moves, epoch=epoch, plan=f"{epoch}.1", clusters=CLUSTERS)


def snapshot_of(reader: MappingReader) -> Snapshot:
    assert reader.ready.wait(WAIT_S)
    assert reader.snapshot is not None
    return reader.snapshot


@pytest.fixture
def mapping(kafka: LocalKafka, prefix: str) -> Fixture:
    return Fixture(kafka.bootstrap, prefix)


def test_empty_topic_is_ready_without_a_snapshot(mapping: Fixture) -> None:
    """Nothing was ever written: the reader is ready and says so by having no snapshot."""
    versions: list[Snapshot] = []
    with mapping.reader(versions) as reader:
        assert reader.ready.wait(WAIT_S)
        assert reader.snapshot is None
        mapping.begin()
        until(lambda: reader.snapshot is not None, "version 1")
    assert [snapshot.version for snapshot in versions] == [1]


def test_reader_starts_with_the_newest_plan_alone(mapping: Fixture) -> None:
    """Older plans of the topic are never shown, not even while it is read."""
    mapping.begin()
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        for target in ("c1", "c2"):
            mapping.write(*all_to(snapshot, target))
            until(lambda before=snapshot: reader.snapshot is not before, "the next version")
            snapshot = snapshot_of(reader)
    versions: list[Snapshot] = []
    with mapping.reader(versions) as reader:
        assert snapshot_of(reader).version == 3
    assert [one.version for one in versions] == [3]
    assert {snapshot.owner(shard * SLOTS) for shard in range(SHARDS)} == {"c2"}


def test_reader_never_sees_half_a_plan(mapping: Fixture) -> None:
    """Plans that move everything back and forth, some aborted: each snapshot has one owner for all slots."""
    mapping.begin()
    versions: list[Snapshot] = []
    with mapping.reader(versions) as reader:
        snapshot = snapshot_of(reader)
        rival = transactions(mapping.kafka["bootstrap.servers"], f"{mapping.prefix}rival")
        for number in range(20):
            records, meta = all_to(snapshot, NAMES[number % 2])
            if number % 3 == 0:
                rival.begin_transaction()
                for topic, key, value in plan_messages(mapping.topic, records, meta):
                    rival.produce(topic, value, key)
                rival.flush(WAIT_S)
                rival.abort_transaction(WAIT_S)
            mapping.write(records, meta)
            until(lambda before=snapshot: reader.snapshot is not before, "the next version")
            snapshot = snapshot_of(reader)
    assert [one.version for one in versions] == list(range(1, 22))
    for number, seen in enumerate(versions[1:]):
        assert {seen.owner(slot) for slot in range(0, SHARDS * SLOTS, 64)} == {NAMES[number % 2]}
        for record in seen.records:
            check_tiles(record.segments, record.shard)
    assert reader.refused == 0


def test_plan_without_its_meta_record_is_not_seen(mapping: Fixture) -> None:
    """Shard records alone, committed, change nothing until a meta record comes."""
    mapping.begin()
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        records, meta = all_to(snapshot, "c2")
        mapping.writer.write(plan_messages(mapping.topic, records, meta)[:-1])
        mapping.writer.write(plan_messages(mapping.topic, [], meta))
        until(lambda: reader.snapshot is not snapshot, "the plan's end")
        assert snapshot_of(reader).version == 2


BAD_RECORDS = {
    "not JSON": "{",
    "empty": "",
    "gap": json.dumps({"segments": [[0, 64, "c1"], [65, 256, "c2"]]}),
    "overlap": json.dumps({"segments": [[0, 64, "c1"], [63, 256, "c2"]]}),
    "beyond": json.dumps({"segments": [[0, 257, "c1"]]}),
    "unknown field": json.dumps({"surprise": 1}),
    "other schema": json.dumps({"schema": 2}),
    "other shard than its key": json.dumps({"shard": 4}),
}
WHOLE = {
    "schema": 1, "kind": "shard", "shard": 3, "version": 2, "epoch": 1, "home": "c1",
    "segments": [[0, 256, "c1"]], "plan": "1.1", "reason": "event",
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_RECORDS)
def test_bad_record_is_refused_and_later_plans_apply(
    mapping: Fixture, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, logged once and spoils its plan; the old snapshot stays and the next plan applies."""
    text = BAD_RECORDS[what]
    if len(text) > 1:
        text = json.dumps(WHOLE | json.loads(text))
    mapping.begin()
    with mapping.reader() as reader, caplog.at_level(logging.WARNING):
        snapshot = snapshot_of(reader)
        mapping.send("3", text)
        until(lambda: reader.refused == 1, "the refusal")
        _, meta = all_to(snapshot, "c2")
        mapping.write([], meta)
        until(lambda: reader.refused == 2, "the refusal of its plan")
        assert reader.snapshot is snapshot
        mapping.write(*all_to(snapshot, "c1"))
        until(lambda: reader.snapshot is not snapshot, "the next plan")
        assert {snapshot_of(reader).owner(shard * SLOTS) for shard in range(SHARDS)} == {"c1"}
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"{mapping.topic}[0]@")


def test_old_epoch_is_refused(mapping: Fixture) -> None:
    """A plan of an older leader that got into the topic all the same changes nothing."""
    mapping.begin()
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        mapping.write(*all_to(snapshot, "c2", epoch=5))
        until(lambda: reader.snapshot is not snapshot, "epoch 5")
        newest = snapshot_of(reader)
        records, meta = all_to(newest, "c1", epoch=5)
        mapping.writer.write(plan_messages(mapping.topic, [], meta.model_copy(update={"epoch": 4})))
        until(lambda: reader.refused == 1, "the refusal")
        assert reader.snapshot is newest
        mapping.write(records, meta)
        until(lambda: reader.snapshot is not newest, "the next plan of epoch 5")


def test_older_writer_is_fenced(mapping: Fixture) -> None:
    """Once a second writer has taken over, the first can write nothing more; its open work is not seen."""
    mapping.begin()
    second = MappingWriter(mapping.kafka, mapping.prefix)
    second.take_over()
    records, meta = version_1()
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        for _ in range(2):
            with pytest.raises(FencedError, match="another balancer has taken over"):
                mapping.write(*all_to(snapshot, "c2"))
        second.write(plan_messages(mapping.topic, records, meta.model_copy(update={"epoch": 2})))
        until(lambda: reader.snapshot is not snapshot, "the second writer's plan")
        assert snapshot_of(reader).epoch == 2
        assert snapshot_of(reader).version == 1


def test_take_over_aborts_what_a_dead_leader_left_open(mapping: Fixture) -> None:
    """A leader gone in mid-transaction: its successor's first plan is visible at once, its own never."""
    mapping.begin()
    dead = transactions(mapping.kafka["bootstrap.servers"], f"{mapping.prefix}balancer")
    dead.begin_transaction()
    dead.produce(mapping.topic, b"{", b"3")
    dead.flush(WAIT_S)
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        second = MappingWriter(mapping.kafka, mapping.prefix)
        second.take_over()
        second.write(plan_messages(mapping.topic, *all_to(snapshot, "c2", epoch=2)))
        until(lambda: reader.snapshot is not snapshot, "the successor's plan", 10)
        assert reader.refused == 0


def test_writer_may_take_over_again(mapping: Fixture) -> None:
    """A writer that lost the lead and got it back writes again."""
    mapping.begin()
    second = MappingWriter(mapping.kafka, mapping.prefix)
    second.take_over()
    mapping.writer.take_over()
    with mapping.reader() as reader:
        snapshot = snapshot_of(reader)
        mapping.write(*all_to(snapshot, "c2"))
        until(lambda: reader.snapshot is not snapshot, "its plan")
        with pytest.raises(FencedError):
            second.write(plan_messages(mapping.topic, *all_to(snapshot, "c1")))


def test_writing_before_take_over_is_refused(mapping: Fixture) -> None:
    """Nothing is written by somebody who has not fenced the others."""
    with pytest.raises(NotReadyError, match="take_over"):
        mapping.write(*version_1())


def test_records_of_several_topics_are_one_transaction(mapping: Fixture, kafka: LocalKafka) -> None:
    """Other topics' records and tombstones go with the plan."""
    other = make_topic(kafka.bootstrap, f"{mapping.prefix}clusters")
    mapping.writer.take_over()
    plan = plan_messages(mapping.topic, *version_1())
    mapping.writer.write([(other, b"c1", b"{}"), *plan, (other, b"c9", None)])
    seen = Deliveries()
    feed = Feed("t", mapping.kafka, {other: "beginning"}, seen.deliver, on_failure=seen.failed)
    feed.start()
    assert feed.caught_up.wait(WAIT_S)
    assert feed.stop(WAIT_S)
    assert seen.values == ["{}", ""]
    with mapping.reader() as reader:
        assert snapshot_of(reader).version == 1


def test_missing_topic_is_said(kafka: LocalKafka, prefix: str) -> None:
    """A reader of a topic that does not exist fails with its name."""
    seen = Deliveries()
    reader = MappingReader(kafka_of(kafka.bootstrap), f"{prefix}.mapping", on_failure=seen.failed)
    reader.start()
    error = seen.failure()
    assert isinstance(error, TopicError)
    assert f"{prefix}.mapping" in str(error)
    assert reader.stop(WAIT_S)


def test_pause_of_the_broker_is_survived(prefix: str) -> None:
    """The broker stands still for 3 s while plans are written: all are, each once, and all are read."""
    with local_kafka() as own:
        mapping = Fixture(own.bootstrap, prefix)
        mapping.begin()
        versions: list[Snapshot] = []
        with mapping.reader(versions) as reader:
            snapshot = snapshot_of(reader)
            mapping.write(*all_to(snapshot, "c1"))
            assert own.pid is not None
            os.kill(own.pid, signal.SIGSTOP)
            resume = threading.Timer(3.0, os.kill, (own.pid, signal.SIGCONT))
            resume.start()
            for number, target in enumerate(("c2", "c1", "c2"), 3):
                until(lambda: bool(versions), "a snapshot")
                until(lambda wanted=number - 1: versions[-1].version == wanted, "the plan before", 60)
                mapping.write(*all_to(versions[-1], target))
            resume.join()
            until(lambda: versions[-1].version == 5, "the last plan")
        assert [one.version for one in versions] == [1, 2, 3, 4, 5]
        assert reader.refused == 0


def test_closing_ends_a_writer_that_waits_for_a_broker() -> None:
    """No broker at all: take_over waits, and close ends it with an error that says so."""
    writer = MappingWriter(kafka_of("127.0.0.1:1"), "t.")
    timer = threading.Timer(0.5, writer.close)
    timer.start()
    with pytest.raises(BrokerUnreachableError):
        writer.take_over()
    timer.join()
