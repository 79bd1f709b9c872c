"""The router's work in Quix Streams: `router.py FILE`, until it is killed.

`to_topic` cannot say which partition: records go out through the same producer that it uses, by
`produce`, which can, and which saves the making and serializing of a Row.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quixstreams import Application

sys.path.insert(0, str(Path(__file__).parents[1]))
from routing import routing

COMMIT_S = 0.1
"""Seconds between two checkpoints, as in Kafka Streams; 5 by default."""


def main() -> None:
    """Routes until it is killed."""
    rules = routing()
    given, topics, place = rules.given, rules.topics, rules.place
    app = Application(
        broker_address=given["bootstrap"],
        consumer_group=given["group"],
        auto_offset_reset="earliest",
        processing_guarantee=given["guarantee"],
        commit_interval=COMMIT_S,
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=given["folder"],
        loglevel="WARNING",
        consumer_extra_config={
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
            "fetch.queue.backoff.ms": 10,
        },
        producer_extra_config={
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "retry.backoff.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
            "batch.size": 900_000,
        },
    )
    frame = app.dataframe(app.topic(given["ingest"], value_deserializer="bytes", key_deserializer="bytes"))
    produce = frame.processing_context.producer.produce

    def route(value: bytes, key: Any, timestamp: int, headers: Any) -> None:
        owner, partition, added = place(value)
        produce(
            topic=topics[owner],
            value=value,
            key=key,
            headers=[*headers, *added] if headers else added,
            partition=partition,
            timestamp=timestamp,
        )

    frame.update(route, metadata=True)
    app.run()


if __name__ == "__main__":
    main()
