"""The gate: before a variant is measured, what it writes must be what the router promises."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from app.bench.peers import Environment
from app.bench.running import Watcher, running
from app.bench.stage import (
    CLUSTER_PARTITIONS,
    INGEST_PARTITIONS,
    MAPPING_HEADER,
    NAME,
    Job,
    Stage,
    clusters,
    output_places,
)
from app.bench.variants import EOS, Variant
from app.bench.workload import TYPE_FIELD, shard_and_slot
from schemas.errors import ForeshardError
from streams.core.mapping import Snapshot
from streams.core.routing import HEADER_MAPPING, HEADER_SHARD, HEADER_TYPE

INGEST = f"{NAME}.gate"
REQUESTS = 20_000
SIZE_BYTES = 220

ROUTE_S = 120.0
"""Longest time for the gate's requests; stock Faust needs about 6 s."""
READ_S = 60.0

SHOWN = 3
"""Differences named in the error."""


@dataclass(frozen=True)
class Delivered:
    """A request as a cluster's topic has it, or as the ingest topic has it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    timestamp_ms: int
    headers: dict[str, bytes]


@dataclass(frozen=True)
class Expected:
    """Where a request must be, and with which headers."""

    topic: str
    partition: int
    headers: dict[str, bytes]


class Gate:
    """Holds the source records; made once per benchmark."""

    def __init__(self, stage: Stage) -> None:
        stage.write_requests(INGEST, SIZE_BYTES, REQUESTS)
        self._stage = stage
        places = [TopicPartition(INGEST, number, 0) for number in range(INGEST_PARTITIONS)]
        self._sources = {sequence(record): record for record in read(stage.bootstrap, places)}
        if len(self._sources) != REQUESTS:
            raise ForeshardError(f"the gate wrote {REQUESTS} requests and read {len(self._sources)}")

    def check(self, variant: Variant, environment: Environment) -> None:
        """Raises ForeshardError where what the variant wrote differs from what it was given."""
        stage = self._stage
        job = Job(variant, INGEST, f"{NAME}-gate-{variant.name}")
        ends = stage.end_offsets(output_places())
        self._run(job, environment)
        starts = [TopicPartition(topic, number, offset) for (topic, number), offset in ends.items()]
        written = read(stage.bootstrap, starts)
        found = differences(variant, self._sources, written, stage.snapshot(job))
        stage.clear_outputs()
        if found:
            listed = "; ".join(found[:SHOWN])
            raise ForeshardError(
                f"{variant.name} does not do the work: {len(found)} differences, such as {listed}"
            )

    def _run(self, job: Job, environment: Environment) -> None:
        with running(self._stage, job, environment) as processes:
            watcher = Watcher(self._stage.bootstrap, INGEST, job.group)
            deadline = time.monotonic() + ROUTE_S
            try:
                while (watcher.committed() or 0) < REQUESTS:
                    processes.check()
                    if time.monotonic() > deadline:
                        raise ForeshardError(
                            f"{job.variant.name} has not routed {REQUESTS} requests in {ROUTE_S} s"
                        )
                    time.sleep(0.05)
            finally:
                watcher.close()


def sequence(record: Delivered) -> int:
    """Returns the number of a request."""
    return int(orjson.loads(record.value)["seq"])


def expected(value: bytes, snapshot: Snapshot) -> Expected:
    """Returns where a request must be."""
    parsed = orjson.loads(value)
    shard, slot = shard_and_slot(parsed, snapshot.shards)
    headers = {
        HEADER_SHARD: b"%d" % shard,
        HEADER_TYPE: parsed[TYPE_FIELD].encode(),
        HEADER_MAPPING: MAPPING_HEADER.encode(),
    }
    return Expected(clusters()[snapshot.owner(slot)].topic, slot % CLUSTER_PARTITIONS, headers)


def differences(
    variant: Variant, sources: dict[int, Delivered], written: Sequence[Delivered], snapshot: Snapshot
) -> list[str]:
    """Returns what is missing, twice, changed, in the wrong place or out of order; [] is good."""
    found = []
    copies: dict[int, list[Delivered]] = defaultdict(list)
    last: dict[tuple[str, int, bytes | None], int] = {}
    for record in written:
        number = sequence(record)
        lane = (record.topic, record.partition, record.key)
        if number not in copies and last.get(lane, -1) > number:
            found.append(f"request {number} comes after {last[lane]} of the same user in {lane[:2]}")
        last[lane] = max(number, last.get(lane, -1))
        copies[number].append(record)
    for number, source in sources.items():
        if number not in copies:
            found.append(f"request {number} is missing")
            continue
        if variant.guarantee == EOS and len(copies[number]) > 1:
            found.append(f"request {number} is there {len(copies[number])} times")
        found += _changes(variant, number, source, copies[number][0], snapshot)
    return found


def _changes(
    variant: Variant, number: int, source: Delivered, record: Delivered, snapshot: Snapshot
) -> Iterator[str]:
    """Yields how a written request differs from what it must be."""
    wanted = expected(source.value, snapshot)
    for name in ("key", "value", "timestamp_ms"):
        if getattr(source, name) != getattr(record, name):
            yield f"request {number} has the {name} {getattr(record, name)!r}, not {getattr(source, name)!r}"
    if not variant.routes_fully:
        if record.headers.keys() != wanted.headers.keys():
            yield f"request {number} has the headers {sorted(record.headers)}"
        return
    if (record.topic, record.partition) != (wanted.topic, wanted.partition):
        place = f"{record.topic}[{record.partition}]"
        yield f"request {number} is in {place}, not in {wanted.topic}[{wanted.partition}]"
    if record.headers != wanted.headers:
        yield f"request {number} has the headers {record.headers}, not {wanted.headers}"


def read(bootstrap: str, starts: list[TopicPartition]) -> list[Delivered]:
    """Returns the committed records of the partitions from these offsets to their ends."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{NAME}-gate-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign(starts)
    left = {(place.topic, place.partition) for place in starts}
    records = []
    deadline = time.monotonic() + READ_S
    try:
        while left:
            if time.monotonic() > deadline:
                raise ForeshardError(f"the gate could not read {sorted(left)[0]} to its end")
            for message in consumer.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    records.append(_delivered(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard((str(message.topic()), int(message.partition() or 0)))
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    return records


def _delivered(message: Message) -> Delivered:
    headers: Any = message.headers() or ()
    return Delivered(
        topic=str(message.topic()),
        partition=int(message.partition() or 0),
        key=message.key(),
        value=message.value() or b"",
        timestamp_ms=message.timestamp()[1],
        headers=dict(headers),
    )
