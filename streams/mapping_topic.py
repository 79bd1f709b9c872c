"""The mapping topic: read by everyone without a group, written by the one leader, a plan at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Message, Producer

from schemas.errors import InvalidRecordError, MappingError, StaleError
from schemas.records import MappingMeta, MappingRecord, mapping_record
from streams.core.mapping import Snapshot, SnapshotBuilder
from streams.feed import Feed
from streams.fenced_writer import FencedWriter, put

log = logging.getLogger(__name__)

META_KEY = b"meta"

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


class MappingWriter(FencedWriter):
    """The leader's writer: one transaction per plan, and no other balancer's."""

    def __init__(self, kafka: dict[str, Any], prefix: str) -> None:
        super().__init__(kafka, f"{prefix}balancer")

    def write(self, records: Sequence[Outgoing], letters: Sequence[Letter] = ()) -> None:
        """Writes letters and records in this order as one transaction; returns when it is committed.

        Raises FencedError where a newer leader has taken over, BrokerUnreachableError where the
        transaction had to be aborted five times: then none of the records is visible.
        """

        def fill(producer: Producer) -> None:
            for topic, key, value, headers in letters:
                put(producer, topic, value, key, -1, None, None, 0, [*headers])
            for topic, key, value in records:
                put(producer, topic, value, key)

        self.transact(fill)
