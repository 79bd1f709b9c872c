"""The usual day of every series: its level by time of day, learned a little every day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S = 86_400
FINE_S = 60
"""Bins of a minute where data come at least that often: imports that recur to the minute need them."""
COARSE_S = 600
"""Bins of ten minutes where no day had data for the minute."""
DAY_RATE = 0.15
"""Weight of the newest day once a week of days was seen; before that all days weigh the same."""
MOST_DAYS = 255
"""Days are counted up to here: from then on they weigh the same."""


class _Bins:
    """Means by time of day in bins of one width; linear between the middles of bins."""

    def __init__(self, series: int, width_s: int) -> None:
        size = DAY_S // width_s
        self.width_s = width_s
        self.level = np.zeros((series, size), dtype=np.float32)
        self.days = np.zeros((series, size), dtype=np.uint8)
        self.open = np.full(series, -1, dtype=np.int64)
        self.sum = np.zeros(series)
        self.count = np.zeros(series, dtype=np.int64)

    def add(self, rows: Ints, second: float, values: Floats) -> None:
        """Takes values of some series at a second of the day; a bin is learned when the next one begins."""
        now = int(second) // self.width_s
        closing = rows[self.open[rows] != now]
        if len(closing):
            self._close(closing[self.count[closing] > 0])
            self.open[closing] = now
            self.sum[closing] = 0.0
            self.count[closing] = 0
        self.sum[rows] += values
        self.count[rows] += 1

    def _close(self, rows: Ints) -> None:
        places = self.open[rows]
        days = np.minimum(self.days[rows, places].astype(np.int64) + 1, MOST_DAYS)
        rate = np.maximum(DAY_RATE, 1.0 / days)
        level = self.level[rows, places]
        self.level[rows, places] = level + rate * (self.sum[rows] / self.count[rows] - level)
        self.days[rows, places] = days

    def at(self, seconds: Floats) -> Floats:
        """Returns float64[series, n]: levels at seconds of the day; NaN where a neighbouring bin is not known."""
        place = seconds / self.width_s - 0.5
        left = np.floor(place).astype(np.int64)
        part = place - left
        size = self.level.shape[1]
        left, right = left % size, (left + 1) % size
        levels = self.level[:, left] * (1.0 - part) + self.level[:, right] * part
        known = (self.days[:, left] > 0) & (self.days[:, right] > 0)
        found: Floats = np.where(known, levels, np.nan)
        return found


class Profile:
    """P(t): the usual level at a time of day, from minutes where known, else from ten minutes."""

    def __init__(self, series: int, step_s: float) -> None:
        self.bins = [_Bins(series, width) for width in (FINE_S, COARSE_S) if step_s <= width]
        self._series = series

    def learn(self, rows: Ints, second: float, levels: Floats) -> None:
        """Takes the levels of some series at a second of the day, 0 <= second < 86,400."""
        for bins in self.bins:
            bins.add(rows, second, levels)

    def at(self, seconds: Floats) -> Floats:
        """Returns float64[series, n]: the usual levels (seconds are taken modulo a day); NaN = not known."""
        seconds = seconds % DAY_S
        found: Floats = np.full((self._series, len(seconds)), np.nan)
        for bins in self.bins:
            found = np.where(np.isnan(found), bins.at(seconds), found)
        return found
