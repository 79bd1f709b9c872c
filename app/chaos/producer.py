"""One producer of a run: sends its users' requests, each at its time, until the broker has every one."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from app.chaos.traffic import make_traffic, record
from streams.kafka_settings import EVERY_CLIENT

TICK_S = 0.005
PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    "message.timeout.ms": 0,  # never: a broker that is away is waited for
    "queue.buffering.max.messages": 1_000_000,
    "reconnect.backoff.max.ms": 1000,
    **EVERY_CLIENT,
}


class Sender:
    """Sends requests through one producer; `failed` says why one was not stored, if any was not."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = Producer(PRODUCER | {"bootstrap.servers": bootstrap})
        self._topic = topic
        self.failed = ""

    def send_all(self, seed: int, requests: int, producer: int, begin: float, rate_rps: float) -> None:
        """Sends this producer's requests; request i of all is due at begin + i / rate (monotonic s)."""
        traffic = make_traffic(requests, seed)
        for index in traffic.of_producer(producer).tolist():
            due = begin + index / rate_rps
            while (now := time.monotonic()) < due:
                self._producer.poll(0)
                time.sleep(max(TICK_S, min(0.1, due - now)))
            self._send(*record(traffic, index))
        while self._producer.flush(1):
            pass

    def _send(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        while True:
            try:
                # The type of `headers` admits more than its stub says.
                self._producer.produce(
                    self._topic, value, key, headers=list(headers), on_delivery=self._delivered
                )
                return
            except BufferError:
                self._producer.poll(0.05)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.failed = error.str()


def main() -> None:
    """Send one producer's part of a run, then end; status 1 where the broker refused a request."""
    parser = argparse.ArgumentParser(prog="python -m app.chaos.producer", description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--producer", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests/s of all producers")
    parser.add_argument("--start-file", type=Path, required=True, help="appears with the monotonic start")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    sender = Sender(given.bootstrap, given.topic)
    while not given.start_file.exists():
        time.sleep(TICK_S)
    begin = float(given.start_file.read_text())
    sender.send_all(given.seed, given.requests, given.producer, begin, given.rate)
    if sender.failed:
        raise SystemExit(f"a request was not stored: {sender.failed}")


if __name__ == "__main__":
    main()
