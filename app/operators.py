"""What operators say to the system and read from it: commands with answers, events, stored records."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from re import fullmatch
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from app.config import Config
from schemas import topics
from schemas.errors import BrokerUnreachableError, NotReadyError
from schemas.records import Answer, Cluster, Command, Decision, Event, Record, decision_record, mapping_record
from streams.core.mapping import Snapshot, SnapshotBuilder
from streams.tables import read_table

ANSWER_S = 15.0
"""Seconds to wait for a balancer's answer: a take-over after a clean stop takes a few."""
CONFIRM_S = 10.0
"""Seconds until a record that was sent must be stored."""
Kind = TypeVar("Kind")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def new_id(what: str) -> str:
    """Returns an id that nobody else has."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def send(config: Config, spec: topics.TopicSpec, key: str | None, record: Record | None) -> None:
    """Stores one record (None: a tombstone) and returns when all replicas have it."""
    failures: list[KafkaError] = []

    def confirmed(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    settings = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": int(CONFIRM_S * 1000)}
    producer = Producer(config.kafka | settings)
    value = None if record is None else record.to_json()
    producer.produce(config.topic(spec), value, None if key is None else key.encode(), on_delivery=confirmed)
    left = producer.flush(CONFIRM_S + 1)
    if failures or left:
        why = failures[0].str() if failures else "no answer in time"
        raise BrokerUnreachableError(f"the record was not stored in {config.topic(spec)}: {why}")


def command(config: Config, record: Command, *, wait: bool = True) -> Answer | None:
    """Sends a command; returns the leading balancer's answer, None with `wait=False`.

    Raises NotReadyError when no balancer answers in time: the command is stored all the same, and the
    next leader applies it.
    """
    decisions = config.topic(topics.DECISIONS)
    with_end = _from_end(config, decisions) if wait else None
    send(config, topics.COMMANDS, None, record)
    if with_end is None:
        return None
    try:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            message = with_end.poll(0.2)
            if message is None or message.error():
                continue
            answer = decision_record(message.value())
            if isinstance(answer, Answer) and answer.command == record.id:
                return answer
    finally:
        with_end.close()
    raise NotReadyError(
        f"no balancer answered within {ANSWER_S:.0f} s; command {record.id} is stored and will be applied "
        "by the next one that leads: start one with `foreshard balancer`"
    )


def _from_end(config: Config, topic: str) -> Consumer:
    """Returns a group-less consumer that stands at the end of the one partition of `topic`."""
    settings: dict[str, Any] = {
        "group.id": new_id("reader"),
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(config.kafka | settings)
    try:
        _low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=CONFIRM_S)
    except KafkaException as error:
        consumer.close()
        raise BrokerUnreachableError(
            f"{topic} cannot be read: {error}; try `foreshard topics check`"
        ) from None
    consumer.assign([TopicPartition(topic, 0, high)])
    return consumer


def clusters(config: Config) -> list[Cluster]:
    """Returns the registered clusters by name."""
    return [record for _key, record in _table(config, topics.CLUSTERS, Cluster.from_json)]


def events(config: Config) -> list[Event]:
    """Returns the posted events that were not withdrawn, by start."""
    found = [record for _key, record in _table(config, topics.EVENTS, Event.from_json)]
    return sorted(found, key=lambda event: (event.start, event.id))


def decisions(config: Config, newest: int) -> list[Decision]:
    """Returns the newest decisions, oldest first."""
    messages = read_table(config.kafka, config.topic(topics.DECISIONS), newest=newest)
    records = [decision_record(message.value()) for message in messages]
    return [record for record in records if isinstance(record, Decision)]


def snapshot(config: Config) -> Snapshot:
    """Returns the mapping now; raises NotReadyError when there is none yet."""
    builder = SnapshotBuilder()
    for message in read_table(config.kafka, config.topic(topics.MAPPING)):
        builder.apply(mapping_record(message.value()))
    if builder.snapshot is None:
        raise NotReadyError("there is no mapping yet: add clusters and start a balancer")
    return builder.snapshot


def _table(
    config: Config, spec: topics.TopicSpec, parse: Callable[[bytes | None], Kind]
) -> Iterator[tuple[bytes, Kind]]:
    """Yields key and newest record of every key of a compacted topic that has no tombstone."""
    newest: dict[bytes, bytes | None] = {}
    for message in read_table(config.kafka, config.topic(spec)):
        newest[message.key() or b""] = message.value()
    for key, value in sorted(newest.items()):
        if value is not None:
            yield key, parse(value)


def seconds(text: str) -> float:
    """Returns a duration such as 90s, 15m, 2h or 1d in seconds; raises ValueError."""
    match = fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write 90s, 15m, 2h or 1d")
    return float(match[1]) * UNITS_S[match[2]]


def moment(text: str, now: float) -> float:
    """Returns a time as seconds since 1970: `now`, `+15m`, `10:00`, `tomorrow 10:00` or ISO 8601; UTC."""
    text = text.strip()
    today = datetime.fromtimestamp(now, UTC)
    if text == "now":
        return now
    if text.startswith("+"):
        return now + seconds(text[1:])
    match = fullmatch(r"(?:(today|tomorrow)\s+)?(\d{1,2}):(\d{2})", text)
    try:
        if match is not None:
            day = today + timedelta(days=match[1] == "tomorrow")
            return day.replace(hour=int(match[2]), minute=int(match[3]), second=0, microsecond=0).timestamp()
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write now, +15m, 10:00, tomorrow 10:00 or ISO 8601") from None
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def shown_time(at: float) -> str:
    """Returns model seconds since 1970 as a UTC time that `moment` reads back."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
