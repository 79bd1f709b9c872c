"""The data plane: consume a batch, route it, produce it and commit its offsets in one transaction.

    thread: consume(batch) -> agent: route(batch, mapping) -> thread: produce, add offsets, commit -> next

One thread does all of it in one loop; only the commit of batch n runs beside consuming and routing
batch n+1. A rebalance callback first waits for that commit. Whatever fails, nothing of a batch is
visible unless all of it is: the transaction is aborted, and every partition is read again from its
committed offset by the code that also takes over a new partition.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ProtocolError
from streams import metrics
from streams.clock import Clock
from streams.core.fences import ClusterNumbers
from streams.core.handoffs import Handoffs
from streams.core.keys import KeyReader, KeyRules
from streams.core.mapping import Snapshot
from streams.core.routing import Routed, Routes, route
from streams.core.steps import STEP_S
from streams.core.tally import Tally
from streams.kafka_settings import router_consumer, router_producer
from streams.load_reporter import LoadReporter
from streams.router_agent import Channel, Work, route_work
from streams.router_checks import TopicWatch, check_start
from streams.router_deliveries import Deliveries
from streams.router_failures import BACK_OFF_S, Failures
from streams.router_flight import Flight
from streams.router_handoffs import HandoffDriver
from streams.router_mapping import MappingGate
from streams.router_member import Member
from streams.router_settings import RouterSettings
from streams.router_takeover import Ownership
from streams.router_transactions import Kind, RecordTooLargeError, TransactionFailedError, Transactions

__all__ = ["Router", "RouterSettings", "route_work"]

log = logging.getLogger(__name__)

IDLE_S = 0.1
"""Longest wait for a first record: how late a stop or a new mapping is noticed when idle."""

WORK_S = 0.1
"""Seconds that one transaction may take: the batch size adapts to it."""

NOTE_S = 0.5
"""Seconds between two commits of offsets alone, which tell that idle partitions use a new mapping."""

LOOK_S = 0.2
"""Seconds between two looks at group and ends of the ingest partitions; reports may come twice a second."""

PATIENCE_S = 1.0
"""Seconds to wait for a commit before the partitions are paused and the consumer is polled meanwhile."""

STUCK_S = 30.0
"""Seconds without a turn of the loop after which the router calls itself dead; one call takes 5."""

STOP_S = 3.0
"""Seconds for the last commit, the last reports and leaving the group."""

LEAVE_S = 0.5
"""Seconds for leaving the group at least, when the rest took long."""

JOIN_S = 4.0
"""Seconds until the process no longer waits for the loop's end: it is promised to be gone after 5."""


class Router:
    """One router. `start` returns at once; `on_failure` is told what ended it."""

    def __init__(
        self,
        settings: RouterSettings,
        rules: KeyRules,
        clock: Clock,
        mapping: Callable[[], Snapshot | None],
        channel: Channel,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._rules_hash = rules.rules_hash()
        self._reader = KeyReader(rules)
        self._clock = clock
        self._channel = channel
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._watch = TopicWatch(settings.kafka)
        self._numbers = ClusterNumbers()
        self._handoffs = Handoffs(settings.handoff, self._numbers)
        self._gate = MappingGate(settings, rules, mapping, self._watch, self._numbers)
        self._failures = Failures(settings.ingest, self._watch)
        self._adaptive = float(settings.batch_min)
        self._failed: TransactionFailedError | None = None
        """Found by a rebalance callback, handled by the loop."""
        self._rebalanced = False
        self._note_at = 0.0
        self._carried: list[Message] = []
        """Records that came while nothing should: the next batch begins with them."""
        self._in_callback = False
        self._ends: dict[int, int] = {}
        """Ingest partition -> its end, for the lag in reports."""
        self._looked = 0.0
        self._turn = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    # ------------------------------------------------------------------ from other threads

    def start(self) -> None:
        """Checks the topics and starts the loop; raises BrokerUnreachableError or TopicError."""
        settings = self._settings
        bootstrap = str(settings.kafka.get("bootstrap.servers"))
        _, most = check_start(self._watch, bootstrap, settings.ingest, settings.dead_letter)
        self._gate.dead_letter_bytes = most
        self._watch.start()
        self._member = Member(settings, self._watch)
        writer: Transactions | Deliveries
        if settings.guarantee == "exactly-once":
            writer = Transactions(router_producer(settings.kafka, settings.transactional_id), self._stopping)
        else:
            writer = Deliveries(router_producer(settings.kafka), self._stopping, self._commit)
        tally = Tally(settings.instance, self._reader.series, self._rules.shards, STEP_S)
        self._reporter = LoadReporter(
            settings.kafka, settings.prefix, tally, self._numbers, self._clock, self._lag, self._on_failure
        )
        self._ownership = Ownership(
            self._member,
            Consumer(router_consumer(settings.kafka, settings.group)),
            settings.kafka,
            settings.ingest,
            self._handoffs,
            self._reporter.begin,
        )
        self._flight = Flight(
            writer, self._handoffs, self._failures, self._reporter, settings.ingest, self._rules_hash
        )
        self._driver = HandoffDriver(settings.kafka, self._handoffs, self._on_failure)
        self._thread.start()

    def stop(self) -> bool:
        """Finishes the batch in hand, commits, leaves the group; returns whether it did so in time."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        return not self._thread.is_alive()

    def alive(self) -> tuple[bool, str]:
        """Returns whether the loop turns, and what else."""
        if not self._thread.is_alive():
            return False, "the router's thread has ended"
        silent = time.monotonic() - self._turn
        return silent < STUCK_S, "ok" if silent < STUCK_S else f"no turn of the loop for {silent:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Returns whether requests are routed, and if not, why."""
        reason = self._gate.closed
        if not reason and self._member.absent:
            reason = f"not a member of the group {self._settings.group}"
        if not reason and self._ownership.waiting:
            reason = "taking over partitions"
        return not reason, reason or "ok"

    def _lag(self, partition: int, position: int) -> int:
        """Returns the records after `position`, as of the last look."""
        return max(0, self._ends.get(partition, 0) - position)

    def _look_around(self) -> None:
        """Notes membership, and how far each partition reaches: the consumer must not be asked elsewhere."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self._stay_in_group(now)
        ends = {}
        for partition in self._ownership.active:
            place = TopicPartition(self._settings.ingest, partition)
            with contextlib.suppress(KafkaException):
                ends[partition] = int(self._member.consumer.get_watermark_offsets(place, cached=True)[1])
        self._ends = ends
        metrics.PARTITIONS.set(len(ends))
        metrics.FULL_PARTITIONS.set(self._ownership.full)

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            self._open()
            self._reporter.start()
            self._driver.start()
            self._member.subscribe(self._on_assign, self._on_revoke)
            while not self._stopping.is_set():
                self._turn = time.monotonic()
                self._guarded_step()
            self._end()
        except BaseException as error:  # noqa: BLE001 - the process must not live on without its router
            self._gate.close(str(error) or type(error).__name__)
            self._on_failure(error)

    def _guarded_step(self) -> None:
        try:
            self._step()
        except TransactionFailedError as failure:
            self._recover(failure)

    def _step(self) -> None:
        """Consume, route, wait for the commit before, produce, start the commit: in this order.

        Before it, at a batch border, the handoffs move on; what they release goes first, and alone.
        """
        if self._gate.look():
            self._ownership.resume()
        else:
            self._ownership.pause()
        remade = self._watch.take_remade()
        self._driver.remade(remade)
        if self._driver.follow(self._gate.routes) or remade:
            self._settle()
            self._rebuild()  # fences are not what they were: all are taken again
        batch = self._consume(reading=not self._handoffs.released())
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        self._ownership.advance(self._rules_hash)
        self._look_around()
        self._reporter.handoffs = self._driver.load
        routes = self._driver.routes
        if routes is None or not (batch or self._handoffs.released()):
            self._idle()
            return
        if self._gate.closed:
            self._rebuild()  # came in spite of the pause: read again when it is over
            return
        group = self._member.group()
        if group is None:
            self._rebuild()  # no member just now: nothing would fence it
            return
        started = time.monotonic()
        routed = self._route(batch, routes)
        seconds = time.monotonic() - started
        self._ownership.fill(routed.cut)
        self._settle()
        if self._rebalanced:
            self._rebuild()  # a part of this batch may be another router's now
            return
        if self._stopping.is_set():
            return  # the successor reads it: one commit less to wait for
        started = time.monotonic()
        self._submit(routed, routes, group)
        self._adapt(len(batch), seconds + time.monotonic() - started)

    def _consume(self, *, reading: bool) -> list[Message]:
        """Returns the next batch of the partitions that are read; rebalance callbacks run in here."""
        limit = max(1, min(int(self._adaptive), self._failures.hunt.cap))
        self._rebalanced = False
        if not reading:
            return []
        wait = 0.01 if self._ownership.waiting or self._driver.moving else IDLE_S
        batch, self._carried = self._carried, []
        batch = batch or self._member.consumer.consume(1, wait)
        if batch and limit > 1:
            batch += self._member.consumer.consume(limit - 1, 0.0)
        errors = [error for message in batch if (error := message.error()) is not None]
        if errors:
            for error in errors:
                self._consumer_error(error)
            batch = [message for message in batch if message.error() is None]
        if self._rebalanced or self._ownership.full:
            reads = self._ownership.reads
            batch = [message for message in batch if reads(message.partition() or 0)]
            self._rebalanced = False
        return batch

    def _consumer_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise ProtocolError(f"the consumer cannot go on: {error.str()}")
        log.debug("consumer: %s", error)

    def _route(self, batch: list[Message], routes: Routes) -> Routed:
        hunt = self._failures.hunt
        work = Work(batch, routes, self._reader, self._handoffs, hunt.condemned, hunt.cap)
        self._channel.put(work)
        return work.result.result()

    def _rebuild(self) -> None:
        """Starts over from the committed offsets: what was consumed and not committed is read again."""
        self._carried = []
        self._ownership.rebuild()

    def _stay_in_group(self, now: float) -> None:
        """Goes on with a new consumer where this one does not come back into its group."""
        if self._member.given_up(now):
            self._settle()
            self._lose(self._ownership.owned)
            self._member.renew(now)
            self._member.subscribe(self._on_assign, self._on_revoke)

    def _submit(self, routed: Routed, routes: Routes, group: object) -> None:
        try:
            self._flight.start(routed, routes, group)
        except RecordTooLargeError as failure:
            self._failures.too_large(routed, failure)
            self._restart(Kind.ABORT)

    def _idle(self) -> None:
        """Nothing to route: takes the outcome of a commit, tells what changed of idle partitions."""
        writer = self._flight.writer
        if writer.pending:
            if writer.done or writer.hung:
                self._settle()
            return
        routes = self._driver.routes
        if routes is None or time.monotonic() - self._note_at < NOTE_S:
            return
        untold, group = self._flight.untold(), self._member.group()
        if untold and group is not None:
            self._note_at = time.monotonic()
            nothing = route([], routes, self._reader, self._handoffs, most_released=0)
            self._submit(replace(nothing, positions=untold), routes, group)

    def _settle(self) -> None:
        """Waits for the commit under way, polling the consumer meanwhile, and takes in its outcome."""
        waited = 0
        writer = self._flight.writer
        while writer.pending:
            try:
                self._flight.land(IDLE_S)
            except TimeoutError:
                if writer.hung:
                    raise writer.abandon() from None
                waited += 1
                if waited * IDLE_S >= PATIENCE_S and not self._in_callback:
                    self._poll_paused()
        if not self._gate.closed and not self._in_callback:
            self._ownership.resume()

    def _poll_paused(self) -> None:
        """Back-pressure: nothing is read, but the group hears from us and the loop is seen to turn."""
        self._turn = time.monotonic()
        self._ownership.pause()
        message = self._member.consumer.poll(0)
        if (
            message is not None
            and message.error() is None
            and self._ownership.reads(message.partition() or 0)
        ):
            self._carried.append(message)

    def _commit(self, places: list[TopicPartition]) -> None:
        """Commits offsets without a transaction; one that does not arrive only makes repeats.

        Before partitions go, and at the end, it is waited for: so that their next owner sees it.
        """
        try:
            if self._in_callback or self._stopping.is_set():
                self._member.consumer.commit(offsets=places, asynchronous=False)
            else:
                self._member.consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as failure:
            log.debug("offsets were not committed: %s", failure)

    def _adapt(self, records: int, seconds: float) -> None:
        """Moves the batch size towards WORK_S of routing and producing; small batches say little."""
        settings = self._settings
        if records >= settings.batch_min:
            fitting = records * WORK_S / max(seconds, 1e-6)
            aim = min(fitting, self._adaptive * 2)
            self._adaptive = min(max(0.5 * (self._adaptive + aim), settings.batch_min), settings.batch_max)

    # ------------------------------------------------------------------ rebalances

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is not self._member.consumer:
            return  # one that was given up
        self._rebalanced = True
        self._settle_before_rebalance()
        self._ownership.assigned(place.partition for place in places)

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is self._member.consumer:
            self._settle_before_rebalance()
            self._lose([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _settle_before_rebalance(self) -> None:
        self._in_callback = True
        try:
            self._settle()
        except TransactionFailedError as failure:
            self._failed = failure
        finally:
            self._in_callback = False

    def _lose(self, partitions: list[int]) -> None:
        self._rebalanced = True
        self._carried = [one for one in self._carried if one.partition() not in partitions]
        self._ownership.gone(partitions)
        self._failures.hunt.forget(partitions)
        self._reporter.end(partitions)
        self._flight.forget(partitions)

    # ------------------------------------------------------------------ failures

    def _recover(self, failure: TransactionFailedError) -> None:
        """Takes in a failed transaction, then starts over as it asks for."""
        self._failures.failed(failure, self._flight.drop(), self._gate.needed)
        self._restart(failure.kind)

    def _restart(self, kind: Kind) -> None:
        """Drops what is in hand, makes the producer usable, and reads on from the committed offsets."""
        self._flight.drop()
        self._rebuild()
        if kind is Kind.RENEW or not self._flight.writer.abort():
            self._open()
        self._wait(self._failures.pause_s)

    def _open(self) -> None:
        """Makes a new producer; a broker that is away is waited for, for ever."""
        pause = BACK_OFF_S[0]
        while not self._stopping.is_set() and not self._flight.writer.open():
            self._wait(pause)
            pause = min(pause * 2, BACK_OFF_S[1])

    def _wait(self, seconds: float) -> None:
        """Waits with every partition paused, and stays in the group."""
        self._turn = time.monotonic()
        self._stopping.wait(seconds)
        if not self._in_callback:
            self._member.consumer.poll(0)

    def _end(self) -> None:
        """Commits what is in hand, reports the rest, leaves the group: within STOP_S."""
        deadline = time.monotonic() + STOP_S
        try:
            if self._flight.writer.pending:
                self._flight.land(STOP_S / 2)
        except (TransactionFailedError, TimeoutError) as failure:
            log.debug("the last transaction did not commit: %s", failure)
        self._reporter.stop()
        self._member.leave(max(LEAVE_S, deadline - time.monotonic()))
        self._flight.writer.end()
        self._ownership.end()
        self._driver.stop()
        self._watch.stop()
