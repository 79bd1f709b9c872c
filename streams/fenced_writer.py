"""A transactional producer of which only the newest may write: every older one with its id is fenced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.errors import BrokerUnreachableError, FencedError, NotReadyError
from streams.kafka_settings import BATCH_BYTES, CONSUMER_ONLY, EVERY_CLIENT, MAX_MESSAGE_BYTES

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


class FencedWriter:
    """What it writes is seen whole or not at all, and by the newest of its id only.

    Its transactional id is the same in every process that may write, so `take_over` here fences all
    that took over before. Used by one thread at a time; calls wait for as long as no broker answers,
    until `close` is called from another thread.
    """

    def __init__(self, kafka: Mapping[str, Any], transactional_id: str) -> None:
        own = {name: value for name, value in kafka.items() if name not in CONSUMER_ONLY}
        self._settings = (
            {"retry.backoff.ms": 5, "linger.ms": 0, "compression.type": "lz4", "batch.size": BATCH_BYTES}
            | EVERY_CLIENT
            | own
            | {
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "transactional.id": transactional_id,
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
        """Fences every older writer and aborts what they left open; then `transact` may be called."""
        self._producer, self._fenced = None, ""
        producer = Producer(self._settings)
        self._again(lambda: producer.init_transactions(ASK_S))
        self._producer = producer

    def transact(
        self, fill: Callable[[Producer], None], before_commit: Callable[[Producer], None] | None = None
    ) -> None:
        """Runs one transaction: `fill` produces into it. Returns when it is committed.

        `before_commit` is called as often as it takes: it may fail with what can be tried again.
        Raises FencedError where a newer one has taken over, BrokerUnreachableError where the
        transaction had to be aborted five times: then nothing of it is visible.
        """
        producer = self._producer
        if self._fenced:
            raise FencedError(self._fenced)
        if producer is None:
            raise NotReadyError("the writer has not taken over: call take_over first")
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._closed.wait(BACK_OFF_S * 2 ** (attempt - 1))
            try:
                producer.begin_transaction()
                fill(producer)
                if before_commit is not None:
                    self._again(lambda: before_commit(producer))
                self._again(lambda: producer.commit_transaction(ASK_S))
            except KafkaException as error:
                reason = str(error.args[0])
                self._abort(producer, error)
            else:
                return
        raise BrokerUnreachableError(f"a transaction could not be written in {ATTEMPTS} attempts: {reason}")

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


def put(producer: Producer, *record: Any) -> None:
    """Produces one record, given as Producer.produce takes it; waits while the local queue is full."""
    while True:
        try:
            producer.produce(*record)
        except BufferError:
            producer.poll(0.1)
        else:
            return
