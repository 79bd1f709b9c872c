"""Counts by (series, shard) as records carry them, and which offsets were counted already."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from schemas.records import Counts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_RANGES = 64
"""Separate offset ranges remembered per partition; beyond that the oldest hole counts as covered."""


def flat_cells(counts: Counts, index: Ints, shards: int) -> tuple[Ints, Floats, int]:
    """Returns flat cells (series x shards + shard), their counts, and how many requests had no series."""
    if not counts.count:
        return np.empty(0, np.int64), np.empty(0), 0
    series = index[np.array(counts.series, dtype=np.int64)]
    shard = np.array(counts.shard, dtype=np.int64)
    count = np.array(counts.count, dtype=np.float64)
    good = (series >= 0) & (shard < shards)
    return series[good] * shards + shard[good], count[good], int(count[~good].sum())


class Coverage:
    """The offsets of one partition counted so far, as sorted, disjoint, half-open ranges."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> float:
        """Returns the part of [start, stop) that was not covered before (1 for an empty range)."""
        if stop <= start:
            return 1.0
        first = bisect_left(self.ranges, start, key=lambda known: known[1])
        last, seen, low, high = first, 0, start, stop
        while last < len(self.ranges) and self.ranges[last][0] <= stop:
            known_start, known_stop = self.ranges[last]
            seen += max(0, min(stop, known_stop) - max(start, known_start))
            low, high = min(low, known_start), max(high, known_stop)
            last += 1
        self.ranges[first:last] = [(low, high)]
        if len(self.ranges) > MOST_RANGES:
            self.ranges[:2] = [(self.ranges[0][0], self.ranges[1][1])]
        return 1.0 - seen / (stop - start)
