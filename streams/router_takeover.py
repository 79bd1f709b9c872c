"""Which ingest partitions a router owns, and how it takes one over. A rebuild is the same thing again.

An assigned partition is paused. Its committed offset and the note beside it are read in a thread of
their own (an offset of an open transaction makes that wait), through a consumer of their own: asking
the one that is being polled by another thread never returns. When the mapping has reached the newest
version that the predecessor used, the partition is sought to the committed offset and resumed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.core.offset_note import OffsetNote, decode_note
from streams.one_thread import OneThread

log = logging.getLogger(__name__)

LOOKUP_S = 1.0
"""Longest wait for the committed offsets of all waiting partitions together."""

ALONE_S = 0.3
"""Longest wait for one partition's, once the wait for all has failed: one open transaction blocks a list."""


CLOSE_S = 0.5
"""Longest wait for a question under way when the router stops."""


@dataclass
class _Waiting:
    """A partition that is assigned but not read yet."""

    found: tuple[int, OffsetNote | None] | None = None
    """Committed offset (else the first there is) and note, once they are known."""


class Ownership:
    """The ingest partitions of one router. All methods are called by the router's thread."""

    def __init__(
        self, consumer: Consumer, asking: Consumer, topic: str, started: Callable[[int, int], None]
    ) -> None:
        self._consumer = consumer
        self._asking = asking
        """Of the same group, never subscribed: only asked for what is committed."""
        self._topic = topic
        self._started = started
        """Told (partition, offset) when reading begins."""
        self.active: dict[int, int] = {}
        """Partition -> next offset that is not committed yet, of the partitions that are read."""
        self._waiting: dict[int, _Waiting] = {}
        self._lookup: Future[dict[int, tuple[int, OffsetNote | None]]] | None = None
        self._asked: dict[int, _Waiting] = {}
        self._alone = False
        self._paused = False
        self._thread = OneThread("committed")

    @property
    def waiting(self) -> bool:
        """Returns whether a partition is assigned but not read yet."""
        return bool(self._waiting)

    @property
    def owned(self) -> list[int]:
        """Returns all assigned partitions."""
        return sorted([*self.active, *self._waiting])

    def assigned(self, partitions: Iterable[int]) -> None:
        """Takes in an assignment: the partitions are paused until they are taken over."""
        new = list(partitions)
        self._consumer.incremental_assign([self._place(partition) for partition in new])
        self._consumer.pause([self._place(partition) for partition in new])
        self._waiting.update({partition: _Waiting() for partition in new})

    def gone(self, partitions: Iterable[int]) -> None:
        """Forgets revoked or lost partitions."""
        for partition in partitions:
            self.active.pop(partition, None)
            self._waiting.pop(partition, None)

    def rebuild(self) -> None:
        """Starts over with every owned partition, from its committed offset."""
        self._pause(self.active)
        self._waiting.update({partition: _Waiting() for partition in self.active})
        for partition in self._waiting:
            self._waiting[partition] = _Waiting()
        self.active.clear()

    def pause(self) -> None:
        """Stops reading; polling goes on without records."""
        if not self._paused:
            self._paused = True
            self._pause(self.active)

    def resume(self) -> None:
        """Reads on after `pause`."""
        if self._paused:
            self._paused = False
            self._consumer.resume([self._place(partition) for partition in self.active])

    def _pause(self, partitions: Iterable[int]) -> None:
        places = [self._place(partition) for partition in partitions]
        if places:
            self._consumer.pause(places)

    def advance(self, version: int | None) -> None:
        """Takes the next step of every take-over; `version` is that of our own mapping, if there is one."""
        if not self._waiting:
            return
        self._take_lookup()
        unknown = {p: w for p, w in self._waiting.items() if w.found is None}
        if unknown and self._lookup is None:
            self._asked = unknown
            partitions, alone = sorted(unknown), self._alone
            self._lookup = self._thread.submit(lambda: self._read_committed(partitions, alone))
        if version is None:
            return
        for partition, waiting in list(self._waiting.items()):
            if waiting.found is not None:
                offset, note = waiting.found
                if note is None or note.newest <= version:
                    self._begin(partition, offset)

    def _take_lookup(self) -> None:
        """Takes in the answer about committed offsets, if it is there and still asked for."""
        if self._lookup is None or not self._lookup.done():
            return
        lookup, self._lookup = self._lookup, None
        found = lookup.result()
        self._alone = len(found) < len(self._asked)
        for partition, what in found.items():
            waiting = self._waiting.get(partition)
            if waiting is not None and waiting is self._asked[partition]:
                waiting.found = what

    def _begin(self, partition: int, offset: int) -> None:
        """Seeks and resumes; the first milliseconds after an assignment refuse it: then the next time."""
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
            if not self._paused:
                self._consumer.resume([self._place(partition)])
        except KafkaException as failure:
            if failure.args[0].code() in (KafkaError._STATE, KafkaError._TIMED_OUT):
                return
            raise
        del self._waiting[partition]
        self.active[partition] = offset
        self._started(partition, offset)

    def _read_committed(self, partitions: list[int], alone: bool) -> dict[int, tuple[int, OffsetNote | None]]:
        """Returns what was found; partitions whose answer did not come in time are absent."""
        groups = [[partition] for partition in partitions] if alone else [partitions]
        found: dict[int, tuple[int, OffsetNote | None]] = {}
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
