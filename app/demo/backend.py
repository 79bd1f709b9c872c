"""A sample backend: an ordinary Kafka consumer that really takes time for every request.

It knows nothing of foreshard but reads one header that routers add, to know what a request costs.
"""

from __future__ import annotations

import argparse
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

RECORD = np.dtype(
    [("seq", "<u4"), ("begin", "<f8"), ("timestamp", "<i8"), ("partition", "<u2"), ("cost", "<f4")]
)
"""One processed request: its number, when work on it began (wall s), its Kafka timestamp (ms)."""
PACK = struct.Struct("<IdqHf").pack

BATCH = 50
"""Requests taken from the client at once: 0.1-0.3 s of work, so a stop is never far."""
COMMIT_S = 0.2
"""Wall seconds between commits: the lag that others see is late by this much at most."""
CREDIT_S = 1.0
"""A server with work waiting may catch up this much after a sleep that took too long, so that its mean
rate is exact on a busy machine too."""
SHORT_S = 0.0005
"""Sleeps below this are not worth a system call; the next one makes up for it."""
IDLE_S = 0.1

CONSUMER = {
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    # Small fetches (0.5 s of work): the partitions of a backlog take turns, as in one queue.
    "max.partition.fetch.bytes": 65_536,
    "queued.min.messages": 1000,
    "fetch.queue.backoff.ms": 20,  # a full queue is looked at again this soon; 1 s by default
}


class Server:
    """One queue, one server: work on a request begins at max(now, end of the previous one)."""

    def __init__(self, rate_cps: float) -> None:
        self._rate_cps = rate_cps
        self._free_at = 0.0

    def wake(self, now: float) -> None:
        """The queue was empty until now: there is nothing to catch up with."""
        self._free_at = max(self._free_at, now)

    def serve(self, cost: float) -> float:
        """Works on a request for cost / rate seconds; returns when that began, by the wall clock."""
        begin = time.time()
        self._free_at = max(self._free_at, begin - CREDIT_S) + cost / self._rate_cps
        rest = self._free_at - time.time()
        if rest > SHORT_S:
            time.sleep(rest)
        return begin


class Backend:
    """Consumes one topic until `stop`; every processed request is one row of `out`."""

    def __init__(self, consumer: Consumer, server: Server, costs: dict[str, float], out: BinaryIO) -> None:
        self._consumer = consumer
        self._server = server
        self._costs = {name.encode(): cost for name, cost in costs.items()}
        self._other = costs.get("*", 1.0)
        self._out = out
        self._rows = bytearray()
        self._positions: dict[tuple[str, int], int] = {}
        self._saved_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            batch = self._consumer.consume(BATCH, 0.0)
            if not batch:
                batch = self._wait()
                self._server.wake(time.time())
            for message in batch:
                if stop.is_set():
                    break
                self._serve(message)
            if time.monotonic() - self._saved_at >= COMMIT_S:
                self.save(asynchronous=True)
        self.save(asynchronous=False)

    def save(self, *, asynchronous: bool) -> None:
        """Writes the rows down, then commits what they stand for."""
        self._out.write(self._rows)
        self._out.flush()
        self._rows.clear()
        self._saved_at = time.monotonic()
        if self._positions:
            places = [
                TopicPartition(topic, part, offset) for (topic, part), offset in self._positions.items()
            ]
            self._positions = {}
            if asynchronous:
                self._consumer.commit(offsets=places, asynchronous=True)
            else:
                self._consumer.commit(offsets=places, asynchronous=False)

    def _wait(self) -> list[Message]:
        first = self._consumer.poll(IDLE_S)
        return [] if first is None else [first]

    def _serve(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaException(error)
            return
        headers: dict[str, Any] = dict(message.headers() or [])
        cost = self._costs.get(headers.get("foreshard-type", b""), self._other)
        begin = self._server.serve(cost)
        partition, offset, topic = message.partition(), message.offset(), message.topic()
        if partition is None or offset is None or topic is None:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "a message without a place"))
        self._rows += PACK(int(headers["seq"]), begin, message.timestamp()[1], partition, cost)
        self._positions[(topic, partition)] = offset + 1


def read_rows(path: Path) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Returns RECORD[n]: what a backend has processed; a row that is half written is left out."""
    if not path.exists():
        return np.zeros(0, dtype=RECORD)
    whole = path.stat().st_size // RECORD.itemsize
    return np.fromfile(path, dtype=RECORD, count=whole)


def main() -> None:
    """Run one backend until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m app.demo.backend", description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rate", type=float, required=True, help="cost units per wall second")
    parser.add_argument("--costs", default="{}", help='JSON: {"type": cost, "*": cost}')
    parser.add_argument("--out", type=Path, required=True, help="file of processed requests")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    consumer = Consumer(CONSUMER | {"bootstrap.servers": arguments.bootstrap, "group.id": arguments.group})
    consumer.subscribe([arguments.topic])
    try:
        with arguments.out.open("ab") as out:
            Backend(consumer, Server(arguments.rate), orjson.loads(arguments.costs), out).run(stop)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
