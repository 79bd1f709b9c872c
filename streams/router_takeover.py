"""Which ingest partitions a router owns, and how it takes one over. A rebuild is the same thing again.

An assigned partition is paused. Then, in this order:
1. its committed offset and the note beside it are read (an offset of an open transaction makes that wait);
2. our mapping reaches the newest version that the predecessor used, and the rules that it held by are ours;
3. the ends of all clusters' topics are read: what the predecessor wrote lies below them;
4. the partition is sought to the committed offset and resumed, with a handoff of its own.

1 and 3 happen in a thread of their own, through a consumer of their own: asking the one that is being
polled by another thread never returns.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import RulesMismatchError
from schemas.records import MappedCluster
from streams.core.handoff import Base
from streams.core.handoffs import Handoffs
from streams.core.offset_note import OffsetNote, decode_note
from streams.groups import admin_client
from streams.one_thread import OneThread
from streams.router_fences import read_ends
from streams.router_member import Member

log = logging.getLogger(__name__)

LOOKUP_S = 1.0
"""Longest wait for the committed offsets of all waiting partitions together."""

ALONE_S = 0.3
"""Longest wait for one partition's, once the wait for all has failed: one open transaction blocks a list."""

AGAIN_S = 0.5
"""Seconds between two questions about ends, while a topic is missing or no broker answers."""

CLOSE_S = 0.5
"""Longest wait for a question under way when the router stops."""

Found = tuple[int, OffsetNote | None]
"""Committed offset (else the first there is) and note."""


@dataclass
class _Waiting:
    """A partition that is assigned but not read yet."""

    found: Found | None = None
    base: Base | None = None


class Ownership:
    """The ingest partitions of one router. All methods are called by the router's thread."""

    def __init__(
        self,
        member: Member,
        asking: Consumer,
        kafka: Mapping[str, Any],
        topic: str,
        handoffs: Handoffs,
        started: Callable[[int, int], None],
    ) -> None:
        self._member = member
        self._asking = asking
        """Of the same group, never subscribed: only asked for what is committed."""
        self._admin = admin_client(kafka)
        self._topic = topic
        self._handoffs = handoffs
        self._started = started
        """Told (partition, first offset nobody has decided about) when reading begins."""
        self._waiting: dict[int, _Waiting] = {}
        self._lookup: Future[dict[int, Found]] | None = None
        self._asked: dict[int, _Waiting] = {}
        self._ends: Future[dict[int, list[int]]] | None = None
        self._ends_for: dict[int, _Waiting] = {}
        self._ask_from = 0.0
        self._alone = False
        self._paused = False
        self._full: dict[int, int] = {}
        """Partition that can hold no more -> offset from which it is read again."""
        self._thread = OneThread("committed")

    @property
    def waiting(self) -> bool:
        """Returns whether a partition is assigned but not read yet."""
        return bool(self._waiting)

    @property
    def active(self) -> list[int]:
        """Returns the partitions that are read."""
        return list(self._handoffs.active)

    @property
    def owned(self) -> list[int]:
        """Returns the partitions that are read or waited for."""
        return [*self.active, *self._waiting]

    @property
    def full(self) -> int:
        """Returns how many partitions are paused because no more may be held."""
        return len(self._full)

    def reads(self, partition: int) -> bool:
        """Returns whether records of this partition are wanted now."""
        return partition in self._handoffs.active and partition not in self._full

    def assigned(self, partitions: Iterable[int]) -> None:
        """Takes in an assignment: the partitions are paused until they are taken over."""
        new = list(partitions)
        self._member.consumer.incremental_assign([self._place(partition) for partition in new])
        self._pause(new)
        self._waiting.update({partition: _Waiting() for partition in new})

    def gone(self, partitions: Iterable[int]) -> None:
        """Forgets revoked or lost partitions."""
        gone = list(partitions)
        self._handoffs.end(gone)
        for partition in gone:
            self._waiting.pop(partition, None)
            self._full.pop(partition, None)

    def rebuild(self) -> None:
        """Starts over with every owned partition, from its committed offset."""
        active = self.active
        self._pause(active)
        self._handoffs.end(active)
        self._full.clear()
        for partition in [*active, *self._waiting]:
            self._waiting[partition] = _Waiting()

    def pause(self) -> None:
        """Stops reading; polling goes on without records."""
        if not self._paused:
            self._paused = True
            self._pause(self.active)

    def resume(self) -> None:
        """Reads on after `pause`."""
        if self._paused:
            self._paused = False
            self._member.consumer.resume([self._place(p) for p in self.active if p not in self._full])

    def fill(self, cut: Mapping[int, int]) -> None:
        """Pauses partitions that can hold no more, each to be read again from an offset."""
        if cut:
            self._full.update(cut)
            self._pause(cut)

    def reopen(self) -> None:
        """Reads those partitions again that have room once more; the others stay paused."""
        for partition, offset in list(self._full.items()):
            if self._handoffs.has_room(partition) and self._read_from(partition, offset):
                del self._full[partition]

    def _pause(self, partitions: Iterable[int]) -> None:
        places = [self._place(partition) for partition in partitions]
        if places:
            self._member.consumer.pause(places)

    def advance(self, rules_hash: str) -> None:
        """Takes the next step of every take-over, with the mapping that the handoffs have, if any."""
        if self._full:
            self.reopen()
        if not self._waiting:
            return
        self._take_lookup()
        self._take_ends()
        unknown = {p: w for p, w in self._waiting.items() if w.found is None}
        if unknown and self._lookup is None:
            self._asked = unknown
            partitions, alone = sorted(unknown), self._alone
            self._lookup = self._thread.submit(lambda: self._read_committed(partitions, alone))
        if not self._handoffs.has_aim:
            return
        for partition, waiting in list(self._waiting.items()):
            if waiting.found is not None and waiting.base is not None:
                self._begin(partition, *waiting.found, waiting.base)
        ready = {p: w for p, w in self._waiting.items() if self._may_begin(p, w, rules_hash)}
        if ready and self._ends is None and time.monotonic() >= self._ask_from:
            self._ends_for = ready
            clusters = self._handoffs.clusters()
            self._ends = self._thread.submit(lambda: self._read_ends(clusters))

    def _may_begin(self, partition: int, waiting: _Waiting, rules_hash: str) -> bool:
        """Returns whether only the ends are missing; raises where other rules hold something."""
        if waiting.found is None or waiting.base is not None:
            return False
        note = waiting.found[1]
        if note is None:
            return True
        if note.held and note.rules_hash != rules_hash:
            raise RulesMismatchError(
                f"{self._topic}[{partition}] holds requests by the rules {note.rules_hash[:12]}, this router "
                f"has {rules_hash[:12]}; run a router with the old rules until nothing is held any more"
            )
        return note.newest <= self._handoffs.aim.snapshot.version

    def _take_lookup(self) -> None:
        """Takes in the answer about committed offsets, if it is there and still asked for."""
        if self._lookup is None or not self._lookup.done():
            return
        lookup, self._lookup = self._lookup, None
        found = lookup.result()
        self._alone = len(found) < len(self._asked)
        for partition, what in found.items():
            if self._waiting.get(partition) is self._asked[partition]:
                self._asked[partition].found = what

    def _take_ends(self) -> None:
        """Takes in the ends of the clusters' topics: one base for all that begin together."""
        if self._ends is None or not self._ends.done():
            return
        ends, self._ends = self._ends.result(), None
        if not ends:
            self._ask_from = time.monotonic() + AGAIN_S
            return
        base = Base.below(ends)
        for partition, waiting in self._ends_for.items():
            if self._waiting.get(partition) is waiting:
                waiting.base = base

    def _begin(self, partition: int, offset: int, note: OffsetNote | None, base: Base) -> None:
        """Begins to read a partition; where that is refused, the next time."""
        handoff = self._handoffs.begin(partition, offset, note, base, time.monotonic())
        if not self._read_from(partition, offset):
            self._handoffs.end([partition])
            return
        del self._waiting[partition]
        self._started(partition, handoff.resumed)

    def _read_from(self, partition: int, offset: int) -> bool:
        """Seeks and resumes; returns False in the first milliseconds after an assignment, which refuse it."""
        try:
            self._member.consumer.seek(TopicPartition(self._topic, partition, offset))
            if not self._paused:
                self._member.consumer.resume([self._place(partition)])
        except KafkaException as failure:
            if failure.args[0].code() in (KafkaError._STATE, KafkaError._TIMED_OUT):
                return False
            raise
        return True

    def _read_ends(self, clusters: Mapping[int, MappedCluster]) -> dict[int, list[int]]:
        """Returns the ends of the clusters' topics; nothing where no broker answers in time."""
        try:
            return read_ends(self._admin, clusters)
        except KafkaException as failure:
            log.debug("ends of the clusters' topics: %s", failure)
            return {}

    def _read_committed(self, partitions: list[int], alone: bool) -> dict[int, Found]:
        """Returns what was found; partitions whose answer did not come in time are absent."""
        groups = [[partition] for partition in partitions] if alone else [partitions]
        found: dict[int, Found] = {}
        for group in groups:
            try:
                places = [self._place(partition) for partition in group]
                for place in self._asking.committed(places, ALONE_S if alone else LOOKUP_S):
                    if place.error is None:
                        offset = place.offset if place.offset >= 0 else self._first(place)
                        found[place.partition] = (offset, decode_note(place.metadata))
            except KafkaException as failure:
                log.debug("committed offsets of %s: %s", group, failure)
        return found

    def _first(self, place: TopicPartition) -> int:
        """Returns the first offset of a partition that has no committed one."""
        low, _high = self._asking.get_watermark_offsets(place, LOOKUP_S)
        return int(low)

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def end(self) -> None:
        """Closes what asks for offsets; called once, last."""
        closed = self._thread.submit(self._asking.close)
        self._thread.end()
        with contextlib.suppress(TimeoutError):  # a question that nobody answers: the process ends anyway
            closed.result(CLOSE_S)
