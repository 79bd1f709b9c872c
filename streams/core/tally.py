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

HOT_SLOTS = 64
"""Busiest slots that a report names; more would not change a plan of 16 moves."""

HOT_KEYS = 16
"""Busiest keys that a report names."""

CLIP_S = 60.0
"""Record timestamps count at most this far from now, so that catching up is no surge."""

NOTHING = np.zeros(0, dtype=np.int64)
NO_HANDOFFS = HandoffLoad()


class Sums:
    """Counts by integer code below `size`: an array of all of them, for adding to it costs 4 ns a request."""

    def __init__(self, size: int) -> None:
        self._counts = np.zeros(size, dtype=np.int64)

    def add(self, codes: Ints) -> None:
        """Counts each code of int64[n] once."""
        np.add.at(self._counts, codes, 1)

    def take(self) -> tuple[Ints, Ints]:
        """Returns (codes, counts) of those that are not 0, codes ascending, and starts from nothing."""
        codes = np.flatnonzero(self._counts)
        counts = self._counts[codes]
        self._counts[codes] = 0
        return codes, counts


@dataclass
class _Span:
    """One stretch of an ingest partition that this router owns or owned."""

    partition: int
    position: int
    window_from: int
    history_from: int
    counts: Sums
    owned: bool = True
    requests: int = 0
    bytes: int = 0


class Tally:
    """Counts committed batches. Ranges of offsets join up from one report to the next."""

    def __init__(self, router: str, series: Sequence[str], shards: int, step_s: float) -> None:
        self.router = router
        self.series = list(series)
        self.shards = shards
        self.step_s = step_s
        self._spans: list[_Span] = []
        self._active: dict[int, _Span] = {}
        self._size = len(self.series) * shards
        self._slots = Sums(shards * SLOTS)
        self._keys = HotKeys()
        self._steps: dict[int, Sums] = {}
        self._targets: dict[str, Ints] = {}
        self._dead = 0

    def begin(self, partition: int, offset: int) -> None:
        """This router reads the partition from `offset` on; a rebuild at the same place changes nothing."""
        span = self._active.get(partition)
        if span is not None:
            if span.position == offset:
                return
            self.end([partition])
        span = self._active[partition] = _Span(partition, offset, offset, offset, Sums(self._size))
        self._spans.append(span)

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
        code = taken.series * self.shards + taken.slot // SLOTS
        for partition, offset in positions.items():
            span = self._active[partition]
            span.position = offset
            mine = taken.partition == partition
            span.counts.add(code[mine])
            span.requests += int(mine.sum())
            span.bytes += int(taken.size[mine].sum())
        self._slots.add(taken.slot)
        self._keys.add(taken.hash)
        step = np.floor(model_s / self.step_s).astype(np.int64)
        for one in np.unique(step).tolist():
            self._steps.setdefault(one, Sums(self._size)).add(code[step == one])
        for index in np.unique(sent.owner).tolist():
            name, count = numbers.names[index], numbers.partitions[index]
            new = np.bincount(sent.target[sent.owner == index], minlength=count)
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
        slots, counts = self._slots.take()
        hottest = np.argsort(-counts, kind="stable")[:HOT_SLOTS]
        report = LoadReport(
            router=self.router,
            window_from=window[0],
            window_to=window[1],
            epoch=version[0],
            version=version[1],
            series=self.series,
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
            forwarded=self._counts(*span.counts.take()),
        )
        span.window_from, span.requests, span.bytes = span.position, 0, 0
        return load

    def history(self, step: int) -> list[LoadHistory]:
        """Returns one record per step with arrivals, `step` (which has just ended) first and always.

        The first carries the ranges of offsets counted since the last history.
        """
        of_step = {one: sums.take() for one, sums in self._steps.items()}
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
                series=self.series,
                arrivals=self._counts(*of_step.get(one, (NOTHING, NOTHING))),
            )
            for one in steps
        ]

    def _counts(self, codes: Ints, counts: Ints) -> Counts:
        series, shard = np.divmod(codes, self.shards)
        return Counts(series=series.tolist(), shard=shard.tolist(), count=counts.tolist())

    def _drop_ended(self) -> None:
        """Forgets stretches of other routers once both reports and history have told them."""
        self._spans = [
            span
            for span in self._spans
            if span.owned or span.window_from != span.position or span.history_from != span.position
        ]


def arrival_times(timestamp_ms: Ints, epoch: float, time_scale: float, now: float) -> npt.NDArray[np.float64]:
    """Returns float64[n], model time of each request's timestamp, clipped to now +- CLIP_S.

    `epoch` is the model time of wall time 0; a request without a timestamp counts as of now.
    """
    times = np.where(timestamp_ms > 0, epoch + timestamp_ms * (time_scale / 1000.0), now)
    return np.clip(times, now - CLIP_S, now + CLIP_S)
