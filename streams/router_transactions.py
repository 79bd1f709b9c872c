"""One transaction per batch: produce, add the consumed offsets, commit. The commit runs in its own thread."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import BadRequest
from streams.core.routing import Outgoing, Routed
from streams.one_thread import OneThread

log = logging.getLogger(__name__)

CALL_S = 3.0
"""Longest single call to the broker; a retriable outcome calls again."""

HUNG_S = 6.0
"""Seconds after which a call that was to take CALL_S is given up: `send_offsets_to_transaction` ignores
its timeout where the group's coordinator has lost the request (librdkafka issue 5456)."""

MARKERS_S = 0.003
"""Seconds between the end of a commit and the next transaction. The broker confirms a commit before it has
written the markers; who adds partitions meanwhile is told CONCURRENT_TRANSACTIONS, and librdkafka asks again
20 ms later: a transaction then takes 30 ms instead of 9, which is what latency at low load is made of."""

ABORT_ATTEMPTS = 4
"""Calls of `abort_transaction` before a new producer, whose start aborts it too, is tried instead."""

REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: BadRequest.TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: BadRequest.TOO_LARGE,
    KafkaError.INVALID_MSG: BadRequest.REFUSED_BY_BROKER,
    KafkaError.INVALID_MSG_SIZE: BadRequest.REFUSED_BY_BROKER,
    KafkaError.INVALID_RECORD: BadRequest.REFUSED_BY_BROKER,
    KafkaError.INVALID_TIMESTAMP: BadRequest.REFUSED_BY_BROKER,
    KafkaError.POLICY_VIOLATION: BadRequest.REFUSED_BY_BROKER,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: BadRequest.REFUSED_BY_BROKER,
}
"""Errors that are a record's fault, and what its dead letter says. The list is positive on purpose: an
error that we do not know must not send good requests to the dead-letter topic."""

MEMBERSHIP = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
    }
)
"""Errors of an ordinary rebalance: the batch is another router's now."""


class Kind(Enum):
    """What a failed transaction asks for: its abort, or a new producer, whose start aborts it."""

    ABORT = "abort"
    RENEW = "renew"


RENEWING = frozenset({*REFUSED, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError._STATE})
"""Errors after which this producer's sequence numbers are in disorder: after a plain abort the next
transaction would fail as well, with OUT_OF_ORDER_SEQUENCE_NUMBER."""


class TransactionFailedError(Exception):
    """A transaction did not commit; nothing of it is visible to anyone."""

    def __init__(self, error: KafkaError, kind: Kind) -> None:
        super().__init__(str(error))
        self.error = error
        self.kind = kind

    @property
    def refused(self) -> BadRequest | None:
        """Returns why the broker refused a record; None if no record is to blame."""
        return REFUSED.get(self.error.code())

    @property
    def membership(self) -> bool:
        """Returns whether a change of the group's members explains it."""
        return self.error.code() in MEMBERSHIP


class RecordTooLargeError(Exception):
    """The client itself refused to produce one record: `index` in the batch's outgoing records."""

    def __init__(self, index: int, error: KafkaError) -> None:
        super().__init__(str(error))
        self.index = index


Callback = Callable[[KafkaError | None, Message], None]
Last = Mapping[tuple[str, int], int]
"""(topic, partition) -> offset of the last record that one batch wrote there."""


@dataclass(frozen=True)
class Written:
    """A batch that is durable, its consumed offsets included."""

    seconds: float
    """From the last produced record on."""
    last: Last


class Reports:
    """Delivery reports of one batch: only the last record of each output partition has one.

    In a transaction, and for an idempotent producer that leaves no gap, nothing more is needed: what
    fails before them fails them too. After a failure every record has one, to find the one to blame.
    """

    def __init__(self) -> None:
        self.last: dict[tuple[str, int], int] = {}
        self.refusal: KafkaError | None = None
        """Why the broker refused a record, once a report said so."""
        self.failure: KafkaError | None = None
        """The first error of any kind."""

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """Takes in one report."""
        if error is None:
            place = (message.topic() or "", message.partition() or 0)
            self.last[place] = max(self.last.get(place, -1), message.offset() or 0)
            return
        self.failure = self.failure or error
        if error.code() in REFUSED:
            self.refusal = self.refusal or error


def reports_wanted(routed: Routed, reports: Reports, *, everyone: bool) -> list[Callback | None]:
    """Returns the report that each record of a batch wants: for every output partition its last one."""
    if everyone:
        return [reports.delivered] * len(routed.outgoing)
    wanted: list[Callback | None] = [None] * len(routed.outgoing)
    for index in routed.sent.last():
        wanted[index] = reports.delivered
    return wanted


def produce_all(producer: Producer, outgoing: Sequence[Outgoing], reports: Sequence[Callback | None]) -> None:
    """Hands every record to the producer; raises RecordTooLargeError, or KafkaException."""
    produce: Callable[..., None] = producer.produce
    numbered = zip(outgoing, reports, strict=True)
    for index, ((topic, value, key, partition, timestamp, headers), report) in enumerate(numbered):
        while True:
            try:
                produce(topic, value, key, partition, report, None, timestamp, headers)
            except BufferError:
                producer.poll(0.01)
                continue
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise RecordTooLargeError(index, error) from None
                raise
            break


@dataclass
class _Call:
    """The call to the broker that a commit has under way, seen from outside its thread."""

    since: float = math.inf


class Transactions:
    """The transactional producer of one router. All methods are called by the router's thread."""

    def __init__(self, settings: dict[str, Any], stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._producer: Producer | None = None
        self._committer = OneThread("commit")
        self._pending: Future[Written] | None = None
        self._call = _Call()
        self._reports = Reports()
        self._free_at = 0.0
        """When the markers of the last commit are written, as far as one can tell."""
        self._ask_all = False
        """Whether the next batch wants a report of every record: the one before failed unexplained."""

    @property
    def pending(self) -> bool:
        """Returns whether a commit is under way or its outcome was not taken yet."""
        return self._pending is not None

    @property
    def done(self) -> bool:
        """Returns whether the outcome of the pending commit is there to take."""
        return self._pending is not None and self._pending.done()

    @property
    def hung(self) -> bool:
        """Returns whether the committer's call will never return."""
        return time.monotonic() - self._call.since > HUNG_S

    def abandon(self) -> TransactionFailedError:
        """Leaves a hung call to itself; the failure returned asks for a new producer, which fences it."""
        self._pending = None
        self._committer.end()
        self._committer = OneThread("commit")
        error = KafkaError(KafkaError._TIMED_OUT, f"no answer in {HUNG_S} s")
        return TransactionFailedError(error, Kind.RENEW)

    def open(self) -> bool:
        """Makes the producer, fencing every older one with its id; False if the broker did not answer."""
        self.close()
        producer = Producer(self._settings)
        try:
            producer.init_transactions(CALL_S)
        except KafkaException as failure:
            log.debug("init_transactions: %s", failure)
            return False
        self._producer = producer
        return True

    def submit(self, routed: Routed, offsets: list[TopicPartition], group: object) -> None:
        """Produces the records and starts the commit; raises TransactionFailedError, RecordTooLargeError."""
        producer = self._own()
        self._reports = reports = Reports()
        wanted = reports_wanted(routed, reports, everyone=self._ask_all)
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        try:
            producer.begin_transaction()
            produce_all(producer, routed.outgoing, wanted)
        except KafkaException as failure:
            raise self._failed(failure) from None
        self._call = call = _Call()

        def commit() -> Written:
            started = time.monotonic()
            self._insist(call, lambda: producer.send_offsets_to_transaction(offsets, group, CALL_S))
            self._insist(call, lambda: producer.commit_transaction(CALL_S))
            ended = time.monotonic()
            self._free_at = ended + MARKERS_S
            return Written(ended - started, reports.last)

        self._pending = self._committer.submit(commit)

    def _insist(self, call: _Call, make: Callable[[], None]) -> None:
        """Makes a call again as long as its outcome is retriable: only so is it known in the end."""
        while True:
            call.since = time.monotonic()
            try:
                make()
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                if not error.retriable() or error.txn_requires_abort() or error.fatal():
                    raise self._failed(failure) from None
                if self._stopping.is_set():
                    raise TransactionFailedError(error, Kind.ABORT) from None
            else:
                return

    def take(self, timeout_s: float | None = None) -> Written:
        """Waits for the pending commit and returns what it wrote; raises its failure, or TimeoutError."""
        pending = self._pending
        if pending is None:
            raise RuntimeError("no commit is pending")
        written = None
        try:
            written = pending.result(timeout_s)
            self._ask_all = False
        finally:
            if written is not None or pending.done():
                self._pending = None
        return written

    def abort(self) -> bool:
        """Aborts the open transaction; False if the producer cannot be used any more."""
        producer = self._own()
        for _ in range(ABORT_ATTEMPTS):
            try:
                producer.abort_transaction(CALL_S)
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                if error.retriable() and not self._stopping.is_set():
                    continue
                # No transaction was open: begin_transaction itself had failed.
                return bool(error.code() == KafkaError._STATE and not error.fatal())
            return True
        return False

    def close(self) -> None:
        """Drops the producer and whatever it still had in hand."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):  # a fenced producer says so again here
                producer.purge()
                producer.poll(0)

    def end(self) -> None:
        """Ends the committer; called once, last."""
        self.close()
        self._committer.end()

    def _own(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("no producer: open() comes first")
        return self._producer

    def _failed(self, failure: KafkaException) -> TransactionFailedError:
        """Returns the failure with its true cause: later calls only say that the state is erroneous."""
        error: KafkaError = failure.args[0]
        if error.code() == KafkaError._STATE:
            with contextlib.suppress(KafkaException):
                self._own().poll(0)
            error = self._reports.refusal or error
        self._ask_all = self._ask_all or error.code() not in MEMBERSHIP
        renew = error.fatal() or error.code() in RENEWING
        return TransactionFailedError(error, Kind.RENEW if renew else Kind.ABORT)
