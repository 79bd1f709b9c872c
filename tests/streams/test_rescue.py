"""The rest of a dead cluster's topic, re-routed on a real broker: each request once, in order, as it was.

Judged by an independent read_committed reader of the other clusters' topics.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.local_kafka import LocalKafka
from schemas.errors import FencedError, RescueError
from schemas.records import ClusterState, MappedCluster
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.mapping import Snapshot, advance
from streams.core.plans import first_mapping
from streams.groups import admin_client, member_count, request_waits
from streams.rescue import Errand, RescueTask
from tests.streams.broker import WAIT_S, kafka_of, make_topic, transactions, until

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
RULES = KeyRules(
    shards=16,
    type_from=(parse_field("json:type"),),
    types=(RequestType("move", (parse_field("json:user"),)),),
)
USERS = 40
PARTITIONS = {"c1": 3, "c2": 2, "c3": 3}
STALE = [("foreshard-shard", b"99"), ("foreshard-type", b"move"), ("foreshard-mapping", b"1.1")]
FIRST_MS = int(time.time() * 1000) - 3_600_000
"""An hour ago: older than the topic's retention, and the broker would delete the requests by their time."""


def slot_of(user: str) -> int:
    return locate(RULES, "move", [user])[1]


class Site:
    """c3 is dead, c1 and c2 own everything; requests wait in the topic of c3."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap, self.prefix = bootstrap, f"{prefix}."
        self.kafka = kafka_of(bootstrap)
        self.clusters = {
            name: MappedCluster(
                topic=make_topic(bootstrap, f"{self.prefix}{name}", count),
                group=f"{self.prefix}{name}-group",
                partitions=count,
                state=ClusterState.DOWN if name == "c3" else ClusterState.ACTIVE,
            )
            for name, count in PARTITIONS.items()
        }
        self.dead = self.clusters["c3"]
        make_topic(bootstrap, f"{self.prefix}dead-letter", 1)
        self._producer = transactions(bootstrap, f"{self.prefix}router")
        self.sent: dict[int, dict[str, Any]] = {}

    @property
    def snapshot(self) -> Snapshot:
        weights = {"c1": 1.0, "c2": 1.0}
        records, meta = first_mapping(16, weights, self.clusters, 7, RULES.rules_hash(), "7.1")
        return advance(None, {record.shard: record for record in records}, meta)

    def task(self) -> RescueTask:
        return RescueTask(self.kafka, Errand(self.dead, self.snapshot, RULES, self.prefix))

    def rescue(self) -> RescueTask:
        """Rescues everything and returns the task."""
        task = self.task()
        task.run()
        return task

    def forward(self, count: int, *, end: str = "commit") -> None:
        """Writes requests to the dead cluster's topic as a router does, in one transaction."""
        self._producer.begin_transaction()
        for number in range(count):
            sequence = len(self.sent) if end == "commit" else -number - 1
            request = self._request(sequence)
            self._producer.produce(self.dead.topic, **request)
            if end == "commit":
                self.sent[sequence] = request
        self._producer.flush(WAIT_S)
        if end == "commit":
            self._producer.commit_transaction(WAIT_S)
        elif end == "abort":
            self._producer.abort_transaction(WAIT_S)

    def _request(self, sequence: int) -> dict[str, Any]:
        user = f"u{sequence % USERS}"
        return {
            "value": json.dumps({"type": "move", "user": user, "seq": sequence}).encode(),
            "key": None if sequence % 7 == 0 else user.encode(),
            "partition": slot_of(user) % self.dead.partitions,
            "timestamp": FIRST_MS + sequence,
            "headers": [("trace", b"%d" % sequence), ("trace", b"again"), ("none", None), *STALE],
        }

    def committed(self) -> list[int]:
        """Returns the offsets that the dead cluster's group has committed."""
        consumer = Consumer(self.kafka | {"group.id": self.dead.group})
        places = [TopicPartition(self.dead.topic, number) for number in range(self.dead.partitions)]
        found = [place.offset for place in consumer.committed(places, WAIT_S)]
        consumer.close()
        return found

    def commit(self, partition: int, offset: int) -> None:
        """Commits as the backend did before it died."""
        consumer = Consumer(self.kafka | {"group.id": self.dead.group})
        consumer.commit(offsets=[TopicPartition(self.dead.topic, partition, offset)], asynchronous=False)
        consumer.close()

    def reader(self) -> Reader:
        return Reader(self)


class Reader:
    """Reads what the living clusters and the dead-letter topic got, read_committed."""

    def __init__(self, site: Site) -> None:
        settings = {"group.id": f"{site.prefix}reader", "isolation.level": "read_committed"}
        self._consumer = Consumer(site.kafka | settings | {"enable.auto.commit": False})
        topics = [(site.clusters[name].topic, PARTITIONS[name]) for name in ("c1", "c2")]
        topics.append((f"{site.prefix}dead-letter", 1))
        places = [TopicPartition(topic, number, 0) for topic, count in topics for number in range(count)]
        self._consumer.assign(places)
        self.seen: list[Message] = []

    def until(self, count: int) -> list[Message]:
        """Reads until so many were seen, and on for repeated ones; returns all."""
        until(lambda: self._more(0.1) >= count, f"{count} requests, there are {len(self.seen)}")
        self._more(0.5)
        return self.seen

    def _more(self, wait_s: float) -> int:
        self.seen += [message for message in self._consumer.consume(10_000, wait_s) if not message.error()]
        return len(self.seen)


def sequences(messages: list[Message]) -> list[int]:
    return [json.loads(message.value() or b"")["seq"] for message in messages]


def check_order(messages: list[Message]) -> None:
    """Fails where a user's requests are not in the order in which they were sent, within one partition."""
    by_user: dict[str, list[tuple[str | None, int | None, int]]] = defaultdict(list)
    for message in messages:
        body = json.loads(message.value() or b"")
        by_user[body["user"]].append((message.topic(), message.partition(), body["seq"]))
    for places in by_user.values():
        assert len({place[:2] for place in places}) == 1
        assert [sequence for *_, sequence in places] == sorted(sequence for *_, sequence in places)


@pytest.fixture
def site(kafka: LocalKafka, prefix: str) -> Site:
    return Site(kafka.bootstrap, prefix)


def test_what_was_not_committed_is_moved_as_it_was(site: Site) -> None:
    """Value, key, timestamp, the user's headers; by the current mapping; nothing that was done before."""
    site.forward(300)
    site.forward(50, end="abort")
    site.commit(1, 40)
    site.forward(200)
    assert site.committed() == [-1001, 40, -1001]
    assert request_waits(site.kafka, site.dead) is True
    task = site.rescue()
    done = [s for s, request in site.sent.items() if request["partition"] == 1][:40]
    expected = sorted(set(site.sent) - set(done))
    messages = site.reader().until(len(expected))
    assert sorted(sequences(messages)) == expected
    assert (task.requests, task.letters) == (len(expected), 0)
    check_order(messages)
    for message in messages:
        request = site.sent[json.loads(message.value() or b"")["seq"]]
        slot = slot_of(json.loads(request["value"])["user"])
        owner = site.clusters[site.snapshot.owner(slot)]
        assert (message.value(), message.key()) == (request["value"], request["key"])
        assert message.timestamp()[1] == request["timestamp"]
        assert message.headers() == [
            *request["headers"][:3],
            ("foreshard-shard", b"%d" % (slot // 256)),
            ("foreshard-type", b"move"),
            ("foreshard-mapping", b"7.1"),
        ]
        assert (message.topic(), message.partition()) == (owner.topic, slot % owner.partitions)
    assert request_waits(site.kafka, site.dead) is False
    assert site.rescue().requests == 0


def test_what_cannot_be_read_is_kept_as_a_dead_letter(site: Site) -> None:
    """A record that never was a request of ours stops nothing."""
    producer = Producer(site.kafka)
    producer.produce(site.dead.topic, b"not json", b"k", 0)
    producer.flush(WAIT_S)
    site.forward(10)
    task = site.rescue()
    assert (task.requests, task.letters) == (11, 1)
    (letter,) = [m for m in site.reader().until(11) if (m.topic() or "").endswith("dead-letter")]
    assert letter.value() == b"not json"
    assert dict(letter.headers() or [])["foreshard-source"] == f"{site.dead.topic}[0]@0".encode()  # type: ignore[arg-type]


CHILD = """
import json, sys
from streams import rescue
from tests.streams.test_rescue import Site, RULES
rescue.BATCH = 50
site = Site.__new__(Site)
site.__dict__.update(kafka={"bootstrap.servers": sys.argv[1]}, prefix=sys.argv[2])
from schemas.records import MappedCluster
site.clusters = {n: MappedCluster.model_validate_json(c) for n, c in json.loads(sys.argv[3]).items()}
site.dead = site.clusters["c3"]
site.task().run()
"""


def test_a_rescuer_that_is_killed_is_followed_by_one_that_goes_on(site: Site) -> None:
    """Killed three times in mid-transaction; in the end each request was moved once, in order."""
    for _ in range(10):
        site.forward(600)
    reader = site.reader()
    clusters = json.dumps({name: cluster.model_dump_json() for name, cluster in site.clusters.items()})
    for kill in range(3):
        seen = len(reader.seen)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, site.bootstrap, site.prefix, clusters], cwd=ROOT
        )
        until(lambda seen=seen: reader._more(0.01) > seen + 100, f"something rescued before kill {kill}")
        assert child.poll() is None, "it was done before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    last = site.rescue()
    assert 0 < last.requests < len(site.sent) - 300
    messages = reader.until(len(site.sent))
    assert sorted(sequences(messages)) == sorted(site.sent)
    check_order(messages)


def test_a_group_with_a_member_is_left_alone(site: Site) -> None:
    """Nothing is moved while somebody may read it."""
    site.forward(50)
    with member(site), pytest.raises(RescueError, match=r"has members now \(1\); stop its backend"):
        site.rescue()
    assert site.committed() == [-1001] * 3
    until(lambda: member_count(admin_client(site.kafka), site.dead.group) == 0, "the member has left")
    assert site.rescue().requests == 50


def test_a_backend_that_comes_back_in_the_middle_stops_the_rescue(site: Site) -> None:
    """What was moved stays moved; the rest is the backend's, or the next rescue's."""
    site.forward(20)
    site.forward(1, end="open")
    task, ended = site.task(), Future[None]()
    threading.Thread(target=lambda: ended.set_exception(failure_of(task)), daemon=True).start()
    messages = site.reader()
    messages.until(20)
    with member(site), pytest.raises(RescueError, match=r"has members now \(1\)"):
        ended.result(WAIT_S)
    site._producer.abort_transaction(WAIT_S)
    until(lambda: member_count(admin_client(site.kafka), site.dead.group) == 0, "the member has left")
    assert site.rescue().requests == 0
    assert len(messages.until(20)) == 20


def failure_of(task: RescueTask) -> BaseException:
    """Runs a rescue that must fail and returns why it did."""
    try:
        task.run()
    except RescueError as error:
        return error
    return AssertionError("the rescue has ended well")


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_are_seen_whatever_protocol_they_speak(site: Site, protocol: str) -> None:
    """A group of the newer protocol is no group to an older question."""
    admin = admin_client(site.kafka)
    assert member_count(admin, site.dead.group) == 0
    with member(site, **{"group.protocol": protocol}):
        assert member_count(admin, site.dead.group) == 1
    until(lambda: member_count(admin, site.dead.group) == 0, "the member has left")


@contextmanager
def member(site: Site, **settings: str) -> Iterator[None]:
    """A backend of the dead cluster that came back: it joins, and reads nothing."""
    joined, leave = threading.Event(), threading.Event()

    def run() -> None:
        own = {"group.id": site.dead.group, "enable.auto.commit": False}
        consumer = Consumer(site.kafka | own | settings)
        consumer.subscribe([site.dead.topic], on_assign=lambda *_: joined.set())
        while not leave.is_set():
            consumer.poll(0.1)
        consumer.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert joined.wait(WAIT_S)
    try:
        yield
    finally:
        leave.set()
        thread.join(WAIT_S)


def test_an_older_rescuer_is_fenced_by_a_newer_one(site: Site) -> None:
    """A leader that slept wakes up: what it has in hand is moved by somebody else."""
    site.forward(20)
    old = site.task()
    old._writer.take_over()
    site.rescue()
    with pytest.raises(FencedError):
        old._writer.transact(lambda producer: producer.produce(site.dead.topic, b"x"))
    assert len(site.reader().until(20)) == 20


def test_an_open_transaction_is_waited_for(site: Site) -> None:
    """A router was killed in it: until it ends nobody knows whether its requests are any."""
    site.forward(10)
    site.forward(5, end="open")
    assert request_waits(site.kafka, site.dead) is True
    task = site.task()
    rescue = threading.Thread(target=task.run, daemon=True)
    rescue.start()
    messages = site.reader()
    messages.until(10)
    assert rescue.is_alive()
    site._producer.abort_transaction(WAIT_S)
    rescue.join(WAIT_S)
    assert not rescue.is_alive()
    assert task.requests == 10
    assert request_waits(site.kafka, site.dead) is False


def test_stopping_ends_it_between_two_batches(site: Site) -> None:
    """Leadership was lost: the successor moves the rest."""
    site.forward(30)
    task = site.task()
    task.stop()
    with pytest.raises(RescueError, match="does not lead any longer"):
        task.run()
    assert site.rescue().requests == 30
