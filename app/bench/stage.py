"""The stage that all variants play on: topics, mapping, the ingest topic, what peers are told."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from app.bench.variants import EOS, Variant
from app.bench.workload import TYPE_FIELD, TYPES, Workload, flush, produce_all
from app.config import load
from schemas.errors import ForeshardError
from schemas.records import ClusterState, MappedCluster
from schemas.topics import DEAD_LETTER, LOAD, MAPPING, ROOM_BYTES
from streams.core.keys import KeyRules, shard_table
from streams.core.mapping import Snapshot, advance
from streams.core.plans import first_mapping
from streams.mapping_topic import MappingWriter, plan_messages

INGEST_PARTITIONS = 6
CLUSTERS = 8
CLUSTER_PARTITIONS = 6
NAME = "foreshard-bench"
"""How the names of all its topics and groups begin: what a run before has left of them is deleted."""

MAPPING_HEADER = "1.1"
"""Epoch and version of the mapping that all variants but the moving one use."""

TOPIC_S = 30.0
"""Seconds that the broker may take to make topics."""

FORGET_S = 60.0
"""Longest wait for another run's groups and topics to go: its members may have been killed."""

CONFIG = """
[kafka]
"bootstrap.servers" = "{bootstrap}"
[topics]
prefix = "{prefix}"
ingest = "{ingest}"
[sharding]
shards = {shards}
type_from = ["json:{type_field}"]
[router]
group = "{group}"
instance = "{group}"
guarantee = "{guarantee}"
[web]
port = 0
"""
CONFIG_TYPE = """
[[request_types]]
name = "{name}"
key = [{key}]
keyspace = "{keyspace}"
"""


@dataclass(frozen=True)
class Job:
    """One run of one variant: what it reads and the consumer group in which it does."""

    variant: Variant
    ingest: str
    group: str

    @property
    def prefix(self) -> str:
        """Returns the prefix of foreshard's own topics: a mapping that moves is one job's alone."""
        return f"{self.group}." if self.variant.movement else f"{NAME}.{self.variant.shards}."


def clusters() -> dict[str, MappedCluster]:
    """Returns the backend clusters by name."""
    return {
        f"c{number}": MappedCluster(
            topic=f"{NAME}.requests.c{number}",
            group=f"{NAME}-backend-c{number}",
            partitions=CLUSTER_PARTITIONS,
            state=ClusterState.ACTIVE,
        )
        for number in range(CLUSTERS)
    }


def output_places() -> list[TopicPartition]:
    """Returns every partition of every cluster's topic."""
    return [
        TopicPartition(cluster.topic, number)
        for cluster in clusters().values()
        for number in range(cluster.partitions)
    ]


class Stage:
    """One broker, prepared: made once per benchmark."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.admin = AdminClient(
            {"bootstrap.servers": bootstrap, "log_level": 0}  # it outlives the broker, and would say so
        )
        self.snapshots: dict[str, Snapshot] = {}
        """By prefix."""
        self._forget()
        roomy = {
            "max.message.bytes": str(1_048_588 + ROOM_BYTES),
            "file.delete.delay.ms": "1000",  # a minute of deleted output by default: tens of GB
        }
        self._make([NewTopic(c.topic, c.partitions, 1, config=roomy) for c in clusters().values()])

    def _forget(self) -> None:
        """Deletes what another run has left on a broker that is not ours alone."""
        deadline = time.monotonic() + FORGET_S
        while left := self._groups() + self._topics():
            if time.monotonic() > deadline:
                raise ForeshardError(f"the broker does not delete {left[0]}, of another run of the benchmark")
            for group in self._groups():
                with contextlib.suppress(KafkaException):  # not empty: a killed member is still remembered
                    self.admin.delete_consumer_groups([group])[group].result(TOPIC_S)
            for topic in self._topics():
                self.delete_topic(topic)
            time.sleep(0.2)

    def _groups(self) -> list[str]:
        groups = self.admin.list_consumer_groups().result(TOPIC_S).valid or []
        return [group.group_id for group in groups if group.group_id.startswith(NAME)]

    def _topics(self) -> list[str]:
        return [name for name in self.admin.list_topics(timeout=TOPIC_S).topics if name.startswith(NAME)]

    def _make(self, topics: list[NewTopic]) -> None:
        for made in self.admin.create_topics(topics).values():
            made.result(TOPIC_S)

    def make_ingest(self, topic: str) -> None:
        """Makes an ingest topic."""
        self._make([NewTopic(topic, INGEST_PARTITIONS, 1)])

    def write_requests(self, topic: str, size_bytes: int, count: int) -> None:
        """Makes the topic and writes the workload's first `count` requests."""
        self.make_ingest(topic)
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "linger.ms": 20,
                "compression.type": "lz4",
                "acks": "all",
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 1 << 20,
            }
        )
        for chunk in Workload(size_bytes).chunks(count):
            produce_all(producer, topic, chunk)
        flush(producer)
        written = sum(self.end_offsets([TopicPartition(topic, n) for n in range(INGEST_PARTITIONS)]).values())
        if written != count:
            raise ForeshardError(f"{topic} holds {written} requests, not the {count} written")

    def end_offsets(self, places: list[TopicPartition]) -> dict[tuple[str, int], int]:
        """Returns the high watermark of each partition."""
        asked = {TopicPartition(place.topic, place.partition): OffsetSpec.latest() for place in places}
        answers = self.admin.list_offsets(asked)
        return {(p.topic, p.partition): int(answer.result(TOPIC_S).offset) for p, answer in answers.items()}

    def clear_outputs(self) -> None:
        """Deletes all that variants have written: no disk fills, no variant pays for another's bytes."""
        ends = self.end_offsets(output_places())
        wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in ends.items()]
        for deleted in self.admin.delete_records(wanted).values():
            deleted.result(TOPIC_S)

    def delete_topic(self, topic: str) -> None:
        """Deletes a topic, whether it is there or not."""
        for deleted in self.admin.delete_topics([topic]).values():
            with contextlib.suppress(KafkaException):
                deleted.result(TOPIC_S)

    def snapshot(self, job: Job) -> Snapshot:
        """Returns the first mapping of the job's prefix, writing it where it is new."""
        prefix = job.prefix
        if prefix not in self.snapshots:
            roomy = {"max.message.bytes": str(1_048_588 + ROOM_BYTES)}
            self._make(
                [
                    NewTopic(prefix + DEAD_LETTER.name, 1, 1, config=roomy),
                    NewTopic(prefix + LOAD.name, 1, 1),
                    NewTopic(prefix + MAPPING.name, 1, 1, config={"cleanup.policy": "compact"}),
                ]
            )
            self.snapshots[prefix] = self._first_mapping(job)
        return self.snapshots[prefix]

    def _first_mapping(self, job: Job) -> Snapshot:
        names = clusters()
        weights = dict.fromkeys(names, 1.0)
        rules_hash = self._rules(job).rules_hash()
        records, meta = first_mapping(job.variant.shards, weights, names, 1, rules_hash, "1.0")
        writer = MappingWriter({"bootstrap.servers": self.bootstrap}, job.prefix)
        writer.take_over()
        writer.write(plan_messages(job.prefix + MAPPING.name, records, meta))
        writer.close()
        return advance(None, {record.shard: record for record in records}, meta)

    def config_path(self, job: Job) -> Path:
        """Returns the configuration file of a foreshard router for this job."""
        types = (
            CONFIG_TYPE.format(
                name=name, key=", ".join(f'"json:{path}"' for path in rule.key), keyspace=rule.keyspace
            )
            for name, rule in TYPES.items()
        )
        text = CONFIG.format(
            bootstrap=self.bootstrap,
            prefix=job.prefix,
            ingest=job.ingest,
            shards=job.variant.shards,
            type_field=TYPE_FIELD,
            group=job.group,
            guarantee=job.variant.guarantee,
        )
        path = self.folder / f"{job.group}.toml"
        path.write_text(text + "".join(types))
        return path

    def _rules(self, job: Job) -> KeyRules:
        """Returns the rules as a router reads them."""
        asked = replace(job, variant=replace(job.variant, guarantee=EOS))
        return load(self.config_path(asked), {}).rules

    def peer_file(self, job: Job) -> Path:
        """Returns the file that tells a peer everything that foreshard has from configuration and mapping."""
        variant = job.variant
        snapshot = self.snapshot(job)
        table = self.folder / f"shards-{variant.shards}.u16"
        owners = self.folder / f"owners-{job.prefix}u16"
        table.write_bytes(shard_table(variant.shards).astype("<u2").tobytes())
        owners.write_bytes(snapshot.owners.astype("<u2").tobytes())
        given = {
            "bootstrap": self.bootstrap,
            "ingest": job.ingest,
            "group": job.group,
            "guarantee": variant.guarantee,
            "threads": variant.workers,
            "type_field": TYPE_FIELD,
            "types": {
                name: {"keyspace": rule.keyspace, "key": list(rule.key)} for name, rule in TYPES.items()
            },
            "shards": variant.shards,
            "shard_table": str(table),
            "owners": str(owners),
            "topics": [snapshot.clusters[name].topic for name in snapshot.names],
            "partitions": CLUSTER_PARTITIONS,
            "mapping": MAPPING_HEADER,
            "folder": str(self.folder / f"state-{job.group}"),
            "extra": {},
        }
        path = self.folder / f"{job.group}.json"
        path.write_text(json.dumps(given))
        return path
