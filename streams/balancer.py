"""The balancer's loop: leadership, feeds, rounds. It decides nothing: see streams/core/rounds.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from confluent_kafka import Message

from schemas import topics
from schemas.errors import InvalidRecordError
from schemas.records import (
    ClusterAdd,
    ClusterMetrics,
    Decision,
    Event,
    LoadHistory,
    LoadReport,
    MappingMeta,
    command_record,
)
from streams import metrics
from streams.balancer_records import (
    Decode,
    Received,
    decode_event,
    decode_load,
    decode_metrics,
    received,
    without_old_reports,
)
from streams.balancer_takeover import (
    DECISIONS_SHOWN,
    Inheritance,
    Settings,
    inherit,
    partition_count,
    read_mapping,
)
from streams.core.rounds import Out, Rounds, check_rules
from streams.feed import Feed, GroupFeed, Starts
from streams.kafka_settings import MAX_MESSAGE_BYTES
from streams.mapping_topic import Letter, MappingWriter
from streams.one_thread import OneThread
from streams.progress import Progress, ProgressWatcher

__all__ = ["Balancer", "Role", "Settings"]

log = logging.getLogger(__name__)

LEARN_AT_ONCE = 50
"""Stored steps learned between two looks at the loop: about 50 ms with four series."""
LOOK_S = 0.02
"""Wall seconds between two looks whether a feed has caught up."""
STOP_S = 2.0
"""Wall seconds that leaving the group may take at the end: the process has 5 in all."""

Result = TypeVar("Result")


class Role(StrEnum):
    STANDBY = "standby"
    TAKING_OVER = "taking-over"
    LEADING = "leading"


@dataclass(frozen=True)
class Assigned:
    """The commands partition came to us: lead. `term` counts how often."""

    term: int


@dataclass(frozen=True)
class Revoked:
    """The commands partition went away: stop writing."""


@dataclass(frozen=True)
class Batch:
    """What one feed read, in the order of each partition, and the term for which it was read."""

    term: int
    items: list[Received]


@dataclass(frozen=True)
class Barrier:
    """Set once everything handed over before it has been handled."""

    passed: asyncio.Event


Put = Callable[[object], None]
"""Hands a value to an agent, from any thread; waits while the agent's channel is full."""


class Balancer:
    """One balancer process. Agents call `on_...`, a timer calls `on_round`; threads feed the agents.

    Nothing that waits for a broker or a thread runs in the loop, for threads wait for the loop.
    """

    def __init__(self, settings: Settings, fail: Callable[[BaseException], None]) -> None:
        self.settings = settings
        self._fail = fail
        self.role = Role.STANDBY
        self.rounds: Rounds | None = None
        self.decisions: deque[Decision] = deque(maxlen=DECISIONS_SHOWN)
        self.last_round_at = time.monotonic()
        self._term = 0
        """The term for which we own the commands partition, 0 while we do not; set in the feed's thread."""
        self._terms = 0
        self._led = 0
        """The newest term for which we took over."""
        self._writing = asyncio.Lock()
        self._puts: dict[str, Put] = {}
        self._feeds: list[Feed] = []
        self._progress: ProgressWatcher | None = None
        self._lags: dict[str, Progress] = {}
        self._offsets: dict[tuple[str, int], int] = {}
        self._inherited: dict[tuple[str, int], int] = {}
        """(topic, partition) -> offset before which the last leader has dead-lettered what is bad."""
        self._commands_end = 0
        self._bad: list[Letter] = []
        kafka = dict(settings.kafka)
        self._writer = MappingWriter(kafka | {"message.max.bytes": MAX_MESSAGE_BYTES}, settings.prefix)
        self._calls, self._commits = OneThread("balancer-calls"), OneThread("balancer-commits")
        self._commands = GroupFeed(
            "commands",
            kafka,
            settings.group,
            [settings.topic(topics.COMMANDS)],
            deliver=lambda messages: self._puts["commands"](messages),  # noqa: PLW0108 - there are none yet
            on_assigned=lambda _partitions: self._assigned(),
            on_revoked=self._revoked,
            on_lost=self._revoked,
            on_failure=fail,
        )

    async def start(self, puts: Mapping[str, Put]) -> None:
        """Joins the group of balancers; `puts` lead to the agents load, metrics, events, commands.

        Raises RulesMismatchError where this configuration can never lead: it does not stand by either.
        """
        self._puts = dict(puts)
        check_rules(await self._call(lambda: read_mapping(self.settings)), self.settings.rules)
        self._commands.start()

    async def stop(self) -> None:
        """Leaves the group, so that another balancer leads at once, and ends all threads."""
        self._term = 0
        self._drop()
        self._writer.close()
        leaving = OneThread("balancer-stop")
        await asyncio.shield(asyncio.wrap_future(leaving.submit(lambda: self._commands.stop(STOP_S))))
        for thread in (self._calls, self._commits, leaving):
            thread.end()

    async def _call(self, call: Callable[[], Result]) -> Result:
        """Returns the result of a call that may wait, made in a thread that never keeps the process."""
        return await asyncio.shield(asyncio.wrap_future(self._calls.submit(call)))

    def _assigned(self) -> None:
        self._terms += 1
        self._term = self._terms
        self._puts["commands"](Assigned(self._term))

    def _revoked(self) -> None:
        self._term = 0
        self._puts["commands"](Revoked())

    # ------------------------------------------------------------------ agents

    async def on_commands(self, value: object) -> None:
        """Takes leadership signals and batches of commands, in the order of the topic."""
        if isinstance(value, Assigned):
            await self._lead(value.term)
        elif isinstance(value, Revoked):
            self._drop()
        elif isinstance(value, list):
            for message in value:
                await self._command(Received(message))

    async def on_load(self, value: object) -> None:
        """Takes load reports and history."""
        self._take(value, _load)

    async def on_metrics(self, value: object) -> None:
        """Takes cluster metrics."""
        self._take(value, _metrics)

    async def on_events(self, value: object) -> None:
        """Takes events and their withdrawals."""
        self._take(value, _event)

    async def on_round(self) -> None:
        """Runs one round if this process leads."""
        self.last_round_at = time.monotonic()
        if self.role is not Role.LEADING:
            return
        async with self._writing:
            rounds = self._leading()
            if rounds is None:
                return
            now = self.settings.clock.now()
            lags, self._lags = self._lags, {}
            for reading in list(lags.values()):
                rounds.on_lag(reading.cluster, reading.committed, reading.end, now)
            self._note_offsets(rounds)
            started = time.perf_counter()
            outs = rounds.evaluate(now)
            metrics.ROUND_SECONDS.observe(time.perf_counter() - started)
            metrics.STEPS_LEARNED.set(rounds.outlook.learned)
            await self._write(outs)

    def _take(self, value: object, apply: Callable[[Rounds, Received], None]) -> None:
        """Applies every record of a batch; a bad one is counted, dead-lettered and costs no other."""
        if isinstance(value, Barrier):
            value.passed.set()
            return
        rounds = self.rounds
        if rounds is None or not isinstance(value, Batch) or value.term != self._term:
            return
        for item in value.items:
            try:
                if item.error is not None:
                    raise item.error
                apply(rounds, item)
            except InvalidRecordError as error:
                self._refuse(item, error)
            self._offsets[item.topic, item.partition] = item.next_offset

    def _refuse(self, item: Received, error: InvalidRecordError) -> None:
        """Counts and dead-letters a bad record, unless the last leader has done so."""
        if item.next_offset <= self._inherited.get((item.topic, item.partition), 0):
            return
        log.warning("%s is refused: %s", item.source, error)
        metrics.BAD_RECORDS.labels(topic=item.topic.removeprefix(self.settings.prefix)).inc()
        self._bad.append(item.letter(self.settings.topic(topics.DEAD_LETTER), error))

    async def _command(self, item: Received) -> None:
        async with self._writing:
            if self._leading() is None:
                return
            outs: list[Out] = []
            try:
                command = command_record(item.message.value())
                partitions = None
                if isinstance(command, ClusterAdd):
                    topic = command.topic
                    partitions = await self._call(lambda: partition_count(self.settings.kafka, topic))
                rounds = self._leading()
                if rounds is None:
                    return
                self._note_offsets(rounds)
                outs = rounds.on_command(command, self.settings.clock.now(), partitions)
            except InvalidRecordError as error:
                rounds = self._leading()
                if rounds is None:
                    return
                self._refuse(item, error)
            if item.next_offset >= self._commands_end:
                rounds.commands_read = True
            await self._write([*outs, *rounds.first_start(self.settings.clock.now())])
        # Not waited for: its thread may be waiting for this agent. A command read again is not applied again.
        done = {(item.topic, item.partition): item.next_offset}
        self._commits.submit(lambda: self._commands.commit(done))

    # ------------------------------------------------------------------ leadership

    def _leading(self) -> Rounds | None:
        """Returns the core while this process may write, else None."""
        return self.rounds if self.role is Role.LEADING and self._term == self._led else None

    async def _lead(self, term: int) -> None:
        """Takes over, in the order of the contract.

        1. fence the old leader, so that nothing changes any more; 2. read what it left: clusters,
        mapping, state; 3. read events, metrics and load to their ends and learn the stored history;
        4. write the new epoch; 5. rounds. Ends early where the partition goes away meanwhile.
        """
        self._drop()
        if self._term != term:
            return
        self.role = Role.TAKING_OVER
        await self._call(self._writer.take_over)
        inheritance = await self._call(lambda: inherit(self.settings))
        if self._term != term:
            return
        rounds = self._adopt(inheritance)
        await self._catch_up(rounds, term)
        async with self._writing:
            if self._term != term:  # given back meanwhile: Revoked is the next value
                return
            self.role, self._led = Role.LEADING, term
            self._note_offsets(rounds)
            await self._write(rounds.take_over())
            await self._write(rounds.first_start(self.settings.clock.now()))
        metrics.LEADING.set(1)
        log.info("leading with epoch %d", rounds.epoch)

    def _adopt(self, inheritance: Inheritance) -> Rounds:
        rounds = inheritance.rounds
        self._commands_end = inheritance.commands_end
        self.decisions.clear()
        self.decisions.extend(inheritance.decisions)
        self._inherited = {
            (topic, partition): offset
            for topic, places in rounds.offsets.items()
            for partition, offset in places
        }
        self.rounds = rounds
        return rounds

    async def _catch_up(self, rounds: Rounds, term: int) -> None:
        """Starts the feeds, waits until all that is stored has been taken in, and learns it."""
        clock = self.settings.clock
        self._feeds = [
            self._feed(topics.EVENTS, decode_event, term),
            self._feed(topics.METRICS, decode_metrics(clock), term),
            self._feed(topics.LOAD, decode_load(clock), term),
        ]
        while not all(feed.caught_up.is_set() for feed in self._feeds):
            await asyncio.sleep(LOOK_S)
            if self._term != term:
                return
        for spec in (topics.EVENTS, topics.METRICS, topics.LOAD):
            await self._taken_in(self._puts[spec.name])
        while self._term == term and rounds.learn(clock.now(), LEARN_AT_ONCE) == LEARN_AT_ONCE:
            await asyncio.sleep(0)
        metrics.STEPS_LEARNED.set(rounds.outlook.learned)
        interval_s = clock.wall_duration(self.settings.rounds.round_s) / 2
        self._progress = ProgressWatcher(self.settings.kafka, interval_s, self._on_progress, self._fail)
        self._watch(rounds)
        self._progress.start()

    def _feed(self, spec: topics.TopicSpec, decode: Decode, term: int) -> Feed:
        """Returns the feed of one topic, started at its beginning."""
        put, clock = self._puts[spec.name], self.settings.clock

        def deliver(messages: list[Message]) -> None:
            kept = without_old_reports(messages, clock)
            put(Batch(term, [received(message, decode) for message in kept]))

        starts: Starts = {self.settings.topic(spec): "beginning"}
        feed = Feed(spec.name, dict(self.settings.kafka), starts, deliver, on_failure=self._fail)
        feed.start()
        return feed

    async def _taken_in(self, put: Put) -> None:
        """Returns when an agent has handled all that it was given so far."""
        barrier = Barrier(asyncio.Event())
        await self._call(lambda: put(barrier))
        await barrier.passed.wait()

    def _on_progress(self, reading: Progress) -> None:
        self._lags[reading.cluster] = reading

    def _watch(self, rounds: Rounds) -> None:
        if self._progress is not None:
            self._progress.watch(rounds.mapped())

    def _drop(self) -> None:
        """Stops leading: nothing is written or decided until the next take-over.

        Feeds end by themselves: what they still deliver is of an old term.
        """
        self.role = Role.STANDBY
        metrics.LEADING.set(0)
        self.rounds = None
        for feed in self._feeds:
            feed.stop(0.0)
        self._feeds = []
        if self._progress is not None:
            self._progress.stop(0.0)
            self._progress = None
        self._lags, self._offsets, self._inherited, self._bad = {}, {}, {}, []

    # ------------------------------------------------------------------ writing

    def _note_offsets(self, rounds: Rounds) -> None:
        """Tells the core how far the feeds are: saved with the state and what was refused up to there."""
        offsets: dict[str, list[tuple[int, int]]] = {}
        for place in sorted({*self._inherited, *self._offsets}):
            offset = max(self._inherited.get(place, 0), self._offsets.get(place, 0))
            offsets.setdefault(place[0], []).append((place[1], offset))
        rounds.offsets = offsets

    async def _write(self, outs: Sequence[Out]) -> None:
        """Writes the records, and what was refused meanwhile, in one transaction.

        Where that fails nothing more is written: the core has gone on as if the records were there,
        so only a successor, who reads what is there, may continue.
        """
        bad, self._bad = self._bad, []
        records = [(self.settings.topic(out.topic), out.key.encode(), out.record.to_json()) for out in outs]
        if not records and not bad:
            return
        try:
            await self._call(lambda: self._writer.write(records, bad))
        except BaseException:
            self._drop()
            raise
        for out in outs:
            if isinstance(out.record, Decision):
                self.decisions.append(out.record)
                metrics.observe_decision(out.record)
            elif isinstance(out.record, MappingMeta) and self.rounds is not None:
                self._watch(self.rounds)


def _load(rounds: Rounds, item: Received) -> None:
    if isinstance(item.record, LoadReport | LoadHistory):
        rounds.on_load(item.record)


def _metrics(rounds: Rounds, item: Received) -> None:
    if isinstance(item.record, ClusterMetrics):
        rounds.on_metrics(item.record)


def _event(rounds: Rounds, item: Received) -> None:
    if item.record is None or isinstance(item.record, Event):
        rounds.on_event(item.key, item.record)
