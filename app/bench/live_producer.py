"""Sends requests at a fixed rate, each with its send time: `python -m app.bench.live_producer JSON`."""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Producer

from app.bench.workload import Workload, flush, produce_all

TICK_S = 0.001
"""Seconds between two looks at what is due."""


def main() -> None:
    """Prints how many were sent in how many seconds."""
    given = json.loads(sys.argv[1])
    producer = Producer(
        {"bootstrap.servers": given["bootstrap"], "linger.ms": 1, "compression.type": "lz4", "acks": "all"}
    )
    producer.list_topics(given["ingest"], timeout=10)
    workload = Workload(given["size_bytes"], seed=2)
    begin_s, end_s, rate = given["begin_ns"] / 1e9, given["end_ns"] / 1e9, given["rate"]
    time.sleep(max(0.0, begin_s - time.monotonic()))
    sent = 0
    while (now := time.monotonic()) < end_s:
        due = int((now - begin_s) * rate) - sent
        if due > 0:
            produce_all(producer, given["ingest"], workload.take(due, time.monotonic_ns()))
            sent += due
        time.sleep(TICK_S)
    flush(producer)
    sys.stdout.write(json.dumps({"sent": sent, "seconds": end_s - begin_s}))


if __name__ == "__main__":
    main()
