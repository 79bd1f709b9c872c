"""Column 0 of every plan: what the routers forward now, put together from their load reports.

Neither the order in which reports arrive nor a report sent twice changes a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from schemas.records import LoadReport, OffsetRange
from streams.core.counts import Coverage, Floats, Ints, flat_cells
from streams.core.series import SeriesRows
from streams.core.shares import Shares
from streams.core.steps import Step, StepBook

__all__ = ["LoadBook", "Shares", "Step", "StepBook", "newest_sd"]

WINDOW_S = 5.0
"""Length of a load report's window, aligned to 0 of model time (the wire contract)."""
NEWEST_WINDOWS = 2
"""Windows of "the newest 10 s"."""
SMOOTH_S = 30.0
"""Time constant of the smoothed rate: rounds come every 10 s, so it averages three of them."""
JUMP_SD = 2.0
"""The newest 10 s of a shard count as a jump when they exceed the smoothed rate by more than this many
standard deviations of a Poisson count."""
KEPT_WINDOWS = 24
"""Windows kept per partition: 120 s, four time constants; what is older weighs under 2 %."""
SILENT_S = 30.0
"""A partition without a report for this long is unknown."""
HOT_S = 30.0
"""Hot slots are counted over this time ..."""
LATE_S = 20.0
"""... to the end of a router's newest report, if that is no older than this: what is not reported yet is not
zero."""


@dataclass
class _Window:
    """What is known of one partition in one window: sparse counts and the offsets they came from."""

    low: int
    high: int
    cells: list[Ints] = field(default_factory=list)
    counts: list[Floats] = field(default_factory=list)


@dataclass
class _Partition:
    """The newest windows of one ingest partition; `since` and `until` bound what was reported."""

    since: float = 0.0
    until: float | None = None
    windows: dict[int, _Window] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)

    def note(self, report: LoadReport) -> None:
        """Extends the reported time; a report older than all kept windows changes nothing."""
        if self.until is None:
            self.since, self.until = report.window_from, report.window_to
        else:
            self.since = min(self.since, report.window_from)
            self.until = max(self.until, report.window_to)
        oldest = self.whole() - KEPT_WINDOWS
        if len(self.windows) > 2 * KEPT_WINDOWS:
            self.windows = {number: self.windows[number] for number in self.windows if number >= oldest}
        self.since = max(self.since, oldest * WINDOW_S)

    def whole(self) -> int:
        """Returns the number of the first window that is not reported to its end."""
        return int(np.floor((self.until or 0.0) / WINDOW_S + 1e-6))

    def add(self, report: LoadReport, part: OffsetRange, cells: Ints, counts: Floats) -> None:
        """Spreads the counts over the windows that the report covers."""
        length = report.window_to - report.window_from
        first = int(np.floor(report.window_from / WINDOW_S + 1e-6))
        stop = int(np.ceil(report.window_to / WINDOW_S - 1e-6))
        for number in range(max(first, self.whole() - KEPT_WINDOWS), max(stop, first + 1)):
            start, end = number * WINDOW_S, (number + 1) * WINDOW_S
            inside = min(report.window_to, end) - max(report.window_from, start)
            window = self.windows.setdefault(number, _Window(part.from_offset, part.to_offset))
            window.low, window.high = min(window.low, part.from_offset), max(window.high, part.to_offset)
            if len(cells):
                window.cells.append(cells)
                window.counts.append(counts * (inside / length) if stop - first > 1 else counts)

    def weighted(self) -> list[tuple[_Window, int, float]]:
        """Returns (window, age, weight): known windows weigh 1, the two around a lost range more.

        Windows that nobody reported hold 0 where the offsets join up, else the mean of the windows
        before and after: those two then carry the missing windows' ages with weight 1/2 each.
        """
        stop = self.whole()
        first = max(int(np.ceil(self.since / WINDOW_S - 1e-6)), stop - KEPT_WINDOWS)
        known = sorted(number for number in self.windows if first <= number < stop)
        parts = [(self.windows[number], stop - 1 - number, 1.0) for number in known]
        for before, after in pairwise(known):
            old, new = self.windows[before], self.windows[after]
            if after > before + 1 and new.low > old.high:
                for missing in range(before + 1, after):
                    parts += [(old, stop - 1 - missing, 0.5), (new, stop - 1 - missing, 0.5)]
        return parts

    def length(self) -> int:
        """Returns how many whole windows are known, lost ones between them included."""
        first = max(int(np.ceil(self.since / WINDOW_S - 1e-6)), self.whole() - KEPT_WINDOWS)
        return max(0, self.whole() - first) if self.until is not None else 0


class _Hot(NamedTuple):
    """The hot slots of one report, (global slot, requests), or of a part of one."""

    router: str
    start: float
    stop: float
    slots: list[tuple[int, int]]


class LoadBook:
    """Column 0 of the plan: the rates at which requests are forwarded now, from load reports."""

    def __init__(self, series: SeriesRows, shards: int, partitions: int) -> None:
        self._series, self._shards = series, shards
        self._partitions = [_Partition() for _ in range(partitions)]
        self._hot: list[_Hot] = []
        self._forwarded: dict[str, Ints] = {}
        self.ignored = 0
        """Requests reported under a series, shard or partition that this process does not know."""

    def add(self, report: LoadReport) -> None:
        """Counts the report; offsets counted before are not counted again."""
        index = self._series.numbers(report.series)
        offsets = fresh = 0.0
        for part in report.partitions:
            if part.partition >= len(self._partitions):
                self.ignored += part.requests
                continue
            book = self._partitions[part.partition]
            new = book.coverage.add(part.from_offset, part.to_offset)
            offsets += part.to_offset - part.from_offset
            fresh += new * (part.to_offset - part.from_offset)
            book.note(report)
            cells, counts, unknown = flat_cells(part.forwarded, index, self._shards)
            self.ignored += unknown
            book.add(report, part, cells if new else cells[:0], counts * new if new else counts[:0])
        if not offsets or fresh > 0:
            self._note_hot(report)
        if report.partitions and offsets:
            self._add_forwarded(report, fresh / offsets)

    def _note_hot(self, report: LoadReport) -> None:
        """Takes in a report's hot slots: none of a time is known, too."""
        self._hot.append(_Hot(report.router, report.window_from, report.window_to, list(report.hot_slots)))
        newest = max(one.stop for one in self._hot)
        self._hot = [one for one in self._hot if one.stop > newest - HOT_S - LATE_S]

    def _add_forwarded(self, report: LoadReport, new: float) -> None:
        for cluster, counts in report.clusters.items():
            total = self._forwarded.get(cluster, np.zeros(0, np.int64))
            longer = np.zeros(max(len(total), len(counts)), np.int64)
            longer[: len(total)] = total
            longer[: len(counts)] += np.rint(np.array(counts, dtype=np.float64) * new).astype(np.int64)
            self._forwarded[cluster] = longer

    def unknown_partitions(self, now: float) -> list[int]:
        """Returns the ingest partitions of which no report reaches `now` - 30 s."""
        return [
            number
            for number, book in enumerate(self._partitions)
            if book.until is None or book.until < now - SILENT_S
        ]

    def rates(self, now: float, costs: Floats | None = None) -> Floats | None:
        """Returns float64[rows, shards] requests/s; None before every partition has a whole window.

        Per shard the EWMA (30 s), or the mean of the newest 10 s where that is more load than chance
        explains; the series are weighed by `costs` (float64[rows], default 1). The plain maximum of
        the two would read a cluster of many small shards 15 % too high (docs/decisions/0003).
        Every partition counts from its own newest report: one that is late keeps its last value, and
        `unknown_partitions(now)` says when that may no longer be used. None also when all are silent.
        """
        if any(not book.length() for book in self._partitions):
            return None
        if len(self.unknown_partitions(now)) == len(self._partitions):
            return None
        newest, smooth = self._sums()
        weigh = np.ones(len(self._series.names)) if costs is None else costs
        chance = JUMP_SD * newest_sd((weigh * weigh) @ smooth)
        jumped = weigh @ newest > weigh @ smooth + chance
        smooth[:, jumped] = newest[:, jumped]
        return smooth

    def _sums(self) -> tuple[Floats, Floats]:
        """Returns the mean rates of the newest 10 s and the EWMA, each float64[rows, shards]."""
        keep = float(np.exp(-WINDOW_S / SMOOTH_S))
        cells: list[Ints] = [np.empty(0, np.int64)]
        newest: list[Floats] = [np.empty(0)]
        smooth: list[Floats] = [np.empty(0)]
        for book in self._partitions:
            length = book.length()
            whole = (1.0 - keep**length) / (1.0 - keep)
            short = min(length, NEWEST_WINDOWS)
            for window, age, weight in book.weighted():
                for where, counts in zip(window.cells, window.counts, strict=True):
                    cells.append(where)
                    newest.append(counts * (weight / short if age < short else 0.0))
                    smooth.append(counts * (weight * keep**age / whole))
        where = np.concatenate(cells)
        if self._series.split:
            number, shard = np.divmod(where, self._shards)
            where = self._series.rows_of(number) * self._shards + shard
        shape = (len(self._series.names), self._shards)
        size = shape[0] * shape[1]
        return (
            np.bincount(where, np.concatenate(newest), size).reshape(shape) / WINDOW_S,
            np.bincount(where, np.concatenate(smooth), size).reshape(shape) / WINDOW_S,
        )

    def hot_slots(self, now: float) -> dict[int, float]:
        """Returns global slot -> requests/s of the busiest slots, over the newest 30 s that routers report.

        Over the newest 10 s where that is more than chance explains, as `rates` does. A router that has not
        reported for long counts less and less.
        """
        by_router: dict[str, list[_Hot]] = {}
        for one in self._hot:
            by_router.setdefault(one.router, []).append(one)
        rates: dict[int, float] = {}
        for reported in by_router.values():
            end = max(*(one.stop for one in reported), now - LATE_S)
            long = _mean_rates(reported, end - HOT_S, end)
            newest = _mean_rates(reported, end - NEWEST_WINDOWS * WINDOW_S, end)
            for slot, rate in long.items():
                chance = JUMP_SD * newest_sd(rate)
                now_rate = newest.get(slot, 0.0)
                rates[slot] = rates.get(slot, 0.0) + (now_rate if now_rate > rate + chance else rate)
        return rates

    def forwarded(self, cluster: str) -> Ints:
        """Returns int64[output partitions]: requests forwarded to the cluster since the first report."""
        return self._forwarded.get(cluster, np.zeros(0, np.int64)).copy()


def newest_sd(rates: Floats | float) -> Floats:
    """Returns by how much rates, requests/s, are off by chance in the newest windows: of a Poisson count."""
    return np.asarray(np.sqrt(rates / (NEWEST_WINDOWS * WINDOW_S)), dtype=np.float64)


def _mean_rates(reported: Sequence[_Hot], begin: float, end: float) -> dict[int, float]:
    """Returns slot -> requests/s between two times, of which the first may be before the first report's."""
    begin = max(begin, min(one.start for one in reported))
    rates: dict[int, float] = {}
    for one in reported:
        inside = (min(one.stop, end) - max(one.start, begin)) / (one.stop - one.start)
        if inside > 0:
            for slot, count in one.slots:
                rates[slot] = rates.get(slot, 0.0) + count * inside / (end - begin)
    return rates
