"""Reads cluster topics as a backend would and times what comes: `python -m app.bench.live_reader JSON`."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from app.bench.percentiles import percentiles
from app.bench.stage import NAME
from app.bench.workload import SENT_AT

SILENCE_S = 2.0
"""Seconds without a counted request, after the end, that mean: all have come."""


def main() -> None:
    """Prints p50, p99 and p999 in ms of the requests sent in the counted time, and how many they are."""
    given = json.loads(sys.argv[1])
    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": f"{NAME}-live-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 1,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_END) for topic, number in given["places"]])
    latencies_ns: list[int] = []
    newest = given["end_ns"]
    while time.monotonic_ns() < newest + SILENCE_S * 1e9:
        batch = consumer.consume(1, 0.1)
        if batch:
            batch += consumer.consume(10_000, 0)
        now = time.monotonic_ns()
        for message in batch:
            value = message.value()
            if message.error() is not None or value is None:
                continue
            sent = int(value[SENT_AT])
            if given["count_from_ns"] <= sent < given["end_ns"]:
                latencies_ns.append(now - sent)
                newest = max(newest, now)
    consumer.close()
    found = percentiles(np.array(latencies_ns) / 1e6)
    sys.stdout.write(json.dumps({**found, "counted": len(latencies_ns)}))


if __name__ == "__main__":
    main()
