"""Sends what a router counted: a load report per window, its part of the stored history per step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException, Producer

from schemas.records import HandoffLoad, Record
from schemas.topics import LOAD
from streams import metrics
from streams.clock import Clock
from streams.core.fences import ClusterNumbers
from streams.core.load import WINDOW_S
from streams.core.load_parts import history_parts, report_parts
from streams.core.routing import Routed
from streams.core.steps import STEP_S
from streams.core.tally import Tally, arrival_times
from streams.kafka_settings import report_producer

log = logging.getLogger(__name__)

HISTORY_LATE_S = 10.0
"""Model seconds after a step's end until its history is sent: requests of it are still under way. Sent
at its end, a step missed 13 % of its requests where forwarding took half a second at time scale 10."""

FLUSH_S = 1.0
"""Seconds that the last reports get when the router stops; a broker that is away must not keep it."""


class LoadReporter:
    """Counts committed batches and reports them; the router's thread calls `committed`, `begin`, `end`."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        prefix: str,
        tally: Tally,
        numbers: ClusterNumbers,
        clock: Clock,
        lag: Callable[[int, int], int],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._topic = prefix + LOAD.name
        self._producer = Producer(report_producer(kafka))
        self._tally = tally
        self._numbers = numbers
        self.handoffs = HandoffLoad()
        """What is on its way now; replaced by the router's thread."""
        self._clock = clock
        self._lag = lag
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._version = (0, 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Starts to report."""
        self._thread.start()

    def begin(self, partition: int, offset: int) -> None:
        """The router reads the partition from `offset` on."""
        with self._lock:
            self._tally.begin(partition, offset)

    def end(self, partitions: list[int]) -> None:
        """The router has lost these partitions."""
        with self._lock:
            self._tally.end(partitions)

    def committed(self, routed: Routed, positions: Mapping[int, int], version: tuple[int, int]) -> None:
        """Counts a batch whose transaction is committed, under a mapping (epoch, version)."""
        clock = self._clock
        times = arrival_times(routed.taken.timestamp_ms, clock.model(0.0), clock.time_scale, clock.now())
        with self._lock:
            self._version = version
            self._tally.add(routed, positions, self._numbers, times)

    def stop(self) -> None:
        """Reports the rest, so that the ranges of the next owner join up."""
        self._stopping.set()
        self._thread.join(FLUSH_S)
        unsent = self._producer.flush(FLUSH_S)
        if unsent or self._thread.is_alive():
            log.warning("%d load records were not sent in time; the balancer estimates them", unsent)

    def _run(self) -> None:
        try:
            window = int(self._clock.now() // WINDOW_S)
            step = int((self._clock.now() - HISTORY_LATE_S) // STEP_S)
            while True:
                next_s = min((window + 1) * WINDOW_S, (step + 1) * STEP_S + HISTORY_LATE_S)
                stopped = self._stopping.wait(max(0.0, self._clock.wall_duration(next_s - self._clock.now())))
                now = self._clock.now()
                if stopped or now >= (window + 1) * WINDOW_S:
                    newest = max(window + 1, int(now // WINDOW_S))
                    self._report(window * WINDOW_S, newest * WINDOW_S)
                    window = newest
                if stopped or now >= (step + 1) * STEP_S + HISTORY_LATE_S:
                    newest = max(step + 1, int((now - HISTORY_LATE_S) // STEP_S))
                    self._history(newest - 1)
                    step = newest
                if stopped:
                    return
        except BaseException as error:  # noqa: BLE001 - a router that reports nothing must not go on unseen
            self._on_failure(error)

    def _report(self, window_from: float, window_to: float) -> None:
        with self._lock:
            report = self._tally.report((window_from, window_to), self._version, self._lag, self.handoffs)
        for part in report_parts(report):
            self._send("report", part)

    def _history(self, step: int) -> None:
        with self._lock:
            records = self._tally.history(step)
        for record in records:
            for part in history_parts(record):
                self._send("history", part)

    def _send(self, kind: str, record: Record) -> None:
        try:
            self._producer.produce(self._topic, record.to_json(), self._tally.router.encode())
        except (BufferError, KafkaException) as error:
            log.warning("a load %s was not sent: %s", kind, error)
        self._producer.poll(0)
        metrics.LOAD_RECORDS.labels(kind).inc()
