"""What the balancer's feeds read: applied to the core batch by batch, counted, refused where it is bad."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from schemas import topics
from schemas.errors import InvalidRecordError
from schemas.records import ClusterMetrics, Event, LoadHistory, LoadReport
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
from streams.balancer_takeover import Inheritance, Offsets, Settings
from streams.core.rounds import Rounds
from streams.feed import Feed, Starts
from streams.mapping_topic import Letter

log = logging.getLogger(__name__)

Put = Callable[[object], None]
"""Hands a value to an agent, from any thread; waits while the agent's channel is full."""


@dataclass(frozen=True)
class Batch:
    """What one feed read, in the order of each partition, and the term for which it was read."""

    term: int
    items: list[Received]


class Intake:
    """The feeds of one term and what came of their records. Feeds end by themselves: see `stop`."""

    def __init__(self, settings: Settings, fail: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._fail = fail
        self._feeds: list[Feed] = []
        self._offsets: dict[tuple[str, int], int] = {}
        self._inherited: dict[tuple[str, int], int] = {}
        """(topic, partition) -> offset before which the last leader has dead-lettered what is bad."""
        self._bad: list[Letter] = []
        self._starts: Mapping[topics.TopicSpec, Offsets] = {}

    def inherit(self, left: Inheritance) -> None:
        """Takes in what the last leader had read, and where to read on."""
        self._starts = left.starts
        self._inherited = {
            (topic, partition): offset
            for topic, places in left.rounds.offsets.items()
            for partition, offset in places
        }

    def start(self, term: int, puts: dict[str, Put]) -> None:
        """Reads events, metrics and load for their agents, from where `inherit` said."""
        clock = self._settings.clock
        self._feeds = [
            self._feed(topics.EVENTS, decode_event, term, puts),
            self._feed(topics.METRICS, decode_metrics(clock), term, puts),
            self._feed(topics.LOAD, decode_load(clock), term, puts),
        ]

    @property
    def caught_up(self) -> bool:
        """Returns whether all that was stored at the start has been handed over."""
        return all(feed.caught_up.is_set() for feed in self._feeds)

    def _feed(self, spec: topics.TopicSpec, decode: Decode, term: int, puts: dict[str, Put]) -> Feed:
        """Returns the feed of one topic, started."""
        put, clock = puts[spec.name], self._settings.clock

        def deliver(messages: list[Message]) -> None:
            kept = without_old_reports(messages, clock)
            put(Batch(term, [received(message, decode) for message in kept]))

        starts: Starts = {self._settings.topic(spec): self._starts.get(spec, "beginning")}
        feed = Feed(spec.name, dict(self._settings.kafka), starts, deliver, on_failure=self._fail)
        feed.start()
        return feed

    def take(self, rounds: Rounds, batch: Batch) -> None:
        """Applies every record of a batch; a bad one is counted, dead-lettered and costs no other."""
        for item in batch.items:
            try:
                if item.error is not None:
                    raise item.error
                _apply(rounds, item)
            except InvalidRecordError as error:
                self.refuse(item, error)
            self._offsets[item.topic, item.partition] = item.next_offset

    def refuse(self, item: Received, error: InvalidRecordError) -> None:
        """Counts and dead-letters a bad record, unless the last leader has done so."""
        if item.next_offset <= self._inherited.get((item.topic, item.partition), 0):
            return
        log.warning("%s is refused: %s", item.source, error)
        metrics.BAD_RECORDS.labels(topic=item.topic.removeprefix(self._settings.prefix)).inc()
        self._bad.append(item.letter(self._settings.topic(topics.DEAD_LETTER), error))

    def note(self, rounds: Rounds) -> None:
        """Tells the core how far the feeds are: saved with the state and what was refused up to there."""
        offsets: dict[str, list[tuple[int, int]]] = {}
        for place in sorted({*self._inherited, *self._offsets}):
            offset = max(self._inherited.get(place, 0), self._offsets.get(place, 0))
            offsets.setdefault(place[0], []).append((place[1], offset))
        rounds.offsets = offsets

    def letters(self) -> list[Letter]:
        """Returns the dead letters that are not written yet, once."""
        bad, self._bad = self._bad, []
        return bad

    def stop(self) -> None:
        """Ends the feeds, without waiting: what they still deliver is of an old term."""
        for feed in self._feeds:
            feed.stop(0.0)
        self._feeds = []
        self._offsets, self._inherited, self._bad = {}, {}, []


def _apply(rounds: Rounds, item: Received) -> None:
    """Gives a record to the core; the topic's decoder decides which records there are."""
    match item.record:
        case LoadReport() | LoadHistory():
            rounds.on_load(item.record)
        case ClusterMetrics():
            rounds.on_metrics(item.record)
        case Event() | None:  # only events have tombstones
            rounds.on_event(item.key, item.record)
