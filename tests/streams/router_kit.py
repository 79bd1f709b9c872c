"""What the router's tests share: topics, a mapping, router processes, producing, an independent reader."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families

from schemas.records import SLOTS, ClusterState, MappedCluster, Move, Reason
from schemas.topics import DEAD_LETTER, LOAD, MAPPING, ROOM_BYTES
from streams.core.keys import locate
from streams.core.mapping import Snapshot, SnapshotBuilder, ranges
from streams.core.offset_note import OffsetNote, decode_note
from streams.core.plans import apply_moves, first_mapping
from streams.kafka_settings import EVERY_CLIENT
from streams.mapping_topic import MappingWriter, plan_messages
from tests.streams.router_process import rules

ROOT = Path(__file__).parents[2]
ROOMY = {"max.message.bytes": str(1_048_588 + ROOM_BYTES)}
INGEST_PARTITIONS = 4
CLUSTER_PARTITIONS = 3


def wait_for(what: str, check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Returns the first true answer of `check`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@dataclass
class RouterProcess:
    """A running router; `url` answers /readyz."""

    process: subprocess.Popen[str]
    url: str
    errors: Path

    def ready(self) -> tuple[bool, str]:
        """Returns what /readyz says."""
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=2) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        except (OSError, TimeoutError) as error:
            return False, str(error)
        return body["ok"], body["reason"]

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of one of its metrics, 0 where it has none of that name and these labels."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def kill(self) -> None:
        """Ends it with SIGKILL and waits until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def wait_ready(self) -> None:
        """Waits until the router says that it routes."""
        wait_for("router is ready", lambda: self.ready()[0])

    def stderr(self) -> str:
        """Returns what it wrote to stderr so far."""
        return self.errors.read_text()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.process.pid, number)

    def stop(self) -> float:
        """Ends it with SIGTERM, checks that it ended well and returns the seconds it took."""
        started = time.monotonic()
        self.process.terminate()
        status = self.process.wait(10)
        assert status == 0, f"exit status {status}: {self.stderr()}"
        return time.monotonic() - started


@dataclass
class Site:
    """One set of topics with a mapping, on a broker: what routers of a test share."""

    bootstrap: str
    prefix: str
    folder: Path
    clusters: tuple[str, ...] = ("c1", "c2", "c3")
    snapshot: Snapshot | None = None
    states: dict[str, ClusterState] = field(default_factory=dict)
    """States of clusters that are not active."""
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def ingest(self) -> str:
        return self.prefix + "requests"

    @property
    def dead_letter(self) -> str:
        return self.prefix + DEAD_LETTER.name

    def topic(self, cluster: str) -> str:
        """Returns the topic of a cluster."""
        return f"{self.prefix}requests.{cluster}"

    @property
    def kafka(self) -> dict[str, Any]:
        """What every client of the tests begins with."""
        return {"bootstrap.servers": self.bootstrap, **EVERY_CLIENT}

    @property
    def admin(self) -> AdminClient:
        return AdminClient(self.kafka)

    def create(self, name: str, partitions: int, settings: dict[str, str] | None = None) -> None:
        """Makes one topic and waits until every client can see it."""
        admin = self.admin
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings or {})
        admin.create_topics([topic])[name].result(20)

    def create_topics(self) -> None:
        """Makes all topics of the site."""
        self.create(self.ingest, INGEST_PARTITIONS)
        self.create(self.dead_letter, 2, ROOMY)
        self.create(self.prefix + LOAD.name, 1)
        self.create(self.prefix + MAPPING.name, 1, {"cleanup.policy": "compact"})
        for cluster in self.clusters:
            self.create(self.topic(cluster), CLUSTER_PARTITIONS, ROOMY)

    def mapped(self) -> dict[str, MappedCluster]:
        """Returns the clusters as the mapping names them."""
        return {
            name: MappedCluster(
                topic=self.topic(name),
                group=f"{name}-group",
                partitions=CLUSTER_PARTITIONS,
                state=self.states.get(name, ClusterState.ACTIVE),
            )
            for name in self.clusters
        }

    def write_mapping(self, shards: int = 32, rules_hash: str | None = None) -> None:
        """Writes version 1: equal weights."""
        weights = dict.fromkeys(self.clusters, 1.0)
        digest = rules_hash or rules(shards).rules_hash()
        self._write(first_mapping(shards, weights, self.mapped(), 1, digest, "1.0"))

    def write_moves(self, moves: list[Move]) -> None:
        """Writes the next version, with these moves."""
        assert self.snapshot is not None
        self._write(apply_moves(self.snapshot, moves, epoch=1, plan="1.1", clusters=self.mapped()))

    def move(self, users: Iterable[int], target: str) -> None:
        """Writes the next version: the slots of these users go to `target`."""
        assert self.snapshot is not None
        chosen: dict[tuple[int, str], set[int]] = {}
        for slot in map(slot_of, users):
            source = self.snapshot.owner(slot)
            if source != target:
                chosen.setdefault((slot // SLOTS, source), set()).add(slot % SLOTS)
        self.write_moves(
            [
                Move(
                    shard=shard,
                    source=source,
                    target=target,
                    slots=ranges(sorted(slots)),
                    load_cps=1.0,
                    reason=Reason.DRAIN,
                )
                for (shard, source), slots in sorted(chosen.items())
            ]
        )

    def set_state(self, cluster: str, state: ClusterState) -> None:
        """Writes the next version: a cluster has another state."""
        self.states[cluster] = state
        self.write_moves([])

    def owner(self, user: int) -> str:
        """Returns the cluster that owns a user's slot."""
        assert self.snapshot is not None
        return self.snapshot.owner(slot_of(user))

    def users_of(self, cluster: str, count: int) -> list[int]:
        """Returns users of different slots that a cluster owns."""
        found: dict[int, int] = {}
        for user in range(10_000):
            if self.owner(user) == cluster:
                found.setdefault(slot_of(user), user)
            if len(found) == count:
                break
        return list(found.values())

    def send(self, *requests: dict[str, Any]) -> None:
        """Produces requests to the ingest topic, together, and waits until they are there."""
        producer = self.producer(**{"linger.ms": 50})
        for arguments in requests:
            producer.produce(self.ingest, **arguments)
        assert producer.flush(20) == 0

    def commit_at(self, cluster: str, offsets: Mapping[int, int]) -> None:
        """Commits these offsets by partition of a cluster's topic for its group, as its backend would."""
        consumer = Consumer(self.kafka | {"group.id": f"{cluster}-group"})
        places = [TopicPartition(self.topic(cluster), number, offset) for number, offset in offsets.items()]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def notes(self) -> dict[int, tuple[int, OffsetNote | None]]:
        """Returns the routers' committed offset and note of each ingest partition."""
        consumer = self.group_consumer("router")
        places = [TopicPartition(self.ingest, partition) for partition in range(INGEST_PARTITIONS)]
        found = consumer.committed(places, 10)
        consumer.close()
        return {place.partition: (place.offset, decode_note(place.metadata)) for place in found}

    def _write(self, plan: Any) -> None:
        records, meta = plan
        writer = MappingWriter({"bootstrap.servers": self.bootstrap}, self.prefix)
        writer.take_over()
        writer.write(plan_messages(self.prefix + MAPPING.name, records, meta))
        writer.close()
        builder = SnapshotBuilder()
        builder.snapshot = self.snapshot
        for record in (*records, meta):
            builder.apply(record)
        self.snapshot = builder.snapshot

    def router(self, instance: str = "a", **given: Any) -> RouterProcess:
        """Starts a router process and returns it once its web listens."""
        process, errors = self.launch(instance, **given)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 30)
        line = process.stdout.readline() if readable else ""
        assert line.startswith("router "), f"no address within 30 s: {line!r} {errors.read_text()}"
        return RouterProcess(process, line.split()[-1], errors)

    def launch(self, instance: str = "a", **given: Any) -> tuple[subprocess.Popen[str], Path]:
        """Starts a router process; returns it and the file with its stderr."""
        settings = {"bootstrap": self.bootstrap, "prefix": self.prefix, "instance": instance, **given}
        errors = self.folder / f"{instance}-{len(self.running)}.err"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.streams.router_process", json.dumps(settings)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors.open("w"),
            text=True,
        )
        self.running.append(process)
        return process, errors

    def close(self) -> None:
        """Ends whatever still runs."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)

    def producer(self, **settings: Any) -> Producer:
        """Returns a producer for the ingest topic."""
        return Producer(self.kafka | {"enable.idempotence": True} | settings)

    def group_consumer(self, group: str) -> Consumer:
        """Returns a consumer of a group of the site, subscribed to nothing."""
        return Consumer(self.kafka | {"group.id": self.prefix + group})

    def commit_group(self, cluster: str) -> None:
        """Commits the end of every partition of a cluster's topic for its group, as its backend would."""
        consumer = Consumer(self.kafka | {"group.id": f"{cluster}-group"})
        places = [TopicPartition(self.topic(cluster), number) for number in range(CLUSTER_PARTITIONS)]
        for place in places:
            _, place.offset = consumer.get_watermark_offsets(place, 10)
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def values(self, topic: str) -> list[bytes | None]:
        """Returns the values of partition 0 of a topic, up to its end."""
        consumer = self.group_consumer("values")
        place = TopicPartition(topic, 0, 0)
        consumer.assign([place])
        _, end = consumer.get_watermark_offsets(place, 10)
        found: list[bytes | None] = []
        while len(found) < end:
            message = consumer.poll(10)
            assert message is not None, f"{len(found)} of {end} values of {topic}"
            assert message.error() is None, message.error()
            found.append(message.value())
        return found

    def reader(self) -> Reader:
        """Returns an independent reader of all cluster topics and the dead-letter topic."""
        return Reader(self)


class Reader:
    """Reads all cluster topics and the dead-letter topic, read_committed, without a group."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.consumer = Consumer(
            site.kafka
            | {
                "group.id": site.prefix + "reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        wanted = {site.topic(name): CLUSTER_PARTITIONS for name in site.clusters} | {site.dead_letter: 2}
        self.consumer.assign([TopicPartition(t, p, 0) for t, count in wanted.items() for p in range(count)])
        self.forwarded: list[Message] = []
        self.dead: list[Message] = []
        self.arrived: list[float] = []
        """Monotonic time at which each forwarded record was seen."""

    def poll(self, timeout_s: float = 0.1) -> None:
        """Reads what is there."""
        for message in self.consumer.consume(10_000, timeout_s):
            if message.error() is None:
                if message.topic() == self.site.dead_letter:
                    self.dead.append(message)
                else:
                    self.forwarded.append(message)
                    self.arrived.append(time.monotonic())

    def until(self, count: int, timeout_s: float = 20.0) -> None:
        """Reads until `count` records were seen, dead letters included, and on for repeated ones."""
        deadline = time.monotonic() + timeout_s
        while len(self.forwarded) + len(self.dead) < count:
            seen = f"{len(self.forwarded)} forwarded and {len(self.dead)} dead letters"
            assert time.monotonic() < deadline, f"{seen} of {count} after {timeout_s} s"
            self.poll()
        self.poll(0.3)

    def sequences(self) -> list[int]:
        """Returns the producer's sequence number of each forwarded record."""
        return [json.loads(message.value() or b"{}")["seq"] for message in self.forwarded]

    def check_exactly_once(self, count: int) -> None:
        """Fails unless sequences 0..count-1 were each seen once."""
        seen = self.sequences()
        lost, repeated = count - len(set(seen) & set(range(count))), len(seen) - len(set(seen))
        assert (lost, repeated) == (0, 0), f"lost {lost}, repeated {repeated} of {count}"


def listed(message: Message) -> list[tuple[str, str | bytes | None]]:
    """Returns a record's headers in their order."""
    headers = message.headers()
    assert not isinstance(headers, dict)
    return headers or []


def headers_of(message: Message) -> dict[str, bytes]:
    """Returns a record's headers that have a value, by name."""
    return {name: value for name, value in listed(message) if isinstance(value, bytes)}


def request(sequence: int, user: int | None = None, kind: str = "update") -> dict[str, Any]:
    """Returns producer arguments of one good request."""
    who = sequence % 97 if user is None else user
    value = json.dumps({"type": kind, "user": {"id": f"u{who}"}, "seq": sequence}).encode()
    return {"value": value, "key": f"u{who}".encode()}


def slot_of(user: int) -> int:
    """Returns the global slot of a user."""
    return locate(rules(), "update", [f"u{user}"])[1]


@contextmanager
def site_on(bootstrap: str, prefix: str, folder: Path, *, mapping: bool = True) -> Iterator[Site]:
    """A site with its topics, and with a mapping unless told otherwise; its routers end with it."""
    site = Site(bootstrap, prefix + ".", folder)
    site.create_topics()
    if mapping:
        site.write_mapping()
    try:
        yield site
    finally:
        site.close()
