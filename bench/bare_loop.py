"""The bare loop that the router is measured against: consume, hash the record key, produce, commit.

Same guarantee (one transaction per batch with the consumed offsets), same client settings, same
timestamp, headers and explicit partitions, the same overlap of the commit with the next batch. It
parses nothing, has no mapping, no dead letters, no reports, and cannot recover from an error.

    python -m bench.bare_loop '{"bootstrap": ..., "ingest": ..., "group": ..., "topics": {topic: partitions}}'
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import mmh3
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.kafka_settings import router_consumer, router_producer

BATCH = 20_000
"""Records per transaction at most, as in the router; what has been fetched is usually less."""


def main() -> None:
    """Forwards until it is killed."""
    given = json.loads(sys.argv[1])
    kafka = {"bootstrap.servers": given["bootstrap"]}
    ingest = given["ingest"]
    targets = [(topic, number) for topic, count in given["topics"].items() for number in range(count)]
    headers: Any = [("foreshard-shard", b"17"), ("foreshard-type", b"update"), ("foreshard-mapping", b"1.1")]
    consumer = Consumer(router_consumer(kafka, given["group"]))
    producer = Producer(router_producer(kafka, given["group"]))
    producer.init_transactions(30)
    consumer.subscribe([ingest])
    committer = ThreadPoolExecutor(1)
    pending: Future[None] | None = None
    produce, digest = producer.produce, mmh3.mmh3_x64_128_utupledigest
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
            pending.result()
            pending = None
        if not batch:
            continue
        producer.begin_transaction()
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
        pending = committer.submit(commit, producer, places, group)


def commit(producer: Producer, places: list[TopicPartition], group: object) -> None:
    """Adds the offsets and commits."""
    producer.send_offsets_to_transaction(places, group, 30)
    producer.commit_transaction(30)


if __name__ == "__main__":
    main()
