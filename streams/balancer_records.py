"""What the balancer reads from control topics, decoded in the feeds' threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, InvalidRecordError
from schemas.records import ClusterMetrics, Event, LoadReport, Record, load_record
from streams.clock import Clock
from streams.mapping_topic import Letter

AHEAD_S = 60.0
"""Model seconds that a report may be ahead of our clock. One from further ahead comes of a wrong clock
and would make all later reports look old."""
OLD_REPORT_S = 300.0
"""Model seconds after which a load report changes nothing: rates look back 120 s, backlogs 60 s."""
REPORT = b'{"schema":1,"kind":"report",'
"""How every load report begins; what begins otherwise is decoded whatever its age."""
MOST_REASON = 1_000
"""Characters of a reason in a header: a record may have thousands of wrong fields."""

Decode = Callable[[Message], Record | None]
"""Returns a message's record, None for a tombstone; raises InvalidRecordError."""


@dataclass(frozen=True)
class Received:
    """One message with its record, or with what is wrong with it."""

    message: Message
    record: Record | None = None
    error: InvalidRecordError | None = None

    @property
    def topic(self) -> str:
        return self.message.topic() or ""

    @property
    def partition(self) -> int:
        return self.message.partition() or 0

    @property
    def key(self) -> str:
        return _key(self.message)

    @property
    def next_offset(self) -> int:
        """The offset after the message's."""
        return (self.message.offset() or 0) + 1

    @property
    def source(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.next_offset - 1}"

    def letter(self, topic: str, error: InvalidRecordError) -> Letter:
        """Returns the dead letter that says why the message was refused."""
        headers = [
            *(self.message.headers() or []),
            (HEADER_ERROR, error.code.encode()),
            (HEADER_REASON, str(error)[:MOST_REASON].encode("utf-8", "replace")),
            (HEADER_SOURCE, self.source.encode()),
        ]
        return topic, self.message.key(), self.message.value(), headers


def received(message: Message, decode: Decode) -> Received:
    """Returns the message decoded; never raises for what is in it."""
    try:
        return Received(message, record=decode(message))
    except InvalidRecordError as error:
        return Received(message, error=error)


def _key(message: Message) -> str:
    key = message.key() or b""
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key


def decode_load(clock: Clock) -> Decode:
    """Returns what decodes the load topic: reports, and stored history of whatever age."""

    def decode(message: Message) -> Record:
        record = load_record(message.value())
        if isinstance(record, LoadReport):
            _not_ahead(clock, record.window_to, f"load report of {record.router}")
        return record

    return decode


def decode_metrics(clock: Clock) -> Decode:
    """Returns what decodes the metrics topic."""

    def decode(message: Message) -> Record:
        record = ClusterMetrics.from_json(message.value())
        _not_ahead(clock, record.at, f"metrics of {record.cluster}, {record.instance}")
        return record

    return decode


def _not_ahead(clock: Clock, at: float, what: str) -> None:
    ahead_s = at - clock.now()
    if ahead_s > AHEAD_S:
        raise InvalidRecordError(
            f"{what} is {ahead_s:.0f} s ahead of the balancer's clock; set [clock] alike in every process"
        )


def decode_event(message: Message) -> Event | None:
    """Returns the event, None where the message withdraws it."""
    if message.value() is None:
        return None
    event = Event.from_json(message.value())
    if event.id != _key(message):
        raise InvalidRecordError(f"event {event.id} has the record key {_key(message)!r}; key it by its id")
    return event


def without_old_reports(messages: list[Message], clock: Clock) -> list[Message]:
    """Returns the messages but load reports of long ago: at a take-over there may be days of them."""
    oldest_ms = clock.wall(clock.now() - OLD_REPORT_S) * 1000.0
    return [message for message in messages if not _is_old_report(message, oldest_ms)]


def _is_old_report(message: Message, oldest_ms: float) -> bool:
    kind, at_ms = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE or at_ms >= oldest_ms:
        return False
    return (message.value() or b"").startswith(REPORT)
