"""A backend of a run: an ordinary consumer that writes down what it processes, and then commits.

It does all that the promise asks of a backend and nothing else: read_committed, earliest, a classic
group, commits after processing. A row is in the file, by a system call of its own, before the offset
after it is committed: SIGKILL loses nothing that was processed.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from app.chaos.traffic import identity
from streams.kafka_settings import EVERY_CLIENT

ROW = np.dtype([("id", "<u4"), ("seq", "<u4"), ("ns", "<u8"), ("partition", "<u4"), ("offset", "<u8")])
"""One processing: which request, when (monotonic ns, the same clock in all processes of the machine),
and the record's place in the cluster's topic."""
PACK = struct.Struct("<IIQIQ").pack

BATCH = 100
IDLE_S = 0.1
SHORT_S = 0.0005
"""Sleeps below this are not worth a system call; the next one makes up for it."""

CONSUMER = {
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    # A killed backend's partitions are somebody's again after this, not after Kafka's 45 s.
    "session.timeout.ms": 5000,
    "heartbeat.interval.ms": 1000,
    "max.partition.fetch.bytes": 65_536,
    "fetch.queue.backoff.ms": 20,
    "reconnect.backoff.max.ms": 1000,
    **EVERY_CLIENT,
}


class Server:
    """One server that takes 1 / rate seconds for a request; it never works faster to catch up."""

    def __init__(self, rate_rps: float) -> None:
        self._each_s = 1 / rate_rps if rate_rps else 0.0
        self._free_at = 0.0

    def serve(self) -> None:
        """Returns when one more request has been worked on."""
        if not self._each_s:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - 0.05) + self._each_s
        if self._free_at - now > SHORT_S:
            time.sleep(self._free_at - now)


class Worker:
    """Consumes one topic until `stop`."""

    def __init__(self, kafka: dict[str, Any], server: Server, commit_s: float, out: int) -> None:
        self._consumer = Consumer(CONSUMER | kafka | {"on_commit": self._committed})
        self._server = server
        self._commit_s = commit_s
        self._out = out
        self._processed: dict[int, int] = {}
        """Partition of ours -> offset after the last record processed."""
        self._dirty = False
        """Whether some of that may not be committed yet."""
        self._mine: set[int] = set()
        self._topic = ""

    def run(self, topic: str, stop: threading.Event) -> None:
        self._topic = topic
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked)
        due = time.monotonic() + self._commit_s
        while not stop.is_set():
            # While records wait there is no pause; an idle topic is looked at ten times a second.
            batch = self._consumer.consume(BATCH, 0.0) or self._consumer.consume(1, IDLE_S)
            for message in batch:
                if message.error() is None and message.partition() in self._mine:
                    self._process(message)
                if time.monotonic() >= due:
                    self._commit()
                    due = time.monotonic() + self._commit_s
                if stop.is_set():
                    break
            if time.monotonic() >= due:
                self._commit()
                due = time.monotonic() + self._commit_s
        self._commit(asynchronous=False)
        self._consumer.close()

    def _process(self, message: Message) -> None:
        self._server.serve()
        number, seq = identity(message.headers())
        partition, offset = message.partition() or 0, message.offset() or 0
        os.write(self._out, PACK(number, seq, time.monotonic_ns(), partition, offset))
        self._processed[partition] = offset + 1
        self._dirty = True

    def _committed(self, error: KafkaError | None, _places: list[TopicPartition]) -> None:
        """Takes in what became of a commit: one that failed is made again at the next interval."""
        self._dirty = self._dirty or error is not None

    def _commit(self, *, asynchronous: bool = True) -> None:
        if not self._dirty:
            return
        places = [TopicPartition(self._topic, part, after) for part, after in self._processed.items()]
        self._dirty = False
        if asynchronous:
            self._consumer.commit(offsets=places, asynchronous=True)
            return
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            # The group went on without us, or the broker is away: the records will be processed again.
            os.write(2, f"not committed: {error}\n".encode())

    def _assigned(self, _consumer: Consumer, places: list[TopicPartition]) -> None:
        self._mine = {place.partition for place in places}

    def _revoked(self, _consumer: Consumer, _places: list[TopicPartition]) -> None:
        self._commit(asynchronous=False)
        self._processed, self._mine, self._dirty = {}, set(), False


def read_rows(path: Path) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Returns ROW[n]: what the backends that wrote this file have processed, in their order."""
    if not path.exists():
        return np.zeros(0, dtype=ROW)
    return np.fromfile(path, dtype=ROW, count=path.stat().st_size // ROW.itemsize)


def main() -> None:
    """Run one backend until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m app.chaos.backend", description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s [default: unlimited]")
    parser.add_argument("--commit-s", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, help="file of processed requests")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    out = os.open(given.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    kafka = {"bootstrap.servers": given.bootstrap, "group.id": given.group}
    Worker(kafka, Server(given.rate), given.commit_s, out).run(given.topic, stop)


if __name__ == "__main__":
    main()
