"""What a new leader reads of what the last one left: registry, mapping, state, how far commands are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import topics
from schemas.errors import BrokerUnreachableError, InvalidRecordError, MappingError, TopicError
from schemas.records import Cluster, Decision, Record, decision_record, state_record
from streams import metrics
from streams.clock import Clock
from streams.core.keys import KeyRules
from streams.core.mapping import Snapshot
from streams.core.round_settings import RoundSettings
from streams.core.rounds import Rounds
from streams.core.steps import STEP_S
from streams.mapping_topic import MappingReader
from streams.tables import READ_S, offsets_since, read_table

log = logging.getLogger(__name__)

ANSWER_S = 5.0
"""Wall seconds one question to the broker may take before it is asked again."""
DECISIONS_SHOWN = 50
"""Newest decisions kept for the page."""

REPLAY_S = 360.0
"""Model seconds of metrics and load that are read again: rates look back 120 s, backlogs 60 s, and a
record may be a minute late."""

Offsets = dict[int, int]
"""partition -> offset"""
Kind = TypeVar("Kind", bound=Record)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Settings:
    """What a balancer process needs to know; `kafka` are the user's librdkafka properties."""

    kafka: Mapping[str, Any]
    prefix: str
    ingest: str
    router_group: str
    """The routers' consumer group on the ingest topic."""
    rules: KeyRules
    rounds: RoundSettings
    clock: Clock

    def topic(self, spec: topics.TopicSpec) -> str:
        return self.prefix + spec.name

    @property
    def group(self) -> str:
        return self.prefix + topics.BALANCER_GROUP


@dataclass(frozen=True)
class Inheritance:
    """What the last leader left."""

    rounds: Rounds
    commands_end: int
    """End of the commands topic at the take-over: version 1 waits for the commands before it."""
    starts: Mapping[topics.TopicSpec, Offsets] = field(default_factory=dict)
    """Where the feeds of these topics start; the others at the beginning."""
    decisions: list[Decision] = field(default_factory=list)


def inherit(settings: Settings) -> Inheritance:
    """Returns the Rounds of a new leader as the last one left them.

    Raises TopicError where a topic is missing, MappingError where the mapping cannot be read,
    BrokerUnreachableError where no broker answers within a minute.
    """
    partitions = partition_count(settings.kafka, settings.ingest)
    if partitions is None:
        raise TopicError(f"ingest topic {settings.ingest} does not exist; make it, then start again")
    rounds = Rounds(settings.rules, settings.rounds, partitions)
    for cluster in _records(settings, topics.CLUSTERS, Cluster.from_json):
        rounds.on_cluster(cluster)
    rounds.builder.snapshot = read_mapping(settings)
    for state in _records(settings, topics.STATE, state_record):
        rounds.on_state(state)
    starts = _starts(settings, rounds, _resumed(rounds))
    shown = _records(settings, topics.DECISIONS, decision_record, newest=DECISIONS_SHOWN)
    end, start = _command_offsets(settings)
    rounds.commands_read = start >= end
    decisions = [record for record in shown if isinstance(record, Decision)]
    return Inheritance(rounds, end, starts, decisions)


def _resumed(rounds: Rounds) -> int | None:
    """Returns the step up to which a predecessor's learning is taken over, None without one."""
    try:
        return rounds.resume()
    except ValueError as error:
        log.warning("%s; the stored history is learned anew", error)
        return None


def _starts(settings: Settings, rounds: Rounds, step: int | None) -> dict[topics.TopicSpec, Offsets]:
    """Returns where metrics start, and load too where what was learned up to a step is known.

    Never after what the last leader had read: what is bad there is dead-lettered by us.
    """
    now = settings.clock.now()
    since = {topics.METRICS: now - REPLAY_S}
    if step is not None:
        since[topics.LOAD] = min(now, (step + 1) * STEP_S) - REPLAY_S
    found = {}
    for spec, model_s in since.items():
        topic = settings.topic(spec)
        wall_s = settings.clock.wall(model_s)
        offsets = _asked(partial(offsets_since, settings.kafka, topic, wall_s), topic)
        read = dict(rounds.offsets.get(topic, ()))
        found[spec] = {number: min(offset, read.get(number, offset)) for number, offset in offsets.items()}
    return found


def read_mapping(settings: Settings) -> Snapshot | None:
    """Returns the mapping as every router holds it, None where nobody has written one yet."""
    failures: list[BaseException] = []
    topic = settings.topic(topics.MAPPING)
    reader = MappingReader(dict(settings.kafka), topic, on_failure=failures.append)
    reader.start()
    deadline = time.monotonic() + READ_S
    while not failures and not reader.ready.wait(0.05):
        if time.monotonic() > deadline:
            failures.append(
                BrokerUnreachableError(f"{topic} was not read within {READ_S:.0f} s; is the broker there?")
            )
    reader.stop()
    if failures:
        raise failures[0]
    if reader.snapshot is None and reader.refused:
        raise MappingError(
            f"{topic} holds no whole mapping: {reader.refused} of its records or plans were refused; "
            "see the warnings above, and write the missing shards again before a balancer starts"
        )
    return reader.snapshot


def _records(
    settings: Settings,
    spec: topics.TopicSpec,
    parse: Callable[[bytes | None], Kind],
    newest: int | None = None,
) -> Iterator[Kind]:
    """Yields the newest record of each key of one of our tables, in order, but what is no record.

    A key that has a tombstone is gone, also before compaction has taken what came before it.
    """
    table: dict[bytes | None, Message] = {}
    for message in read_table(settings.kafka, settings.topic(spec), newest=newest):
        table.pop(message.key(), None)
        if message.value() is not None:
            table[message.key()] = message
    for message in table.values():
        try:
            yield parse(message.value())
        except InvalidRecordError as error:
            log.warning("%s@%s is passed over: %s", message.topic(), message.offset(), error)
            metrics.BAD_RECORDS.labels(topic=spec.name).inc()


def _command_offsets(settings: Settings) -> tuple[int, int]:
    """Returns the end of the commands topic and the offset from which its group reads on."""
    place = TopicPartition(settings.topic(topics.COMMANDS), 0)
    consumer = Consumer(dict(settings.kafka) | {"group.id": settings.group, "enable.auto.commit": False})

    def ask() -> tuple[int, int]:
        low, high = consumer.get_watermark_offsets(place, timeout=ANSWER_S)
        committed = consumer.committed([place], timeout=ANSWER_S)[0].offset
        return high, max(low, committed)

    try:
        return _asked(ask, place.topic)
    finally:
        consumer.close()


def partition_count(kafka: Mapping[str, Any], topic: str) -> int | None:
    """Returns the partition count of a topic, None if there is no such topic."""
    admin = AdminClient(dict(kafka))
    # All topics: asked for one by name, a broker that creates topics would make it.
    found = _asked(lambda: admin.list_topics(timeout=ANSWER_S), topic)
    description = found.topics.get(topic)
    return None if description is None or description.error else len(description.partitions)


def _asked(ask: Callable[[], Answer], topic: str) -> Answer:
    """Returns the answer to a question about a topic, asked again while no broker answers."""
    deadline = time.monotonic() + READ_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise BrokerUnreachableError(f"no broker answered about topic {topic}: {error}") from None
            time.sleep(0.2)
