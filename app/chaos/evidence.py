"""Waits until everything was consumed, and gathers what the judge needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException

from app.chaos.backend import ROW, read_rows
from app.chaos.judge import PROCESSED, Evidence, Rows
from app.chaos.readers import AskedReader, VisibleReader, committed, high_watermarks, read_to_end
from app.chaos.settings import (
    CLUSTER_PARTITIONS,
    CLUSTERS,
    INGEST_PARTITIONS,
    ROUTER_GROUP,
    group_of,
    topic_of,
)
from app.chaos.traffic import Traffic, coded
from app.config import Config
from schemas.records import MappingMeta, MappingRecord, mapping_record
from schemas.topics import DEAD_LETTER, MAPPING
from streams.settled import RoutersGroup, asking_consumer, read_notes
from streams.tables import read_table

POLL_S = 0.5


@dataclass
class Scene:
    """Where things are after a run."""

    config: Config
    rows: Mapping[str, list[Path]]
    """Cluster -> the files of its backends."""
    visible: VisibleReader = field(init=False)
    _asking: Consumer = field(init=False)

    def __post_init__(self) -> None:
        self.visible = VisibleReader(self.topics)
        self._asking = asking_consumer(self.kafka, ROUTER_GROUP)

    @property
    def kafka(self) -> dict[str, Any]:
        return self.config.kafka

    @property
    def ingest(self) -> dict[str, int]:
        return {self.config.ingest: INGEST_PARTITIONS}

    @property
    def dead_letter(self) -> str:
        return self.config.topic(DEAD_LETTER)

    @property
    def topics(self) -> list[str]:
        """Returns the topics that routers write requests to, as `VISIBLE` counts them; dead letters last."""
        return [*(topic_of(name) for name in CLUSTERS), self.dead_letter]

    def waiting(self) -> int:
        """Returns the requests that routers have not forwarded yet, held ones included; 1 if unknown."""
        try:
            ends = high_watermarks(self.kafka, self.ingest)
        except (KafkaException, TimeoutError):
            return 1
        done = committed(self.kafka, ROUTER_GROUP, self.ingest)
        return sum(end - done[place] for place, end in ends.items())

    def moving(self) -> int:
        """Returns the ingest partitions that have not settled the newest mapping version."""
        version = max(self._versions(), default=0)
        routers = RoutersGroup(ROUTER_GROUP, self.config.ingest, INGEST_PARTITIONS)
        try:
            notes = read_notes(self._asking, routers)
        except KafkaException:
            return INGEST_PARTITIONS
        return sum(settled < version for settled in notes.settled.values())

    def read_visible(self) -> None:
        """Reads all clusters' topics and the dead-letter topic: when no router runs any more."""
        topics = {topic_of(name): CLUSTER_PARTITIONS for name in CLUSTERS}
        topics[self.dead_letter] = DEAD_LETTER.partitions
        read_to_end(self.kafka, topics, self.visible.take)

    def unprocessed(self) -> int:
        """Returns the partitions whose group has not committed past the last record there."""
        behind = 0
        for name in CLUSTERS:
            done = committed(self.kafka, group_of(name), {topic_of(name): CLUSTER_PARTITIONS})
            behind += sum(done[place] <= self.visible.last.get(place, -1) for place in done)
        return behind

    def processed(self) -> int:
        """Returns the number of rows that backends have written."""
        files = (path for paths in self.rows.values() for path in paths if path.exists())
        return sum(path.stat().st_size for path in files) // ROW.itemsize

    def gather(self, traffic: Traffic) -> Evidence:
        """Returns all evidence, after `read_visible`."""
        asked = AskedReader()
        read_to_end(self.kafka, self.ingest, asked.take)
        return Evidence(
            planned=np.sort(coded(traffic.id, traffic.seq)),
            asked=asked.table(),
            visible=self.visible.table(),
            processed=self._processed_rows(),
            dead_letter=len(CLUSTERS),
        )

    def mapping_changes(self) -> int:
        """Returns the versions of the mapping that changed a shard."""
        return len(self._versions(MappingRecord) - {1})

    def _versions(self, *kinds: type[MappingRecord | MappingMeta]) -> set[int]:
        """Returns the versions of all mapping records, or of those of one kind."""
        records = [mapping_record(m.value()) for m in read_table(self.kafka, self.config.topic(MAPPING))]
        return {record.version for record in records if not kinds or isinstance(record, kinds)}

    def _processed_rows(self) -> Rows:
        parts = []
        for number, name in enumerate(CLUSTERS):
            for path in self.rows[name]:
                rows = read_rows(path)
                part = np.zeros(len(rows), dtype=PROCESSED)
                part["code"], part["ns"], part["topic"] = coded(rows["id"], rows["seq"]), rows["ns"], number
                parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=PROCESSED)


def wait_until_none(
    left: Callable[[], int], moved: Callable[[], int], stall_s: float, deadline: float
) -> int:
    """Returns what is left: more than 0 when nothing moved for `stall_s`, or past the deadline."""
    before, moved_at = -1, time.monotonic()
    while count := left():
        state, now = moved() + count, time.monotonic()
        if state != before:
            before, moved_at = state, now
        if now > deadline or now - moved_at > stall_s:
            return count
        time.sleep(POLL_S)
    return 0
