"""What a router has forwarded, counted: the content of load reports and of the stored history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import (
    SLOTS,
    Counts,
    HandoffLoad,
    HotKeyLoad,
    LoadHistory,
    LoadReport,
    OffsetRange,
    PartitionLoad,
)
from streams.core.fences import ClusterNumbers, Ints
from streams.core.hot_keys import HotKey, HotKeys
from streams.core.keys import place
from streams.core.routing import Routed

Floats = npt.NDArray[np.float64]

MORE_SERIES = 16
"""Room is made for so many at a time: for the 128 values of a type in eight copies, with little in vain."""

HOT_SLOTS = 64
"""Busiest slots that a report names; more would not change a plan of 16 moves."""

HOT_KEYS = 16
"""Busiest keys that a report names."""

CLIP_S = 60.0
"""Record timestamps count at most this far from now, so that catching up is no surge."""

NOTHING = np.zeros(0, dtype=np.int64)
NO_HANDOFFS = HandoffLoad()


class Sums:
    """Counts by row and integer code below `size`: arrays of all of them, adding costs 4 ns a request."""

    def __init__(self, size: int) -> None:
        self._counts = np.zeros((1, size), dtype=np.int64)
        self._free = [0]

    def widen(self, size: int) -> None:
        """Makes room for codes below `size`."""
        self._counts = np.pad(self._counts, ((0, 0), (0, size - self._counts.shape[1])))

    def row(self) -> int:
        """Returns a row that nobody uses, of zeros."""
        if not self._free:
            self._free = list(range(len(self._counts), 2 * len(self._counts)))
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        return self._free.pop(0)

    def free(self, row: int) -> None:
        """Takes back a row, after its last `take`."""
        self._free.append(row)

    def add(self, rows: Ints | int, codes: Ints) -> None:
        """Counts each code of int64[n] once, in one row or each in its own."""
        np.add.at(self._counts.ravel(), rows * self._counts.shape[1] + codes, 1)

    def take(self, row: int) -> tuple[Ints, Ints]:
        """Returns (codes, counts) of what a row has, codes ascending; it starts from nothing."""
        counts = self._counts[row]
        codes = np.flatnonzero(counts)
        found = counts[codes]
        counts[codes] = 0
        return codes, found


@dataclass
class _Span:
    """One stretch of an ingest partition that this router owns or owned."""

    partition: int
    position: int
    window_from: int
    history_from: int
    row: int
    """Where its requests are counted."""
    owned: bool = True
    requests: int = 0
    bytes: int = 0


class Tally:
    """Counts committed batches. Ranges of offsets join up from one report to the next."""

    def __init__(self, router: str, series: Sequence[str], shards: int, step_s: float) -> None:
        self.router = router
        self.series = series
        """Names by index; it may grow."""
        self.shards = shards
        self.step_s = step_s
        self._spans: list[_Span] = []
        self._active: dict[int, _Span] = {}
        self._wide = len(self.series)
        """Series for which there is room."""
        self._cells = Sums(self._wide * shards)
        """A row for every span, and one for every step that is not in a history record yet."""
        self._steps: dict[int, int] = {}
        self._rows: Ints = NOTHING
        """Partition -> row of its active span."""
        self._slots = Sums(shards * SLOTS)
        self._every = self._slots.row()
        self._keys = HotKeys()
        self._targets: dict[str, Ints] = {}
        self._dead = 0

    def begin(self, partition: int, offset: int) -> None:
        """This router reads the partition from `offset` on; a rebuild at the same place changes nothing."""
        span = self._active.get(partition)
        if span is not None:
            if span.position == offset:
                return
            self.end([partition])
        span = self._active[partition] = _Span(partition, offset, offset, offset, self._cells.row())
        self._spans.append(span)
        longer = np.full(max(len(self._rows), partition + 1), -1, dtype=np.int64)
        longer[: len(self._rows)] = self._rows
        longer[partition] = span.row
        self._rows = longer

    def end(self, partitions: Sequence[int]) -> None:
        """Another router has these partitions now; what was counted is still reported."""
        for partition in partitions:
            span = self._active.pop(partition, None)
            if span is not None:
                span.owned = False

    def add(
        self, routed: Routed, positions: Mapping[int, int], numbers: ClusterNumbers, model_s: Floats
    ) -> None:
        """Counts a committed batch; `positions` up to which it decided, model time of each arrival.

        A held request arrives when it is held: that is when its load came, and its offset is passed.
        """
        self._dead += len(routed.dead)
        taken, sent = routed.taken, routed.sent
        if len(self.series) > self._wide:
            self._wide = len(self.series) + MORE_SERIES
            self._cells.widen(self._wide * self.shards)
        code = taken.series * self.shards + taken.slot // SLOTS
        requests = np.bincount(taken.partition, minlength=len(self._rows))
        size = np.bincount(taken.partition, weights=taken.size, minlength=len(self._rows))
        for partition, offset in positions.items():
            span = self._active[partition]
            span.position = offset
            span.requests += int(requests[partition])
            span.bytes += int(size[partition])
        self._cells.add(self._rows[taken.partition], code)
        self._slots.add(self._every, taken.slot)
        self._keys.add(taken.hash)
        self._add_steps(np.floor(model_s / self.step_s).astype(np.int64), code)
        self._add_targets(sent.owner, sent.target, numbers)

    def _add_steps(self, steps: Ints, codes: Ints) -> None:
        """Counts each request in its step: all in one, but around the end of it."""
        if not len(steps):
            return
        first, last = int(steps.min()), int(steps.max())
        for step in [first] if first == last else np.unique(steps).tolist():
            if step not in self._steps:
                self._steps[step] = self._cells.row()
            self._cells.add(self._steps[step], codes if first == last else codes[steps == step])

    def _add_targets(self, owner: Ints, target: Ints, numbers: ClusterNumbers) -> None:
        """Counts what went to each output partition of each cluster."""
        if not len(owner):
            return
        most = max(numbers.partitions)
        table = np.bincount(owner * most + target, minlength=len(numbers.names) * most).reshape(-1, most)
        for index in np.flatnonzero(table.any(axis=1)).tolist():
            name, new = numbers.names[index], table[index, : numbers.partitions[index]]
            old = self._targets.get(name)
            self._targets[name] = new if old is None or len(old) != len(new) else old + new

    def report(
        self,
        window: tuple[float, float],
        version: tuple[int, int],
        lag: Callable[[int, int], int],
        handoffs: HandoffLoad = NO_HANDOFFS,
    ) -> LoadReport:
        """Returns the report of what was committed since the last one; `lag` of (partition, position)."""
        partitions = [self._partition_load(span, lag) for span in self._spans]
        slots, counts = self._slots.take(self._every)
        hottest = np.argsort(-counts, kind="stable")[:HOT_SLOTS]
        report = LoadReport(
            router=self.router,
            window_from=window[0],
            window_to=window[1],
            epoch=version[0],
            version=version[1],
            series=list(self.series),
            partitions=partitions,
            clusters={name: column.tolist() for name, column in sorted(self._targets.items())},
            hot_slots=[(int(slots[place]), int(counts[place])) for place in hottest],
            hot_keys=[self._hot_key(key) for key in self._keys.take(HOT_KEYS)],
            dead_letters=self._dead,
            handoffs=handoffs,
        )
        self._targets, self._dead = {}, 0
        self._drop_ended()
        return report

    def _hot_key(self, key: HotKey) -> HotKeyLoad:
        _, slot = place(np.array([key.hash], dtype=np.uint64), self.shards)
        return HotKeyLoad(hash=f"{key.hash:016x}", slot=int(slot[0]), requests=key.requests, error=key.error)

    def _partition_load(self, span: _Span, lag: Callable[[int, int], int]) -> PartitionLoad:
        load = PartitionLoad(
            partition=span.partition,
            from_offset=span.window_from,
            to_offset=span.position,
            requests=span.requests,
            bytes=span.bytes,
            lag=lag(span.partition, span.position) if span.owned else 0,
            forwarded=self._counts(*self._cells.take(span.row)),
        )
        span.window_from, span.requests, span.bytes = span.position, 0, 0
        return load

    def history(self, step: int) -> list[LoadHistory]:
        """Returns one record per step with arrivals, `step` (which has just ended) first and always.

        The first carries the ranges of offsets counted since the last history.
        """
        of_step = {one: self._cells.take(row) for one, row in self._steps.items()}
        for row in self._steps.values():
            self._cells.free(row)
        self._steps = {}
        ranges = [
            OffsetRange(partition=span.partition, from_offset=span.history_from, to_offset=span.position)
            for span in self._spans
        ]
        for span in self._spans:
            span.history_from = span.position
        self._drop_ended()
        steps = [step, *sorted(set(of_step) - {step})]
        return [
            LoadHistory(
                router=self.router,
                step=one,
                step_s=self.step_s,
                ranges=ranges if one == step else [],
                series=list(self.series),
                arrivals=self._counts(*of_step.get(one, (NOTHING, NOTHING))),
            )
            for one in steps
        ]

    def _counts(self, codes: Ints, counts: Ints) -> Counts:
        series, shard = np.divmod(codes, self.shards)
        return Counts(series=series.tolist(), shard=shard.tolist(), count=counts.tolist())

    def _drop_ended(self) -> None:
        """Forgets stretches of other routers once both reports and history have told them."""
        kept = []
        for span in self._spans:
            if span.owned or span.window_from != span.position or span.history_from != span.position:
                kept.append(span)
            else:
                self._cells.free(span.row)
        self._spans = kept


def arrival_times(timestamp_ms: Ints, epoch: float, time_scale: float, now: float) -> npt.NDArray[np.float64]:
    """Returns float64[n], model time of each request's timestamp, clipped to now +- CLIP_S.

    `epoch` is the model time of wall time 0; a request without a timestamp counts as of now.
    """
    times = np.where(timestamp_ms > 0, epoch + timestamp_ms * (time_scale / 1000.0), now)
    return np.clip(times, now - CLIP_S, now + CLIP_S)
