"""Commits each cluster group's ends once a second, as backends would: `python -m app.bench.committer JSON`.

It processes nothing: what a backend costs is no part of the benchmark, that it commits is.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

COMMIT_S = 1.0
ANSWER_S = 5.0


def main() -> None:
    """Commits until it is killed."""
    given = json.loads(sys.argv[1])
    kafka = {"bootstrap.servers": given["bootstrap"], "log_level": 0}
    admin = AdminClient(kafka)
    groups = [
        (Consumer({**kafka, "group.id": group}), [TopicPartition(topic, number) for number in range(count)])
        for group, topic, count in given["groups"]
    ]
    due = time.monotonic()
    while True:
        for consumer, places in groups:
            asked = {place: OffsetSpec.latest() for place in places}
            answers = admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_S
            )
            try:
                ends = [
                    TopicPartition(place.topic, place.partition, answer.result(ANSWER_S).offset)
                    for place, answer in answers.items()
                ]
                consumer.commit(offsets=ends, asynchronous=False)
            except KafkaException:
                continue  # the coordinator is still being found: next second
        due += COMMIT_S
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
