"""The bare loop that the router is measured against: consume, hash the record key, produce, commit.

Exactly-once: one transaction per batch with the consumed offsets. At-least-once: idempotent producer,
flush, all deliveries confirmed, then the offsets. Both with the router's client settings, its largest
batch, its timestamp, three headers and explicit partitions, and the wait for batch n running beside
consuming and hashing batch n+1. It parses nothing, has no mapping, no dead letters, no reports, and
cannot recover from an error.

    python -m bench.bare_loop '{"bootstrap": ..., "ingest": ..., "group": ..., "guarantee": ...,
                                "mapping": ..., "topics": {topic: partitions}}'
"""

from __future__ import annotations

import gc
import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import mmh3
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from streams.kafka_settings import router_consumer, router_producer

BATCH = 20_000
"""Records per transaction at most, as in the router; what has been fetched is usually less."""

WAIT_S = 30

GC_THRESHOLDS = (100_000, 50, 50)
"""As in the router (app/host.py)."""


class ExactlyOnce:
    """One transaction per batch."""

    def __init__(self, kafka: dict[str, Any], group: str) -> None:
        self.producer = Producer(router_producer(kafka, group))
        self.producer.init_transactions(WAIT_S)
        self.begin = self.producer.begin_transaction

    def finish(self, places: list[TopicPartition], group: object) -> None:
        """Runs beside the next batch."""
        self.producer.send_offsets_to_transaction(places, group, WAIT_S)
        self.producer.commit_transaction(WAIT_S)

    def settle(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """What the loop's thread does once `finish` is over."""


class AtLeastOnce:
    """Flush, every delivery confirmed, then the offsets."""

    def __init__(self, kafka: dict[str, Any], _group: str) -> None:
        report = {"delivery.report.only.error": True, "on_delivery": self._refused}
        self.producer = Producer(router_producer(kafka) | report)

    def _refused(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            raise RuntimeError(f"not delivered: {error}")

    def begin(self) -> None:
        """Nothing to begin."""

    def finish(self, _places: list[TopicPartition], _group: object) -> None:
        """Runs beside the next batch."""
        if self.producer.flush(WAIT_S):
            raise RuntimeError("the broker did not take a batch")

    def settle(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """A commit beside a running consume hangs: the loop's own thread does it."""
        consumer.commit(offsets=places, asynchronous=False)


def main() -> None:
    """Forwards until it is killed."""
    given = json.loads(sys.argv[1])
    kafka = {"bootstrap.servers": given["bootstrap"]}
    ingest = given["ingest"]
    targets = [(topic, number) for topic, count in given["topics"].items() for number in range(count)]
    headers: Any = [
        ("foreshard-shard", b"17"),
        ("foreshard-type", b"update"),
        ("foreshard-mapping", given["mapping"].encode()),
    ]
    consumer = Consumer(router_consumer(kafka, given["group"]))
    kind = ExactlyOnce if given["guarantee"] == "exactly-once" else AtLeastOnce
    out = kind(kafka, given["group"])
    consumer.subscribe([ingest])
    finisher = ThreadPoolExecutor(1)
    pending: tuple[Future[None], list[TopicPartition]] | None = None
    produce, digest = out.producer.produce, mmh3.mmh3_x64_128_utupledigest
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    while True:
        batch: list[Any] = consumer.consume(1, 0.1)
        if batch:
            batch += consumer.consume(BATCH - 1, 0.0)
        group = consumer.consumer_group_metadata()
        routed = []
        offsets = {}
        for message in batch:
            key = message.key()
            routed.append(targets[digest(key)[0] % len(targets)])
            offsets[message.partition()] = message.offset() + 1
        if pending is not None:
            pending[0].result()
            out.settle(consumer, pending[1])
            pending = None
        if not batch:
            continue
        out.begin()
        for message, (topic, partition) in zip(batch, routed, strict=True):
            produce(
                topic,
                message.value(),
                message.key(),
                partition,
                None,
                None,
                message.timestamp()[1],
                headers,
            )
        places = [TopicPartition(ingest, partition, offset) for partition, offset in offsets.items()]
        pending = finisher.submit(out.finish, places, group), places


if __name__ == "__main__":
    main()
