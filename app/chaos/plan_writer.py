"""The process that changes the mapping of a run every second, as a balancer without reason would."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import KafkaException

from app.chaos.moves import Mover
from app.chaos.settings import (
    CLUSTER_PARTITIONS,
    CLUSTERS,
    INGEST_PARTITIONS,
    PLAN_S,
    ROUTER_GROUP,
    group_of,
    topic_of,
)
from app.config import Config, load
from schemas.records import ClusterState, MappedCluster, MappingMeta, MappingRecord
from schemas.topics import MAPPING
from streams.core.mapping import Snapshot, advance
from streams.core.plans import apply_moves, first_mapping
from streams.mapping_topic import MappingReader, MappingWriter, plan_messages
from streams.settled import RoutersGroup, asking_consumer, read_notes

READ_S = 60.0

Plan = tuple[list[MappingRecord], MappingMeta]


def mapped_clusters() -> dict[str, MappedCluster]:
    """Returns the run's clusters as the mapping names them."""
    return {
        name: MappedCluster(
            topic=topic_of(name),
            group=group_of(name),
            partitions=CLUSTER_PARTITIONS,
            state=ClusterState.ACTIVE,
        )
        for name in CLUSTERS
    }


class PlanWriter:
    """Takes over, then writes one plan after another."""

    def __init__(self, config: Config, out: int) -> None:
        self._config = config
        self._topic = config.topic(MAPPING)
        self._out = out
        self._writer = MappingWriter(config.kafka, config.prefix)
        self._snapshot: Snapshot | None = None
        self._epoch = 1
        self._settled = SettledVersion(config)

    def take_over(self) -> None:
        """Fences the writer before, reads what it left, and writes meta with the next epoch."""
        self._writer.take_over()
        self._snapshot = _read_mapping(self._config.kafka, self._topic)
        if self._snapshot is None:
            weights = dict.fromkeys(CLUSTERS, 1.0)
            rules = self._config.rules
            self._write(
                first_mapping(rules.shards, weights, mapped_clusters(), 1, rules.rules_hash(), "1.0"), 0
            )
            return
        self._epoch = self._snapshot.epoch + 1
        meta = MappingMeta(
            version=self._snapshot.version,
            epoch=self._epoch,
            shards=self._snapshot.shards,
            rules_hash=self._snapshot.rules_hash,
            clusters=dict(self._snapshot.clusters),
        )
        self._write(([], meta), 0)

    def change(self, mover: Mover) -> None:
        """Writes the next plan, if the mover has moves for one."""
        assert self._snapshot is not None
        settled = self._settled.read()
        moves = mover.choose(self._snapshot, settled)
        if not moves:
            return
        plan = f"{self._epoch}.{self._snapshot.version}"
        clusters = mapped_clusters()
        self._write(
            apply_moves(
                self._snapshot, moves, epoch=self._epoch, plan=plan, clusters=clusters, settled=settled
            ),
            settled,
        )

    def _write(self, plan: Plan, settled: int) -> None:
        records, meta = plan
        self._writer.write(plan_messages(self._topic, records, meta))
        self._snapshot = advance(self._snapshot, {record.shard: record for record in records}, meta)
        row = {
            "ns": time.monotonic_ns(),
            "version": meta.version,
            "epoch": meta.epoch,
            "settled": settled,
            "shards": [record.shard for record in records],
        }
        os.write(self._out, orjson.dumps(row) + b"\n")


def _read_mapping(kafka: dict[str, Any], topic: str) -> Snapshot | None:
    """Returns the mapping as the topic has it now; None where it has none."""
    failures: list[BaseException] = []
    reader = MappingReader(kafka, topic, on_failure=failures.append)
    reader.start()
    try:
        if not reader.ready.wait(READ_S):
            raise SystemExit(f"{topic} was not read within {READ_S:.0f} s {failures}")
        return reader.snapshot
    finally:
        reader.stop()


class SettledVersion:
    """The mapping version that every ingest partition has settled, as the routers' offsets say."""

    def __init__(self, config: Config) -> None:
        self._routers = RoutersGroup(ROUTER_GROUP, config.ingest, INGEST_PARTITIONS)
        self._consumer = asking_consumer(config.kafka, ROUTER_GROUP)
        self._last = 0

    def read(self) -> int:
        """Returns the lowest of all partitions; the last one known while the broker does not answer."""
        with contextlib.suppress(KafkaException):
            self._last = min(read_notes(self._consumer, self._routers).settled.values())
        return self._last


def run(writer: PlanWriter, mover: Mover, wait: Callable[[float], bool]) -> None:
    """Changes the mapping every PLAN_S until `wait` says that it is over."""
    writer.take_over()
    due = time.monotonic()
    while not wait(max(0.0, due - time.monotonic())):
        due = max(due + PLAN_S, time.monotonic())
        writer.change(mover)


def main() -> None:
    """Change the mapping at random until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m app.chaos.plan_writer", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rule", choices=("kept", "broken"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="file of the plans that were written")
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    out = os.open(given.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    # Restarted, it reads what was written before and goes on with other moves.
    mover = Mover(given.seed + given.out.stat().st_size, tuple(CLUSTERS), keep_rule=given.rule == "kept")
    run(PlanWriter(load(given.config, {}), out), mover, stop.wait)


if __name__ == "__main__":
    main()
