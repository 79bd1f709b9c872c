"""The one batch whose commit is under way: its notes when it starts, its fences and counts when it lands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from streams import metrics
from streams.core.handoffs import Handoffs
from streams.core.offset_note import OffsetNote, encode_note
from streams.core.poison import Place
from streams.core.routing import Routed, Routes
from streams.load_reporter import LoadReporter
from streams.router_deliveries import Deliveries
from streams.router_failures import Failures
from streams.router_transactions import Transactions, Written


@dataclass(frozen=True)
class _Flying:
    """A batch under way, with what is noted of its partitions."""

    routed: Routed
    routes: Routes
    notes: dict[int, OffsetNote]


class Flight:
    """Used by the router's thread alone."""

    def __init__(
        self,
        writer: Transactions | Deliveries,
        handoffs: Handoffs,
        failures: Failures,
        reporter: LoadReporter,
        ingest: str,
        rules_hash: str,
    ) -> None:
        self.writer = writer
        self._handoffs = handoffs
        self._failures = failures
        self._reporter = reporter
        self._ingest = ingest
        self._rules_hash = rules_hash
        self._flying: _Flying | None = None
        self._noted: dict[int, OffsetNote] = {}
        """Ingest partition -> its newest committed note."""

    def start(self, routed: Routed, routes: Routes, group: object) -> None:
        """Starts the commit of a batch, with the offset and the note of each of its partitions.

        Raises TransactionFailedError, RecordTooLargeError.
        """
        partitions = sorted({*routed.positions, *(partition for partition, _ in routed.origins)})
        notes = {number: self._handoffs.active[number].note(self._rules_hash) for number in partitions}
        places = [
            TopicPartition(self._ingest, number, offset, metadata=encode_note(note))
            for number, (offset, note) in notes.items()
        ]
        self._flying = _Flying(routed, routes, {number: note for number, (_, note) in notes.items()})
        self._handoffs.sent(routed.sent)
        self.writer.submit(routed, places, group)

    def land(self, timeout_s: float) -> None:
        """Waits for the outcome: only once it is committed do a batch's records have fences.

        Raises TimeoutError, TransactionFailedError.
        """
        written = self.writer.take(timeout_s)
        flying, self._flying = self._flying, None
        if flying is None:
            return
        routed, snapshot = flying.routed, flying.routes.snapshot
        self._failures.committed(routed)
        self._handoffs.written(routed.sent, written.last)
        self._noted.update({p: note for p, note in flying.notes.items() if p in self._handoffs.active})
        if not routed.records and not routed.origins:
            return
        positions = {number: flying.notes[number].position for number in routed.positions}
        self._reporter.committed(routed, positions, (snapshot.epoch, snapshot.version))
        self._count(routed, written)

    def _count(self, routed: Routed, written: Written) -> None:
        metrics.COMMIT_SECONDS.observe(written.seconds)
        metrics.BATCH_REQUESTS.observe(len(routed.origins))
        metrics.FORWARDED_BYTES.inc(int(routed.taken.size.sum()))
        metrics.ORDER_UNPROVEN.inc(routed.unproven)
        for number, count in routed.sent.by_cluster().items():
            metrics.FORWARDED.labels(self._handoffs.numbers.names[number]).inc(count)
        for letter in routed.dead:
            metrics.DEAD_LETTERS.labels(letter.bad.value).inc()

    def drop(self) -> list[Place]:
        """Forgets the batch under way: nothing of it had an effect. Returns where its records came from."""
        flying, self._flying = self._flying, None
        return [] if flying is None else flying.routed.origins

    def forget(self, partitions: Iterable[int]) -> None:
        """Forgets what was noted of partitions that another router has now."""
        for partition in partitions:
            self._noted.pop(partition, None)

    def untold(self) -> dict[int, int]:
        """Returns the position of each partition whose committed note does not say what is true by now."""
        return {
            partition: handoff.position
            for partition, handoff in self._handoffs.active.items()
            if (note := self._noted.get(partition)) is None
            or (note.settled, note.newest) != (handoff.settled, handoff.version)
        }
