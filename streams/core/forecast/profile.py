"""The usual day of one series: its level by time of day, learned a little every day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400
FINE_S = 60
"""Bins of a minute where data come at least that often: imports that recur to the minute need them."""
COARSE_S = 600
"""Bins of ten minutes where no day had data for the minute."""
DAY_RATE = 0.15
"""Weight of the newest day once a week of days was seen; before that all days weigh the same."""


class _Bins:
    """Means by time of day in bins of one width; linear between the middles of bins."""

    def __init__(self, width_s: int) -> None:
        self.width_s = width_s
        self.level: list[float] = [0.0] * (DAY_S // width_s)
        self.days: list[int] = [0] * (DAY_S // width_s)
        self._open = -1
        self._sum, self._count = 0.0, 0

    def add(self, second: float, value: float) -> None:
        """Takes a value at a second of the day; a bin is learned when the next one begins."""
        bin_now = int(second) // self.width_s
        if bin_now != self._open:
            self._close()
            self._open = bin_now
        self._sum += value
        self._count += 1

    def _close(self) -> None:
        if self._count:
            self.days[self._open] += 1
            rate = max(DAY_RATE, 1.0 / self.days[self._open])
            self.level[self._open] += rate * (self._sum / self._count - self.level[self._open])
        self._sum, self._count = 0.0, 0

    def at(self, second: float) -> float | None:
        """Returns the level at a second of the day; None where a neighbouring bin is not known."""
        place = second / self.width_s - 0.5
        left = int(place // 1)
        part = place - left
        size = len(self.level)
        left, right = left % size, (left + 1) % size
        if not self.days[left] or not self.days[right]:
            return None
        return self.level[left] * (1.0 - part) + self.level[right] * part


class Profile:
    """P(t): the usual level at a time of day, from minutes where known, else from ten minutes."""

    def __init__(self, step_s: float) -> None:
        self._bins = [_Bins(width) for width in (FINE_S, COARSE_S) if step_s <= width]

    def learn(self, second: float, level: float) -> None:
        """Takes the level at a second of the day, 0 <= second < 86,400."""
        for bins in self._bins:
            bins.add(second, level)

    def at(self, second: float) -> float | None:
        """Returns the usual level at a second of the day (any number is taken modulo a day), or None."""
        second %= DAY_S
        for bins in self._bins:
            found = bins.at(second)
            if found is not None:
                return found
        return None
