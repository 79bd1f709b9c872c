"""Kafka client settings: what a user may not change, and what the router adds to the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESERVED: Mapping[str, str] = {
    "isolation.level": "always read_committed: an offset that is not settled yet would repeat requests",
    "enable.auto.commit": "always off: an offset committed before its requests are durable would lose them",
    "acks": "always all: a request acknowledged by one replica only could be lost",
    "enable.idempotence": "always on: a retried request would be written twice",
    "transactional.id": "made from prefix and instance: set [router] instance instead",
    "partition.assignment.strategy": "always cooperative-sticky: all routers of a group must agree on it",
}
"""What the guarantees rest on, with the reason in one sentence."""

ALIASES: Mapping[str, str] = {"request.required.acks": "acks"}

PRODUCER_ONLY = frozenset(
    {
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "retries",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
    }
)
CONSUMER_ONLY = frozenset(
    {
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.instance.id",
        "group.protocol",
        "heartbeat.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
    }
)
"""librdkafka warns about a property of the other kind of client, so each client gets its own only."""

EVERY_CLIENT: dict[str, Any] = {"log_level": 2, "metadata.recovery.rebootstrap.trigger.ms": 5_000}
"""What each of our clients begins with; a user's own settings win.

librdkafka writes every lost connection to stderr otherwise; we say once that the broker is away. And since
2.10 it drops even the last broker it knows when metadata name none, as those of a broker do that has slept
or is being upgraded. It begins again with the bootstrap servers only after this time without metadata, 5
minutes by default (librdkafka issue 5301).
"""

MAX_MESSAGE_BYTES = 1_000_000_000
"""librdkafka's highest: the topics' own limits decide, and a record over one is found by halving."""

BATCH_BYTES = 900_000
"""Bytes of one producer batch: below the default max.message.bytes of topics (1,048,588), because the
broker applies that limit to a whole batch."""


def refuse_reserved(kafka: Mapping[str, Any]) -> list[str]:
    """Returns one sentence per setting of the user that the guarantees rest on."""
    mistakes = []
    for name, value in sorted(kafka.items()):
        known = ALIASES.get(name, name)
        if known in RESERVED:
            mistakes.append(f"{name} cannot be set: {RESERVED[known]}")
        elif name == "auto.offset.reset" and value != "earliest":
            mistakes.append(f"{name} = {value} cannot be set: only earliest loses no request")
    return mistakes


def router_consumer(kafka: Mapping[str, Any], group: str, instance_id: str = "") -> dict[str, Any]:
    """Returns the settings of a router's consumer: ours, the user's over them, the guarantees' over both.

    With an `instance_id` it is a static member of its group.
    """
    ours = {
        "session.timeout.ms": 8_000,  # a killed router's partitions move on after 8 s, not 45
        "heartbeat.interval.ms": 1_000,
        "queued.min.messages": 50_000,  # some batches ahead
        "fetch.queue.backoff.ms": 10,  # 1,000 by default: once that many wait, the next fetch waits a second
        "fetch.wait.max.ms": 100,
        **EVERY_CLIENT,
    }
    own = {name: value for name, value in kafka.items() if name not in PRODUCER_ONLY}
    return (
        ours
        | own
        | {
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
        }
        | ({"group.instance.id": instance_id} if instance_id else {})
    )


def router_producer(kafka: Mapping[str, Any], transactional_id: str = "") -> dict[str, Any]:
    """Returns the settings of a router's producer: transactional with an id, at least once without."""
    ours = {
        "linger.ms": 0,  # the commit flushes; waiting before only adds to it
        "compression.type": "lz4",
        "retry.backoff.ms": 5,  # 100 by default is the whole p99 tail of transactions
        "retry.backoff.max.ms": 1_000,
        "queue.buffering.max.messages": 1_000_000,
        "batch.size": BATCH_BYTES,
        **EVERY_CLIENT,
    }
    needed: dict[str, Any] = {
        "enable.idempotence": True,
        "acks": "all",
        "message.max.bytes": max(MAX_MESSAGE_BYTES, int(kafka.get("message.max.bytes", 0))),
    }
    if transactional_id:
        ours["transaction.timeout.ms"] = 10_000  # an abandoned transaction blocks read_committed readers
        needed["transactional.id"] = transactional_id
    else:
        # A record that cannot be delivered ends the producer, so that none after it is taken for safe.
        needed |= {"enable.gapless.guarantee": True, "message.timeout.ms": 0}
    own = {name: value for name, value in kafka.items() if name not in CONSUMER_ONLY}
    if not transactional_id:
        own.pop("transaction.timeout.ms", None)
    return ours | own | needed


def report_producer(kafka: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the producer of load reports: idempotent, no transaction."""
    own = {name: value for name, value in kafka.items() if name not in CONSUMER_ONLY}
    ours = {"linger.ms": 5, "compression.type": "lz4", **EVERY_CLIENT}
    return ours | own | {"enable.idempotence": True, "acks": "all"}
