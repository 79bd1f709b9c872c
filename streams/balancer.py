"""The balancer's loop: leadership, feeds, rounds. It decides nothing: see streams/core/rounds.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from schemas import topics
from schemas.errors import InvalidRecordError, RulesMismatchError
from schemas.records import Decision, MappingMeta, command_record
from streams import metrics
from streams.balancer_history import learn_history
from streams.balancer_intake import Batch, Intake, Put
from streams.balancer_questions import found_for, waits
from streams.balancer_records import Received
from streams.balancer_rescue import RescueEnded, Rescues
from streams.balancer_takeover import DECISIONS_SHOWN, Inheritance, Settings, inherit, read_mapping
from streams.balancer_watch import Watch
from streams.core.leader import check_rules
from streams.core.out import Out
from streams.core.rounds import Rounds
from streams.feed import GroupFeed
from streams.kafka_settings import MAX_MESSAGE_BYTES
from streams.mapping_topic import MappingWriter
from streams.one_thread import OneThread

__all__ = ["Balancer", "Role", "Settings"]

log = logging.getLogger(__name__)

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
class Barrier:
    """Set once everything handed over before it has been handled."""

    passed: asyncio.Event


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
        self._intake = Intake(settings, fail)
        self._watch = Watch(settings, fail)
        self._rescues = Rescues(settings)
        self._commands_end = 0
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
        """Takes leadership signals, the end of a rescue, and batches of commands, in their order."""
        if isinstance(value, Assigned):
            await self._lead(value.term)
        elif isinstance(value, Revoked):
            self._drop()
        elif isinstance(value, RescueEnded):
            await self._rescued(value)
        elif isinstance(value, list):
            for message in value:
                await self._command(Received(message))

    async def on_record(self, value: object) -> None:
        """Takes batches of load reports and history, of cluster metrics, or of events."""
        if isinstance(value, Barrier):
            value.passed.set()
        elif isinstance(value, Batch) and self.rounds is not None and value.term == self._term:
            self._intake.take(self.rounds, value)

    async def on_round(self) -> None:
        """Runs one round if this process leads."""
        self.last_round_at = time.monotonic()
        if self.role is not Role.LEADING:
            return
        async with self._writing:
            rounds = self._leading()
            if rounds is None:
                return
            self._watch.hand_over(rounds, self.settings.clock.now())
            self._rescues.attend(rounds, self._led, self._puts["commands"])
            await self._look_at_suspects(rounds)
            outs = await self._hung_rescue(rounds)
            if self._leading() is not rounds:
                return
            self._intake.note(rounds)
            started = time.perf_counter()
            outs += rounds.evaluate(self.settings.clock.now())
            metrics.ROUND_SECONDS.observe(time.perf_counter() - started)
            metrics.STEPS_LEARNED.set(rounds.outlook.learned)
            states = [cluster.state for cluster in rounds.clusters.values()]
            metrics.observe_handoffs(rounds.settled, len(rounds.pending()), states)
            await self._write(outs)

    async def _look_at_suspects(self, rounds: Rounds) -> None:
        """Looks into the topics of clusters that look dead: markers alone are no waiting requests."""
        for name in rounds.suspects(self.settings.clock.now()):
            waiting = await self._call(partial(waits, self.settings, rounds.clusters[name]))
            if waiting is not None:
                rounds.on_look(name, self.settings.clock.now(), waiting)

    async def _hung_rescue(self, rounds: Rounds) -> list[Out]:
        """Gives up a rescue that will never end, so that rounds go on; returns what says so."""
        if not self._rescues.hung:
            return []
        await self._call(self._rescues.give_up)
        return rounds.end_rescue(self.settings.clock.now(), "a call to the broker never returned")

    async def _rescued(self, ended: RescueEnded) -> None:
        """Writes down how a rescue ended."""
        async with self._writing:
            rounds = self._leading()
            if rounds is None or ended.term != self._led or ended.rescue != rounds.rescue:
                return
            self._rescues.ended(rounds)
            self._intake.note(rounds)
            await self._write(rounds.end_rescue(self.settings.clock.now(), ended.why))

    async def _command(self, item: Received) -> None:
        async with self._writing:
            rounds = self._leading()
            if rounds is None:
                return
            outs: list[Out] = []
            try:
                command = command_record(item.message.value())
                clusters = dict(rounds.clusters)
                found = await self._call(lambda: found_for(self.settings, command, clusters))
                if self._leading() is not rounds:
                    return
                self._watch.hand_over(rounds, self.settings.clock.now())
                self._intake.note(rounds)
                outs = rounds.on_command(command, self.settings.clock.now(), found)
            except InvalidRecordError as error:
                self._intake.refuse(item, error)
            if item.next_offset >= self._commands_end:
                rounds.commands_read = True
            await self._write([*outs, *rounds.first_start(self.settings.clock.now())])
            self._rescues.attend(rounds, self._led, self._puts["commands"])
        # Not waited for: its thread may be waiting for this agent. A command read again is not applied again.
        done = {(item.topic, item.partition): item.next_offset}
        self._commits.submit(lambda: self._commands.commit(done))
        if rounds.obsolete:
            self._drop()
            self._fail(RulesMismatchError(rounds.obsolete))

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
            self._intake.note(rounds)
            await self._write(rounds.take_over())
            await self._write(rounds.first_start(self.settings.clock.now()))
        metrics.LEADING.set(1)
        log.info("leading with epoch %d", rounds.epoch)

    def _adopt(self, inheritance: Inheritance) -> Rounds:
        rounds = inheritance.rounds
        self._commands_end = inheritance.commands_end
        self.decisions.clear()
        self.decisions.extend(inheritance.decisions)
        self._intake.inherit(inheritance)
        self.rounds = rounds
        return rounds

    async def _catch_up(self, rounds: Rounds, term: int) -> None:
        """Starts the feeds, waits until all that is stored has been taken in, and learns it."""
        self._intake.start(term, self._puts)
        while not self._intake.caught_up:
            await asyncio.sleep(LOOK_S)
            if self._term != term:
                return
        for spec in (topics.EVENTS, topics.METRICS, topics.LOAD):
            await self._taken_in(self._puts[spec.name])
        await learn_history(rounds, self.settings.clock, lambda: self._term == term)
        self._watch.start(rounds)

    async def _taken_in(self, put: Put) -> None:
        """Returns when an agent has handled all that it was given so far."""
        barrier = Barrier(asyncio.Event())
        await self._call(lambda: put(barrier))
        await barrier.passed.wait()

    def _drop(self) -> None:
        """Stops leading: nothing is written or decided until the next take-over."""
        self.role = Role.STANDBY
        metrics.LEADING.set(0)
        self.rounds = None
        for part in (self._intake, self._watch, self._rescues):
            part.stop()

    # ------------------------------------------------------------------ writing

    async def _write(self, outs: Sequence[Out]) -> None:
        """Writes the records, and what was refused meanwhile, in one transaction.

        Where that fails nothing more is written: the core has gone on as if the records were there,
        so only a successor, who reads what is there, may continue.
        """
        bad = self._intake.letters()
        records = [
            (self.settings.topic(out.topic), out.key.encode(), out.record.to_json() if out.record else None)
            for out in outs
        ]
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
                self._watch.follow(self.rounds)
