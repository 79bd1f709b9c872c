"""How far the clusters' consumer groups are: committed offsets and last stable offsets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.records import MappedCluster

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0
"""Longest wait for one broker answer; a reading that takes longer is skipped, not waited for."""


@dataclass(frozen=True)
class Progress:
    """One reading of one cluster's group."""

    cluster: str
    committed: Mapping[int, int]
    """partition -> committed offset; a partition without one is absent."""
    end: Mapping[int, int]
    """partition -> last stable offset of the cluster's topic."""


class ProgressWatcher:
    """A thread that reads the progress of the watched clusters at a fixed interval."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        interval_s: float,
        deliver: Callable[[Progress], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._kafka = dict(kafka)
        self._interval_s = interval_s
        self._deliver = deliver
        self._on_failure = on_failure
        self._clusters: Mapping[str, MappedCluster] = {}
        self._consumers: dict[str, Consumer] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def watch(self, clusters: Mapping[str, MappedCluster]) -> None:
        """Replaces the clusters to watch."""
        self._clusters = dict(clusters)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Asks the thread to end and waits for it at most `timeout_s`."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            admin = AdminClient(self._kafka)
            while not self._ended.wait(self._interval_s):
                for name, cluster in sorted(self._clusters.items()):
                    reading = self._read(admin, name, cluster)
                    if reading is not None:
                        self._deliver(reading)
            for consumer in self._consumers.values():
                consumer.close()
        except Exception as error:  # noqa: BLE001 - a thread that dies unseen would freeze all lags
            self._on_failure(error)

    def _read(self, admin: AdminClient, name: str, cluster: MappedCluster) -> Progress | None:
        """Returns one reading, or None while the broker does not answer."""
        places = [TopicPartition(cluster.topic, number) for number in range(cluster.partitions)]
        try:
            answers = self._consumer(cluster.group).committed(places, timeout=REQUEST_TIMEOUT_S)
            asked = admin.list_offsets(
                {place: OffsetSpec.latest() for place in places},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            end = {place.partition: future.result().offset for place, future in asked.items()}
        except KafkaException as error:
            log.debug("progress of %s not read: %s", name, error)
            return None
        committed = {
            place.partition: place.offset for place in answers if place.offset >= 0 and not place.error
        }
        return Progress(name, committed, end)

    def _consumer(self, group: str) -> Consumer:
        """Returns the never-subscribed consumer that asks for a group's offsets.

        `AdminClient.list_consumer_group_offsets` would abort the process while the broker is away.
        """
        if group not in self._consumers:
            settings = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
            self._consumers[group] = Consumer(self._kafka | settings)
        return self._consumers[group]
