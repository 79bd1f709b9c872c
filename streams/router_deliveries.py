"""At least once: produce a batch, confirm every delivery, then commit its offsets. No transaction.

The producer is idempotent and leaves no gap: a record that cannot be delivered ends it, and with it
what follows, so the last record of each output partition vouches for those before. What was written
before a failure is written again: it is read anew from the committed offsets. A router that slept is
not fenced: what it still has in hand when it wakes may come after what its successor wrote.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streams.core.routing import Routed
from streams.one_thread import OneThread
from streams.router_transactions import (
    CALL_S,
    HUNG_S,
    Kind,
    Reports,
    TransactionFailedError,
    Written,
    produce_all,
    reports_wanted,
)

log = logging.getLogger(__name__)


class Deliveries:
    """The producer of one at-least-once router, used like `Transactions`."""

    def __init__(
        self,
        settings: dict[str, Any],
        stopping: threading.Event,
        commit: Callable[[list[TopicPartition]], None],
    ) -> None:
        self._settings = settings
        self._stopping = stopping
        self._commit = commit
        """Commits offsets of the consumer; called by the router's thread."""
        self._producer: Producer | None = None
        self._flusher = OneThread("flush")
        self._pending: Future[Written] | None = None
        self._places: list[TopicPartition] = []
        self._since = math.inf
        self._reports = Reports()
        self._ask_all = False

    @property
    def pending(self) -> bool:
        """Returns whether deliveries are under way or their outcome was not taken yet."""
        return self._pending is not None

    @property
    def done(self) -> bool:
        """Returns whether the outcome is there to take."""
        return self._pending is not None and self._pending.done()

    @property
    def hung(self) -> bool:
        """Returns whether a call will never return; `flush` keeps to its timeout, so it never does."""
        return time.monotonic() - self._since > HUNG_S + CALL_S

    def abandon(self) -> TransactionFailedError:
        """Leaves a hung call to itself."""
        self._pending = None
        self._flusher.end()
        self._flusher = OneThread("flush")
        return TransactionFailedError(KafkaError(KafkaError._TIMED_OUT, "flush hangs"), Kind.RENEW)

    def open(self) -> bool:
        """Makes the producer."""
        self.close()
        self._producer = Producer(self._settings)
        return True

    def submit(self, routed: Routed, offsets: list[TopicPartition], _group: object) -> None:
        """Produces the records and waits for their deliveries elsewhere; raises RecordTooLargeError."""
        producer = self._own()
        self._reports = reports = Reports()
        self._places = offsets
        try:
            produce_all(producer, routed.outgoing, reports_wanted(routed, reports, everyone=self._ask_all))
        except KafkaException as failure:
            raise self._failed(failure.args[0]) from None

        def confirm() -> Written:
            started = time.monotonic()
            left = len(routed.outgoing)
            while left and not (self._stopping.is_set() and time.monotonic() - started > CALL_S):
                self._since = time.monotonic()
                left = producer.flush(CALL_S)
            self._since = math.inf
            failure = reports.refusal or reports.failure
            if failure is not None or left:
                raise self._failed(failure or KafkaError(KafkaError._TIMED_OUT, f"{left} not delivered"))
            return Written(time.monotonic() - started, reports.last)

        self._pending = self._flusher.submit(confirm)

    def take(self, timeout_s: float | None = None) -> Written:
        """Waits for the deliveries, commits the offsets; raises what failed, or TimeoutError."""
        pending = self._pending
        if pending is None:
            raise RuntimeError("nothing is pending")
        written = None
        try:
            written = pending.result(timeout_s)
        finally:
            if written is not None or pending.done():
                self._pending = None
        self._ask_all = False
        self._commit(self._places)
        return written

    def abort(self) -> bool:
        """Returns False: what was produced cannot be taken back, a new producer goes on."""
        return False

    def close(self) -> None:
        """Drops the producer and whatever it still had in hand."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)

    def end(self) -> None:
        """Ends the thread; called once, last."""
        self.close()
        self._flusher.end()

    def _own(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("no producer: open() comes first")
        return self._producer

    def _failed(self, error: KafkaError) -> TransactionFailedError:
        self._ask_all = True
        return TransactionFailedError(error, Kind.RENEW)
