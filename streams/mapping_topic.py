"""The mapping topic: read by everyone without a group, written by the one leader, a plan at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import (
    BrokerUnreachableError,
    FencedError,
    InvalidRecordError,
    MappingError,
    NotReadyError,
    StaleError,
)
from schemas.records import MappingMeta, MappingRecord, mapping_record
from streams.core.mapping import Snapshot, SnapshotBuilder
from streams.feed import Feed
from streams.kafka_settings import BATCH_BYTES, CONSUMER_ONLY, MAX_MESSAGE_BYTES, QUIET

log = logging.getLogger(__name__)

META_KEY = b"meta"
ASK_S = 5.0
"""Wall seconds one call to the broker may take before it is made again."""
TRANSACTION_MS = 60_000
"""An open transaction of a dead leader is aborted by its successor's `take_over`, so this may be long:
what it must outlast is a broker that is away for a while, or the living leader would be fenced."""
ATTEMPTS = 5
"""Times that a transaction which must be aborted is made again."""
BACK_OFF_S = 0.2
"""Wall seconds before the second attempt; doubled each time: 3 s for all."""
FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)

Outgoing = tuple[str, bytes | None, bytes | None]
"""(topic, key, value)"""
Letter = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""(topic, key, value, headers) of a dead letter"""


def mapping_key(record: MappingRecord | MappingMeta) -> bytes:
    """Returns the record's key in the mapping topic: its shard, or "meta"."""
    return META_KEY if isinstance(record, MappingMeta) else b"%d" % record.shard


def plan_messages(topic: str, records: Sequence[MappingRecord], meta: MappingMeta) -> list[Outgoing]:
    """Returns a plan as the messages of one transaction: the shards, and meta last."""
    everything: list[MappingRecord | MappingMeta] = [*records, meta]
    return [(topic, mapping_key(record), record.to_json()) for record in everything]


class MappingReader:
    """Follows the mapping: `snapshot` is always one whole plan, the newest read.

    `ready` is set once the topic was read to the end that it had at the start; until then `snapshot`
    is None, and it stays None while the topic holds no whole plan. What cannot be applied is refused:
    counted, logged once, and the old snapshot stays.
    """

    def __init__(
        self,
        kafka: dict[str, Any],
        topic: str,
        *,
        on_failure: Callable[[BaseException], None],
        on_change: Callable[[Snapshot], None] | None = None,
    ) -> None:
        self.topic = topic
        self._builder = SnapshotBuilder()
        self._on_change = on_change
        self._snapshot: Snapshot | None = None
        self._last_warning = ""
        self._feed = Feed(
            f"mapping-{topic}",
            kafka,
            {topic: "beginning"},
            self._deliver,
            on_failure=on_failure,
            on_caught_up=self._publish,
        )

    @property
    def ready(self) -> threading.Event:
        return self._feed.caught_up

    @property
    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    @property
    def refused(self) -> int:
        """Records and plans refused since the start."""
        return self._builder.refused

    def start(self) -> None:
        self._feed.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        return self._feed.stop(timeout_s)

    def _deliver(self, messages: list[Message]) -> None:
        for message in messages:
            self._take(message)
            if self._feed.caught_up.is_set():
                self._publish()

    def _take(self, message: Message) -> None:
        key = message.key()
        try:
            record = mapping_record(message.value())
            if mapping_key(record) != key:
                raise InvalidRecordError(f"mapping record of {mapping_key(record)!r} under the key {key!r}")
        except InvalidRecordError as error:
            self._builder.reject(_shard_of(key), str(error))
            self._warn(message, str(error))
            return
        try:
            self._builder.apply(record)
        except MappingError as error:
            self._warn(message, f"{'stale: ' * isinstance(error, StaleError)}{error}")

    def _warn(self, message: Message, reason: str) -> None:
        if reason != self._last_warning:
            self._last_warning = reason
            place = f"{self.topic}[{message.partition()}]@{message.offset()}"
            log.warning("%s refused, the mapping stays as it is: %s", place, reason)

    def _publish(self) -> None:
        newest = self._builder.snapshot
        if newest is not None and newest is not self._snapshot:
            self._snapshot = newest
            if self._on_change is not None:
                self._on_change(newest)


def _shard_of(key: bytes | str | None) -> int | None:
    """Returns the shard that a key of the mapping topic names, None where it names none."""
    text = key.decode(errors="replace") if isinstance(key, bytes) else key or ""
    return int(text) if text.isascii() and text.isdecimal() else None


class MappingWriter:
    """The leader's transactional producer: what it writes is seen whole or not at all.

    Its transactional id is the same in every balancer of a prefix, so `take_over` here fences all
    that took over before. Used by one thread at a time; calls wait for as long as no broker answers,
    until `close` is called from another thread.
    """

    def __init__(self, kafka: dict[str, Any], prefix: str) -> None:
        own = {name: value for name, value in kafka.items() if name not in CONSUMER_ONLY}
        self._settings = (
            {"retry.backoff.ms": 5, "linger.ms": 0, "compression.type": "lz4", "batch.size": BATCH_BYTES}
            | QUIET
            | own
            | {
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "transactional.id": f"{prefix}balancer",
                "transaction.timeout.ms": TRANSACTION_MS,
                "enable.idempotence": True,
                "acks": "all",
            }
        )
        self._producer: Producer | None = None
        self._fenced = ""
        """Why this producer may never write again; a fenced one would report other errors by and by."""
        self._closed = threading.Event()

    def take_over(self) -> None:
        """Fences every older writer and aborts what it left open; then `write` may be called."""
        self._producer, self._fenced = None, ""
        producer = Producer(self._settings)
        self._again(lambda: producer.init_transactions(ASK_S))
        self._producer = producer

    def write(self, records: Sequence[Outgoing], letters: Sequence[Letter] = ()) -> None:
        """Writes letters and records in this order as one transaction; returns when it is committed.

        Raises FencedError where a newer leader has taken over, BrokerUnreachableError where the
        transaction had to be aborted five times: then none of the records is visible.
        """
        producer = self._producer
        if self._fenced:
            raise FencedError(self._fenced)
        if producer is None:
            raise NotReadyError("the mapping writer has not taken over: call take_over first")
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._closed.wait(BACK_OFF_S * 2 ** (attempt - 1))
            try:
                producer.begin_transaction()
                for topic, key, value, headers in letters:
                    _produce(producer, topic, key, value, headers)
                for topic, key, value in records:
                    _produce(producer, topic, key, value, [])
                self._again(lambda: producer.commit_transaction(ASK_S))
            except KafkaException as error:
                reason = str(error.args[0])
                self._abort(producer, error)
            else:
                return
        raise BrokerUnreachableError(f"a plan could not be written in {ATTEMPTS} attempts: {reason}")

    def _abort(self, producer: Producer, error: KafkaException) -> None:
        """Aborts the transaction that failed; raises where another attempt cannot help."""
        self._raise_if_fenced(error)
        self._again(lambda: producer.abort_transaction(ASK_S))
        failed: KafkaError = error.args[0]
        if not failed.txn_requires_abort():
            raise error

    def _again(self, call: Callable[[], None]) -> None:
        """Makes a call of the transaction API until it succeeds or fails for good.

        Raises FencedError where this producer may never write again, KafkaException where the
        transaction must be aborted.
        """
        while True:
            try:
                call()
            except KafkaException as error:
                self._raise_if_fenced(error)
                failed: KafkaError = error.args[0]
                if not failed.retriable():
                    raise
                if self._closed.is_set():
                    raise BrokerUnreachableError(f"closed while waiting: {failed.str()}") from error
                self._closed.wait(BACK_OFF_S / 4)
            else:
                return

    def _raise_if_fenced(self, error: KafkaException) -> None:
        """Raises FencedError for a fatal failure: this producer may never write again.

        A new one with the same id could, but it would fence whoever leads by now.
        """
        failed: KafkaError = error.args[0]
        if failed.fatal() or failed.code() in FENCED:
            self._producer, self._fenced = None, f"another balancer has taken over: {failed.str()}"
            raise FencedError(self._fenced) from error

    def close(self) -> None:
        """Ends a call that waits for a broker; nothing can be written afterwards."""
        self._closed.set()
        self._producer = None


def _produce(
    producer: Producer,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
) -> None:
    while True:
        try:
            producer.produce(topic, value, key, headers=[*headers])
        except BufferError:
            producer.poll(0.1)  # the local queue is full: waits until some of it is sent
        else:
            return
