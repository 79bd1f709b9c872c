"""The stored history: forecast steps from routers' history records, closed in order, each once."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.records import LoadHistory
from streams.core.counts import Floats, Ints, flat_cells
from streams.core.series import SeriesRows

STEP_S = 30.0
"""Forecast step and unit of the stored history, model time: short enough to see a ramp, long enough that
counts are not only noise."""
LATE_S = 30.0
"""How long after its end a step waits for routers that have not reported it."""
HISTORY_S = 28 * 86_400.0
"""How far back stored history is used: the retention of the load topic."""
MOST_STEPS = 1_000
"""Steps handed out at once: 8 h of history, 8 MB for 4 series of 256 shards."""


@dataclass(frozen=True)
class Step:
    """One closed forecast step: requests that arrived in it."""

    index: int
    counts: Floats | None
    """float64[types + values, shards]; None = unknown."""
    values: tuple[str, ...] = ()
    """Series of the last rows of `counts`: values of a type's `forecast_by`, which are not in its own row."""


@dataclass
class _OpenStep:
    """A step still waiting for routers: sparse counts as they come, in few bytes: there may be days."""

    cells: list[NDArray[np.int32]] = field(default_factory=list)
    counts: list[NDArray[np.float32]] = field(default_factory=list)


class StepBook:
    """Forecast steps from history records: closed in order, by index, each exactly once."""

    def __init__(self, series: SeriesRows, shards: int, partitions: int, step_s: float = STEP_S) -> None:
        self._series, self._shards = series, shards
        self._partitions, self._step_s = partitions, step_s
        self._open: dict[int, _OpenStep] = {}
        self._heard: dict[int, list[tuple[int, int, int]]] = {}
        self._next: int | None = None
        self.late = 0
        """Records for steps that were closed already, or of another step length: ignored."""
        self.ignored = 0
        """Requests under a series or shard that this process does not know."""

    def add(self, history: LoadHistory) -> None:
        """Counts the record towards its step, unless that is closed."""
        if history.step_s != self._step_s or (self._next is not None and history.step < self._next):
            self.late += 1
            return
        for part in history.ranges:
            heard = (history.step, part.from_offset, part.to_offset)
            if part.partition < self._partitions:
                self._heard.setdefault(part.partition, []).append(heard)
        numbers = self._series.numbers(history.series)
        cells, counts, unknown = flat_cells(history.arrivals, numbers, self._shards)
        self.ignored += unknown
        step = self._open.setdefault(history.step, _OpenStep())
        step.cells.append(cells.astype(np.int32))
        step.counts.append(counts.astype(np.float32))

    def resume(self, step: int) -> None:
        """Goes on after a step that a predecessor has learned: records of steps up to it are late."""
        self._next = step + 1
        self._drop_before(self._next)

    def waiting(self, now: float) -> int:
        """Returns how many steps are over and not closed yet."""
        first = self._next if self._next is not None else min(self._open, default=None)
        return 0 if first is None else max(0, int(now // self._step_s) - first)

    def skip(self, steps: int) -> None:
        """Passes over so many of the steps to be closed next: they stay unknown."""
        if self._next is not None:
            self.resume(self._next + steps - 1)

    def close(self, now: float, most: int = MOST_STEPS) -> list[Step]:
        """Returns up to `most` steps that can be closed, in order; fewer than `most` means all.

        To be called once all stored records are read: what comes for a closed step is ignored.

        A step closes when every ingest partition is covered, or 30 s after its end. Partitions that
        are not covered are filled at the mean of the others; a step without any record is unknown.
        """
        if self._next is None and not self._open:
            return []
        if self._next is None:
            self._next = max(min(self._open), int((now - HISTORY_S) // self._step_s))
            self._drop_before(self._next)
        for heard in self._heard.values():
            heard.sort()
        closed: list[Step] = []
        while (self._next + 1) * self._step_s <= now and len(closed) < most:
            covered = sum(self._covers(partition, self._next) for partition in range(self._partitions))
            waited = now >= (self._next + 1) * self._step_s + LATE_S
            if covered < self._partitions and not waited:
                break
            closed.append(self._closed(self._next, covered))
            self._next += 1
        self._forget(self._next)
        return closed

    def _drop_before(self, first: int) -> None:
        for step in [step for step in self._open if step < first]:
            self.late += len(self._open.pop(step).cells)

    def _covers(self, partition: int, step: int) -> bool:
        """Returns whether everything of `step` in the partition is in records that were read.

        True for a record of that very step, or a later one whose offsets join the one before.
        """
        heard = self._heard.get(partition, [])
        place = bisect_left(heard, (step, -1, -1))
        if place == len(heard) or heard[place][0] == step:
            return place < len(heard)
        return place == 0 or heard[place - 1][2] >= heard[place][1]

    def _closed(self, step: int, covered: int) -> Step:
        """Returns a step with its counts scaled up for missing partitions; unknown without a record."""
        book = self._open.pop(step, None)
        if book is None:
            return Step(step, None)
        cells: Ints = np.concatenate(book.cells).astype(np.int64)
        types = len(self._series.types)
        number = cells // self._shards
        values = np.unique(number[number >= types])
        if len(values):
            row = np.where(number < types, number, types + np.searchsorted(values, number))
            cells += (row - number) * self._shards
        total: Floats = np.zeros((types + len(values)) * self._shards)
        np.add.at(total, cells, np.concatenate(book.counts))
        total *= self._partitions / covered if covered else 1.0
        return Step(step, total.reshape(-1, self._shards), tuple(self._series.names_of(values)))

    def _forget(self, first: int) -> None:
        """Keeps, per partition, the entries from step `first` on and the last one before them."""
        for heard in self._heard.values():
            del heard[: max(0, bisect_left(heard, (first, -1, -1)) - 1)]
