"""Moves slots all the time, so that about a given share is in handoff: `python -m app.bench.mover JSON`.

Every second one plan gives other whole shards to other clusters, in rotation, written as the balancer
writes its plans.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.records import SLOTS, Move, Reason
from streams.core.mapping import Snapshot, advance
from streams.core.plans import apply_moves
from streams.mapping_topic import MappingReader, MappingWriter, plan_messages
from streams.settled import RoutersGroup, asking_consumer, read_notes

PLAN_S = 1.0
"""Seconds between two plans."""
EPOCH = 2
READY_S = 30.0


@dataclass(frozen=True)
class Given:
    """What the bench tells the mover."""

    bootstrap: str
    prefix: str
    mapping_topic: str
    ingest: str
    ingest_partitions: int
    group: str
    shards_per_plan: int


def main() -> None:
    """Writes a plan a second until it is killed."""
    given = Given(**json.loads(sys.argv[1]))
    kafka = {"bootstrap.servers": given.bootstrap}
    snapshot = newest(kafka, given.mapping_topic)
    writer = MappingWriter(kafka, given.prefix)
    writer.take_over()
    consumer = asking_consumer(kafka, given.group)
    routers = RoutersGroup(given.group, given.ingest, given.ingest_partitions)
    due = time.monotonic()
    for shards in rotation(snapshot.shards, given.shards_per_plan):
        settled = min(read_notes(consumer, routers).settled.values())
        moves = list(moves_of(snapshot, shards))
        records, meta = apply_moves(
            snapshot,
            moves,
            epoch=EPOCH,
            plan=f"{EPOCH}.{snapshot.version}",
            clusters=snapshot.clusters,
            settled=settled,
        )
        writer.write(plan_messages(given.mapping_topic, records, meta))
        snapshot = advance(snapshot, {record.shard: record for record in records}, meta)
        due += PLAN_S
        time.sleep(max(0.0, due - time.monotonic()))


def newest(kafka: dict[str, str], topic: str) -> Snapshot:
    """Returns the mapping as it is now."""
    failures: list[BaseException] = []
    reader = MappingReader(dict(kafka), topic, on_failure=failures.append)
    reader.start()
    ready = reader.ready.wait(READY_S)
    reader.stop()
    if failures:
        raise failures[0]
    if not ready or reader.snapshot is None:
        raise RuntimeError(f"{topic} holds no mapping")
    return reader.snapshot


def rotation(shards: int, count: int) -> Iterator[list[int]]:
    """Yields `count` shards at a time, all of them in turn, for ever."""
    first = 0
    while True:
        yield sorted({(first + number) % shards for number in range(count)})
        first = (first + count) % shards


def moves_of(snapshot: Snapshot, shards: list[int]) -> Iterator[Move]:
    """Yields the moves that give each shard, wholly its first slot's cluster's, to the next cluster."""
    for shard in shards:
        source = snapshot.owner(shard * SLOTS)
        target = snapshot.names[(snapshot.names.index(source) + 1) % len(snapshot.names)]
        yield Move(
            shard=shard,
            source=source,
            target=target,
            slots=[(0, SLOTS)],
            load_cps=0.0,
            reason=Reason.PREDICTED_OVERLOAD,
        )


if __name__ == "__main__":
    main()
