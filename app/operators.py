"""What operators say to the system and read from it: commands with answers, events, stored records."""

from __future__ import annotations

import contextlib
import getpass
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from re import fullmatch
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from app import topic_admin
from app.config import Config
from schemas import topics
from schemas.errors import BrokerUnreachableError, InvalidRecordError, NotReadyError
from schemas.records import Answer, Cluster, Command, Decision, Event, Record, decision_record
from streams.core.mapping import Snapshot
from streams.mapping_topic import MappingReader
from streams.tables import read_table

ANSWER_S = 15.0
"""Seconds to wait for a balancer's answer: a take-over after a clean stop takes a few."""
SILENCE_S = 60.0
"""Seconds without any decision after which nobody leads: a round is recorded every 10 s, and a take-over
after a kill takes 15."""
CONFIRM_S = 10.0
"""Seconds until a record that was sent must be stored."""
ASK_S = 3.0
"""Seconds that one question to the broker may take before it is asked again."""
MAPPING_S = 15.0
"""Seconds until the mapping must have been read."""
STORED = "command {} is stored and will be applied by the next one that leads: `foreshard balancer`"
EVERYTHING = 100_000_000
LONGEST_S = 366 * 86_400.0
"""A duration over this is a slip of the pen."""
Kind = TypeVar("Kind")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def new_id(what: str) -> str:
    """Returns an id that nobody else has."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def who() -> str:
    """Returns the name of the person at the keyboard; empty where the system knows none (a container)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def send(config: Config, spec: topics.TopicSpec, key: str | None, record: Record | None) -> None:
    """Stores one record (None: a tombstone) and returns when all replicas have it."""
    settings = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": int(CONFIRM_S * 1000)}
    topic_admin.require(config, config.topic(spec))
    producer = Producer(config.kafka | settings)
    value = None if record is None else record.to_json()
    # No Python runs in this callback: a Ctrl-C that falls into one is lost, and flush raises SystemError.
    confirmed: dict[KafkaError | None, Message] = {}
    producer.produce(
        config.topic(spec), value, None if key is None else key.encode(), on_delivery=confirmed.__setitem__
    )
    producer.flush(CONFIRM_S + 1)
    if None not in confirmed:
        why = next((error.str() for error in confirmed if error is not None), "no answer in time")
        raise BrokerUnreachableError(f"the record was not stored in {config.topic(spec)}: {why}")


def command(config: Config, record: Command, *, wait: bool = True) -> Answer | None:
    """Sends a command; returns the leading balancer's answer, None with `wait=False`.

    Raises NotReadyError when no balancer runs or none answers in time: the command is stored all the
    same, and the next leader applies it.
    """
    if not wait:
        send(config, topics.COMMANDS, None, record)
        return None
    with _listening(config) as said:
        return _answer(config, record, said)


def long_command(config: Config, record: Command, answered: Callable[[Answer], None]) -> Decision | None:
    """Sends a command whose work outlasts its answer; returns the decision that ends the work.

    None where the answer, which `answered` gets at once, is a refusal. Raises NotReadyError as
    `command` does, and where nobody decides anything any more.
    """
    with _listening(config) as said:
        answer = _answer(config, record, said)
        answered(answer)
        if not answer.accepted:
            return None
        heard_at = time.monotonic()
        while time.monotonic() < heard_at + SILENCE_S:
            heard = _record(said.poll(0.2))
            if isinstance(heard, Decision):
                heard_at = time.monotonic()
                if heard.command == record.id:
                    return heard
    raise NotReadyError(
        f"no balancer has decided anything for {SILENCE_S:.0f} s; the next one that leads goes on with "
        f"command {record.id}: `foreshard rounds list` shows its end"
    )


@contextlib.contextmanager
def _listening(config: Config) -> Iterator[Consumer]:
    """A consumer that hears what is decided and answered from now on."""
    decisions = config.topic(topics.DECISIONS)
    topic_admin.require(config, decisions)
    consumer = _from_end(config, decisions)
    try:
        yield consumer
    finally:
        consumer.close()


def _answer(config: Config, record: Command, said: Consumer) -> Answer:
    """Sends a command and returns its answer."""
    send(config, topics.COMMANDS, None, record)
    if not _balancers(config):
        raise NotReadyError(f"no balancer runs yet; {STORED.format(record.id)}")
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        heard = _record(said.poll(0.2))
        if isinstance(heard, Answer) and heard.command == record.id:
            return heard
    raise NotReadyError(f"no balancer answered within {ANSWER_S:.0f} s; {STORED.format(record.id)}")


def _record(message: Message | None) -> Decision | Answer | None:
    if message is None or message.error():
        return None
    with contextlib.suppress(InvalidRecordError):
        return decision_record(message.value())
    return None


def _balancers(config: Config) -> int:
    """Returns how many balancers run: members of their group; 1 where the broker does not tell."""
    group = config.prefix + topics.BALANCER_GROUP
    admin = AdminClient(config.kafka)
    try:
        found = admin.describe_consumer_groups([group], request_timeout=CONFIRM_S)[group].result()
        return len(found.members)
    except KafkaException:
        return 1


def _from_end(config: Config, topic: str) -> Consumer:
    """Returns a group-less consumer that stands at the end of the one partition of `topic`."""
    settings: dict[str, Any] = {
        "group.id": new_id("reader"),
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(config.kafka | settings)
    deadline = time.monotonic() + CONFIRM_S
    while True:
        try:
            _low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=ASK_S)
        except KafkaException as error:  # a topic that was made a moment ago has no leader yet
            if time.monotonic() > deadline:
                consumer.close()
                raise topic_admin.unreachable(config, error.args[0]) from None
            time.sleep(0.1)
        else:
            consumer.assign([TopicPartition(topic, 0, high)])
            return consumer


def clusters(config: Config) -> list[Cluster]:
    """Returns the registered clusters by name."""
    return list(_valid(table(config, topics.CLUSTERS), Cluster.from_json))


def events(config: Config) -> list[Event]:
    """Returns the posted events that were not withdrawn, by start."""
    found = _valid(table(config, topics.EVENTS), Event.from_json)
    return sorted(found, key=lambda event: (event.start, event.id))


def decisions(
    config: Config, newest: int, wanted: Callable[[Decision], bool] = lambda _: True
) -> list[Decision]:
    """Returns the newest decisions that are wanted, oldest first; reads no further back than it must."""
    topic = config.topic(topics.DECISIONS)
    topic_admin.require(config, topic)
    for depth in (newest + 20, 20 * newest + 1_000, EVERYTHING):
        messages = read_table(config.kafka, topic, newest=depth)
        records = _valid({str(m.offset()): m.value() for m in messages}, decision_record)
        found = [record for record in records if isinstance(record, Decision) and wanted(record)]
        if len(found) >= newest or len(messages) < depth:
            break
    return found[-newest:]


def snapshot(config: Config) -> Snapshot:
    """Returns the mapping as routers read it; raises NotReadyError when there is none yet."""
    topic = config.topic(topics.MAPPING)
    topic_admin.require(config, topic)
    failures: list[BaseException] = []
    reader = MappingReader(config.kafka, topic, on_failure=failures.append)
    reader.start()
    ready = reader.ready.wait(MAPPING_S)
    reader.stop()
    if failures:
        raise failures[0]
    if not ready:
        raise BrokerUnreachableError(f"{topic} was not read within {MAPPING_S:.0f} s; is the broker there?")
    if reader.snapshot is None:
        raise NotReadyError("there is no mapping yet: `foreshard clusters add`, then `foreshard balancer`")
    return reader.snapshot


def table(config: Config, spec: topics.TopicSpec) -> dict[str, bytes]:
    """Returns the newest value of every key of a compacted topic that has no tombstone, by key."""
    topic = config.topic(spec)
    topic_admin.require(config, topic)
    newest: dict[bytes, bytes | None] = {}
    for message in read_table(config.kafka, topic):
        newest[message.key() or b""] = message.value()
    return {key.decode(errors="replace"): value for key, value in sorted(newest.items()) if value is not None}


def _valid(values: Mapping[str, bytes | None], parse: Callable[[bytes | None], Kind]) -> Iterator[Kind]:
    """Yields the records that can be read; one that cannot costs no other, and is named on stderr."""
    for key, value in values.items():
        try:
            record = parse(value)
        except InvalidRecordError as error:
            sys.stderr.write(f"left out {key}: {error}\n")
        else:
            yield record


def seconds(text: str) -> float:
    """Returns a duration such as 90s, 15m, 2h or 1d in seconds; raises ValueError."""
    match = fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write 90s, 15m, 2h or 1d")
    duration_s = float(match[1]) * UNITS_S[match[2]]
    if not 0 < duration_s <= LONGEST_S:
        raise ValueError(f"{text!r} is no duration between 0 and a year")
    return duration_s


def moment(text: str, now: float) -> float:
    """Returns a time, in UTC, as seconds since 1970; raises ValueError.

    `now`, `+15m`, `10:00` (the next one), `today 10:00`, `tomorrow 10:00` or ISO 8601.
    """
    text = text.strip()
    if text == "now":
        return now
    if text.startswith("+"):
        return now + seconds(text[1:])
    match = fullmatch(r"(?:(today|tomorrow)\s+)?(\d{1,2}):(\d{2})", text)
    try:
        if match is None:
            given = datetime.fromisoformat(text)
            return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
        day = datetime.fromtimestamp(now, UTC) + timedelta(days=match[1] == "tomorrow")
        at = day.replace(hour=int(match[2]), minute=int(match[3]), second=0, microsecond=0).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; write now, +15m, 10:00, tomorrow 10:00 or ISO 8601") from None
    return at + UNITS_S["d"] if match[1] is None and at < now else at


def shown_time(at: float) -> str:
    """Returns model seconds since 1970 as a UTC time that `moment` reads back."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{at:g} s"
