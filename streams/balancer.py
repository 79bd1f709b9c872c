"""The balancer's loop: leadership, feeds, rounds. It decides nothing: see streams/core/rounds.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import topics
from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, BrokerUnreachableError, InvalidRecordError
from schemas.records import (
    Cluster,
    ClusterAdd,
    ClusterMetrics,
    Decision,
    Event,
    MappingMeta,
    command_record,
    decision_record,
    load_record,
    mapping_record,
    state_record,
)
from streams import metrics
from streams.clock import Clock
from streams.core.keys import KeyRules
from streams.core.round_settings import RoundSettings
from streams.core.rounds import Out, Rounds
from streams.feed import Feed, GroupFeed
from streams.mapping_topic import Letter, MappingWriter
from streams.progress import Progress, ProgressWatcher
from streams.tables import read_table

log = logging.getLogger(__name__)

LEARN_AT_ONCE = 50
"""Stored steps learned between two looks at the loop: about 50 ms with four series."""
DECISIONS_SHOWN = 50
"""Newest decisions kept for the page."""
METADATA_TIMEOUT_S = 10.0
GROUP = "balancer"


class Role(StrEnum):
    STANDBY = "standby"
    TAKING_OVER = "taking-over"
    LEADING = "leading"


@dataclass(frozen=True)
class Settings:
    """What a balancer process needs to know; `kafka` are the user's librdkafka properties."""

    kafka: Mapping[str, Any]
    prefix: str
    ingest: str
    rules: KeyRules
    rounds: RoundSettings
    clock: Clock

    def topic(self, spec: topics.TopicSpec) -> str:
        return self.prefix + spec.name


@dataclass(frozen=True)
class Assigned:
    """The commands partition came to us: lead."""


@dataclass(frozen=True)
class Revoked:
    """The commands partition went away: stop writing."""


@dataclass(frozen=True)
class Barrier:
    """Set once everything handed over before it has been handled."""

    passed: asyncio.Event


Put = Callable[[object], None]
"""Hands a value to an agent, from any thread; waits while the agent's channel is full."""


class Balancer:
    """One balancer process. Agents call `on_...`, a timer calls `on_round`; threads feed the agents."""

    def __init__(self, settings: Settings, fail: Callable[[BaseException], None]) -> None:
        self.settings = settings
        self._fail = fail
        self.role = Role.STANDBY
        self.rounds: Rounds | None = None
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_SHOWN)
        self.last_round_at = time.monotonic()
        self._writing = asyncio.Lock()
        self._puts: dict[str, Put] = {}
        self._feeds: list[Feed] = []
        self._progress: ProgressWatcher | None = None
        self._lags: dict[str, Progress] = {}
        self._offsets: dict[str, dict[int, int]] = {}
        self._commands_end = 0
        self._bad: list[Letter] = []
        self._writer = MappingWriter(dict(settings.kafka), settings.prefix)
        self._commands = GroupFeed(
            "commands",
            dict(settings.kafka),
            settings.prefix + GROUP,
            [settings.topic(topics.COMMANDS)],
            deliver=lambda messages: self._puts["commands"](messages),
            on_assigned=lambda _partitions: self._puts["commands"](Assigned()),
            on_revoked=lambda: self._puts["commands"](Revoked()),
            on_lost=lambda: self._puts["commands"](Revoked()),
            on_failure=fail,
        )

    def start(self, puts: Mapping[str, Put]) -> None:
        """Joins the group of balancers; `puts` lead to the agents load, metrics, events, commands."""
        self._puts = dict(puts)
        self._commands.start()

    def stop(self) -> None:
        """Leaves the group and ends all threads."""
        self._commands.stop()
        self._drop()
        self._writer.close()

    # ------------------------------------------------------------------ agents

    async def on_commands(self, value: object) -> None:
        """Takes leadership signals and batches of commands, in the order of the topic."""
        if isinstance(value, Assigned):
            await self._lead()
        elif isinstance(value, Revoked):
            self._drop()
        elif isinstance(value, list) and self.rounds is not None:
            for message in value:
                await self._command(message)

    async def on_load(self, value: object) -> None:
        """Takes load reports and history."""
        self._take(value, lambda rounds, message: rounds.on_load(load_record(message.value())))

    async def on_metrics(self, value: object) -> None:
        """Takes cluster metrics."""
        self._take(value, lambda rounds, message: rounds.on_metrics(ClusterMetrics.from_json(message.value())))

    async def on_events(self, value: object) -> None:
        """Takes events and their withdrawals."""
        self._take(value, _event)

    async def on_round(self) -> None:
        """Runs one round if this process leads."""
        self.last_round_at = time.monotonic()
        if self.role is not Role.LEADING:
            return
        async with self._writing:
            rounds = self.rounds
            if rounds is None:
                return
            now = self.settings.clock.now()
            for reading in list(self._lags.values()):
                rounds.on_lag(reading.cluster, reading.committed, reading.end, now)
            self._lags.clear()
            rounds.offsets = {topic: sorted(places.items()) for topic, places in self._offsets.items()}
            started = time.perf_counter()
            outs = rounds.evaluate(now)
            metrics.ROUND_SECONDS.observe(time.perf_counter() - started)
            await self._write(outs)

    def _take(self, value: object, apply: Callable[[Rounds, Message], None]) -> None:
        """Applies every message of a batch; a bad one is counted, dead-lettered and costs no other."""
        if isinstance(value, Barrier):
            value.passed.set()
            return
        rounds = self.rounds
        if rounds is None or not isinstance(value, list):
            return
        for message in value:
            try:
                apply(rounds, message)
            except InvalidRecordError as error:
                self._refuse(message, error)
            self._offsets.setdefault(_topic(message), {})[message.partition() or 0] = _next(message)

    def _refuse(self, message: Message, error: InvalidRecordError) -> None:
        source = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        log.warning("%s: %s", source, error)
        metrics.BAD_RECORDS.labels(topic=_topic(message).removeprefix(self.settings.prefix)).inc()
        if self.role is not Role.LEADING:
            return  # read again at every take-over, dead-lettered by the leader that saw it first
        headers = [
            *(message.headers() or []),
            (HEADER_ERROR, error.code.encode()),
            (HEADER_REASON, str(error).encode()),
            (HEADER_SOURCE, source.encode()),
        ]
        self._bad.append((self.settings.topic(topics.DEAD_LETTER), message.key(), message.value(), headers))

    async def _command(self, message: Message) -> None:
        async with self._writing:
            rounds = self.rounds
            if rounds is None or self.role is not Role.LEADING:
                return
            try:
                command = command_record(message.value())
                partitions = None
                if isinstance(command, ClusterAdd):
                    partitions = await asyncio.to_thread(self._partitions, command.topic)
                outs = rounds.on_command(command, self.settings.clock.now(), partitions)
            except InvalidRecordError as error:
                self._refuse(message, error)
                outs = []
            rounds.commands_read = _next(message) >= self._commands_end
            await self._write([*outs, *rounds.first_start(self.settings.clock.now())])
            await asyncio.to_thread(self._commands.commit, {(_topic(message), 0): _next(message)})

    # ------------------------------------------------------------------ leadership

    async def _lead(self) -> None:
        """Takes over, in the order of the contract.

        1. fence the old leader, so that nothing changes any more; 2. read what it left: clusters,
        mapping, state; 3. read events, metrics and load to their ends and learn the stored history;
        4. write the new epoch; 5. rounds.
        """
        self._drop()
        self.role = Role.TAKING_OVER
        await asyncio.to_thread(self._writer.take_over)
        rounds = await asyncio.to_thread(self._inherit)
        self.rounds = rounds
        await self._catch_up(rounds)
        if self.rounds is not rounds:
            return
        async with self._writing:
            self.role = Role.LEADING
            metrics.LEADING.set(1)
            await self._write(rounds.take_over())
            await self._write(rounds.first_start(self.settings.clock.now()))
        log.info("leading with epoch %d", rounds.epoch)

    def _inherit(self) -> Rounds:
        """Returns the Rounds of a new leader: registry, mapping and state as the last one left them."""
        settings = self.settings
        kafka = dict(settings.kafka)
        ingest = self._partitions(settings.ingest)
        if ingest is None:
            raise BrokerUnreachableError(f"ingest topic {settings.ingest} was not found")
        rounds = Rounds(settings.rules, settings.rounds, ingest)
        for message in read_table(kafka, settings.topic(topics.CLUSTERS)):
            rounds.on_cluster(Cluster.from_json(message.value()))
        for message in read_table(kafka, settings.topic(topics.MAPPING)):
            rounds.builder.apply(mapping_record(message.value()))
        for message in read_table(kafka, settings.topic(topics.STATE)):
            rounds.on_state(state_record(message.value()))
        for message in read_table(kafka, settings.topic(topics.DECISIONS), newest=DECISIONS_SHOWN):
            record = decision_record(message.value())
            if isinstance(record, Decision):
                self.decisions.append(record)
        self._commands_end, start = self._command_offsets()
        rounds.commands_read = start >= self._commands_end
        return rounds

    async def _catch_up(self, rounds: Rounds) -> None:
        """Starts the feeds, waits until all that is stored has been taken in, and learns it."""
        settings = self.settings
        for name, spec in (("events", topics.EVENTS), ("metrics", topics.METRICS), ("load", topics.LOAD)):
            put = self._puts[name]
            feed = Feed(
                name, dict(settings.kafka), {settings.topic(spec): "beginning"}, put, on_failure=self._fail
            )
            feed.start()
            self._feeds.append(feed)
            await asyncio.to_thread(feed.caught_up.wait)
            barrier = Barrier(asyncio.Event())
            await asyncio.to_thread(put, barrier)
            await barrier.passed.wait()
        while rounds.learn(settings.clock.now(), LEARN_AT_ONCE) == LEARN_AT_ONCE:
            await asyncio.sleep(0)
        interval_s = settings.clock.wall_duration(settings.rounds.round_s) / 2
        self._progress = ProgressWatcher(settings.kafka, interval_s, self._on_progress, self._fail)
        self._watch(rounds)
        self._progress.start()

    def _on_progress(self, reading: Progress) -> None:
        self._lags[reading.cluster] = reading

    def _watch(self, rounds: Rounds) -> None:
        if self._progress is not None:
            self._progress.watch(rounds.mapped())

    def _drop(self) -> None:
        """Stops leading: nothing is written or decided until the next take-over."""
        self.role = Role.STANDBY
        metrics.LEADING.set(0)
        self.rounds = None
        for feed in self._feeds:
            feed.stop()
        self._feeds.clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._lags.clear()
        self._offsets.clear()

    def _command_offsets(self) -> tuple[int, int]:
        """Returns the end of the commands topic and the offset from which its group reads on."""
        place = TopicPartition(self.settings.topic(topics.COMMANDS), 0)
        settings = dict(self.settings.kafka) | {"group.id": self.settings.prefix + GROUP}
        consumer = Consumer(settings)
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_S)
            committed = consumer.committed([place], timeout=METADATA_TIMEOUT_S)[0].offset
        finally:
            consumer.close()
        return high, committed if committed >= 0 else low

    def _partitions(self, topic: str) -> int | None:
        """Returns the partition count of a topic, None if there is no such topic."""
        try:
            found = AdminClient(dict(self.settings.kafka)).list_topics(topic, timeout=METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnreachableError(f"the broker did not answer about topic {topic}: {error}") from None
        description = found.topics.get(topic)
        return None if description is None or description.error else len(description.partitions)

    # ------------------------------------------------------------------ writing

    async def _write(self, outs: Sequence[Out]) -> None:
        """Writes the records, and what was refused meanwhile, in one transaction."""
        bad, self._bad = self._bad, []
        records = [(self.settings.topic(out.topic), out.key.encode(), out.record.to_json()) for out in outs]
        if not records and not bad:
            return
        await asyncio.to_thread(self._writer.write, records, bad)
        for out in outs:
            if isinstance(out.record, Decision):
                self.decisions.append(out.record)
                metrics.observe_decision(out.record)
            elif isinstance(out.record, MappingMeta) and self.rounds is not None:
                self._watch(self.rounds)


def _event(rounds: Rounds, message: Message) -> None:
    event_id = (message.key() or b"").decode("utf-8", "replace")
    value = message.value()
    event = None if value is None else Event.from_json(value)
    if event is not None and event.id != event_id:
        raise InvalidRecordError(f"event {event.id} has the record key {event_id!r}; key it by its id")
    rounds.on_event(event_id, event)



def _topic(message: Message) -> str:
    return message.topic() or ""


def _next(message: Message) -> int:
    """Returns the offset after the message's."""
    return (message.offset() or 0) + 1
