"""The reporter against a real broker: what it reports is what a group has done, and unknown stays unknown."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.local_kafka import LocalKafka, local_kafka
from schemas.records import Cluster, ClusterMetrics
from streams.clock import Clock
from streams.reporter import GroupLag, Reporter, Usage, Watched, cgroup_limit, run_reporter

TOPICS = ("requests.a", "metrics", "clusters")


@pytest.fixture
def client(kafka: LocalKafka, prefix: str) -> dict[str, str]:
    """Client settings, with the cluster's topic and our own topics made."""
    make_topics(kafka.bootstrap, prefix)
    return {"bootstrap.servers": kafka.bootstrap}


def make_topics(bootstrap: str, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    counts = {"requests.a": 3, "metrics": 1, "clusters": 1}
    for made in admin.create_topics([NewTopic(prefix + n, counts[n], 1) for n in TOPICS]).values():
        made.result(20)


def produce(client: dict[str, str], topic: str, count: int, transaction: str = "") -> Producer:
    """Stores `count` records over three partitions; with a transaction's id it stays open."""
    producer = Producer(client | ({"transactional.id": transaction} if transaction else {}))
    if transaction:
        producer.init_transactions(20)
        producer.begin_transaction()
    for number in range(count):
        producer.produce(topic, b"x", partition=number % 3)
    assert producer.flush(20) == 0
    return producer


def commit(client: dict[str, str], group: str, topic: str, offsets: list[int]) -> None:
    consumer = Consumer(client | {"group.id": group})
    places = [TopicPartition(topic, part, offset) for part, offset in enumerate(offsets)]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


@pytest.fixture
def lag(client: dict[str, str], prefix: str) -> Iterator[GroupLag]:
    """A reader whose broker has its group coordinator ready: a fresh one takes a few seconds."""
    reader = GroupLag(dict(client), prefix + "requests.a", prefix + "group")
    for _ in range(20):
        if reader.read(0.0) is not None:
            break
        threading.Event().wait(0.2)
    yield reader
    reader.close()


@pytest.mark.broker
def test_lag_is_what_the_group_has_not_committed(client: dict[str, str], prefix: str, lag: GroupLag) -> None:
    """A group that never committed has everything before it; commits count; nothing is joined."""
    produce(client, prefix + "requests.a", 30)
    before = lag.read(1.0)
    assert before is not None
    assert (before.done, before.waiting) == (0, 30)
    commit(client, prefix + "group", prefix + "requests.a", [10, 4, 0])
    after = lag.read(2.0)
    assert after is not None
    assert (after.done, after.waiting) == (14, 16)


@pytest.mark.broker
def test_an_open_transaction_is_not_waiting_yet(client: dict[str, str], prefix: str, lag: GroupLag) -> None:
    """Lag ends at the last stable offset: what is not committed cannot be read by the backend."""
    produce(client, prefix + "requests.a", 6)
    open_one = produce(client, prefix + "requests.a", 9, transaction=prefix)
    found = lag.read(1.0)
    assert found is not None
    assert found.waiting == 6
    open_one.abort_transaction(20)


@pytest.mark.broker
def test_throughput_and_latency_follow_the_commits(
    client: dict[str, str], prefix: str, lag: GroupLag
) -> None:
    """20 requests in 10 s of model time are 2 a second; 10 waiting then take 5 s."""
    watched = Watched("a", "a-0", os.getpid(), 7.5, prefix + "requests.a", prefix + "group")
    reporter = Reporter(dict(client), prefix, watched)
    produce(client, prefix + "requests.a", 30)
    commit(client, prefix + "group", prefix + "requests.a", [0, 0, 0])
    first = reporter.report(100.0, 10.0, 1.0)
    commit(client, prefix + "group", prefix + "requests.a", [10, 10, 0])
    second = reporter.report(110.0, 10.0, 1.0)
    reporter.close()
    assert (first.queue_depth, first.throughput_rps, first.latency_s) == (30, None, None)
    assert (second.queue_depth, second.throughput_rps, second.latency_s) == (10, 2.0, 5.0)
    assert second.latency_estimated
    assert second.capacity_cps == 7.5
    assert second.memory is not None
    assert 0 < second.memory < 1


@pytest.mark.broker
def test_topic_and_group_come_from_the_registry(client: dict[str, str], prefix: str) -> None:
    """Before the cluster is registered its lag is unknown, not zero; afterwards it is reported."""
    reporter = Reporter(dict(client), prefix, Watched("a", "a-0"))
    assert reporter.report(1.0, 10.0, 1.0).queue_depth is None
    produce(client, prefix + "requests.a", 3)
    record = Cluster(
        name="a", topic=prefix + "requests.a", group=prefix + "group", capacity_cps=1, partitions=3
    )
    registry = Producer(client)
    registry.produce(prefix + "clusters", record.to_json(), "a")
    registry.produce(prefix + "clusters", b"{broken", "a")
    assert registry.flush(20) == 0
    found = None
    for _ in range(100):
        found = reporter.report(2.0, 10.0, 1.0).queue_depth
        if found is not None:
            break
        threading.Event().wait(0.1)
    reporter.close()
    assert found == 3


@pytest.mark.broker
def test_records_arrive_on_the_metrics_topic(client: dict[str, str], prefix: str) -> None:
    """The loop reports every 10 s of model time under the cluster's key until it is told to stop."""
    stop = threading.Event()
    thread = threading.Thread(
        target=run_reporter,
        kwargs={
            "kafka": dict(client),
            "prefix": prefix,
            "cluster": "a",
            "topic": prefix + "requests.a",
            "group": prefix + "group",
            "instance": "a-0",
            "pid": None,
            "capacity_cps": None,
            "clock": Clock(start=0.0, t0=time.time(), time_scale=50.0),
            "stop": stop,
        },
    )
    thread.start()
    reader = Consumer(client | {"group.id": prefix, "auto.offset.reset": "earliest"})
    reader.assign([TopicPartition(prefix + "metrics", 0, 0)])
    messages = [message for _ in range(200) if (message := reader.poll(0.1)) is not None][:3]
    stop.set()
    thread.join(10)
    reader.close()
    assert not thread.is_alive()
    records = [ClusterMetrics.from_json(message.value()) for message in messages]
    assert len(records) == 3
    assert {message.key() for message in messages} == {b"a"}
    assert records[1].at - records[0].at == pytest.approx(10, abs=5)
    assert records[1].cpu is not None


@pytest.mark.broker
@pytest.mark.slow
def test_an_outage_costs_reports_not_the_process(prefix: str) -> None:
    """Broker killed: lag is unknown, CPU still known; broker back: lag is known again."""
    with local_kafka() as broker:
        if broker.java is None:
            pytest.skip("needs a broker that the test may kill")
        client = {"bootstrap.servers": broker.bootstrap}
        make_topics(broker.bootstrap, prefix)
        watched = Watched("a", "a-0", os.getpid(), None, prefix + "requests.a", prefix + "group")
        reporter = Reporter(dict(client), prefix, watched)
        before = [reporter.report(1.0 + n, 1.0, 0.1).queue_depth for n in range(5)]
        assert before[-1] == 0
        broker.kill()
        away = reporter.report(8.0, 1.0, 0.1)
        reporter.send(away)
        assert away.queue_depth is None
        assert away.cpu is not None
        broker.restart()
        found = [reporter.report(9.0 + n, 1.0, 0.1).queue_depth for n in range(5)]
        reporter.close()
    assert found[-1] == 0


def test_a_vanished_process_is_unknown_not_idle() -> None:
    """CPU and memory of a process that is gone are left out."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    usage = Usage(child.pid)
    cpu, memory = usage.read(1.0)
    assert cpu is not None
    assert memory is not None
    child.communicate(b"\n")
    assert usage.read(1.0) == (None, None)


def test_the_host_has_cpu_and_memory() -> None:
    """Without a process id the host is measured."""
    cpu, memory = Usage(None).read(1.0)
    assert cpu is not None
    assert memory is not None
    assert 0 < memory < 1


def test_no_limit_is_infinite() -> None:
    """A file that is not there limits nothing."""
    assert cgroup_limit(os.getpid(), "no.such.limit") == float("inf")
