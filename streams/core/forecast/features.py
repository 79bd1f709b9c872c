"""The 22 features of one series: all but the calendar are differences, so scale does not matter."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.profile import DAY_S, Profile

Floats = NDArray[np.float64]

LEVEL_RATE = 0.5
"""Weight of the newest value in the level l that everything is measured from."""
LAGS = 6
"""Newest values, each as its difference to the level."""
MEMORIES = (4, 20, 120)
"""Steps that longer means remember: 2 min, 10 min, 1 h of 30-s steps."""
NEAR_STEPS = (2, 5)
"""Steps ahead at which the usual day is looked at, beside the horizon."""
HARMONICS = 3
COUNT = 1 + LAGS + len(MEMORIES) + len(NEAR_STEPS) + 1 + 1 + 1 + 2 * HARMONICS + 1
"""22 features."""
NAMES = tuple(range(COUNT))
"""Their names for river, whose samples are dicts."""
CLAMP_RMS, CLAMP_LEAST = 6.0, 0.5
"""A feature is held within 6 times its own size + 0.5: one spike must not move the weights."""
RMS_RATE = 0.001
"""The size of a feature remembers 8 h of 30-s steps; before that all values weigh the same."""


@lru_cache(maxsize=8)
def calendar(day_steps: int) -> list[list[float]]:
    """Returns, per step of the day, sin and cos of the day's first three harmonics."""
    angles = [2 * pi * (step + 0.5) / day_steps for step in range(day_steps)]
    return [[wave(k * angle) for k in range(1, HARMONICS + 1) for wave in (sin, cos)] for angle in angles]


class Features:
    """What the features need of the past: a day of values, means, the usual day. Values are logs."""

    def __init__(self, step_s: float, horizon: int) -> None:
        self._step_s, self._horizon = step_s, horizon
        self._day = max(2, round(DAY_S / step_s))
        self._ring: list[float] = [0.0] * (self._day + horizon + 4)
        self._first: int | None = None
        self.index = -1
        self.level = 0.0
        self._means = [0.0] * len(MEMORIES)
        self._profile = Profile(step_s)
        self._squares: Floats = np.zeros(COUNT)
        self._seen = 0

    def push(self, index: int, value: float, known: bool) -> None:
        """Takes the value of step `index`, the one after the last; unknown ones do not form the profile."""
        if self._first is None:
            self._first = index
            self._ring = [value] * len(self._ring)
            self.level = value
            self._means = [value] * len(MEMORIES)
        self.index = index
        self._ring[index % len(self._ring)] = value
        self.level += LEVEL_RATE * (value - self.level)
        for number, memory in enumerate(MEMORIES):
            self._means[number] += (value - self._means[number]) / memory
        if known:
            self._profile.learn(self._second(index), value)

    def skip(self, index: int, value: float) -> None:
        """Forgets the last day after a gap longer than it: as if `value` had been all along."""
        self._first = None
        self.push(index, value, known=False)

    def _second(self, index: float) -> float:
        return (index + 0.5) * self._step_s % DAY_S

    def _value(self, back: int) -> float:
        return self._ring[(self.index - back) % len(self._ring)]

    def vector(self) -> Floats:
        """Returns float64[22] at the newest step, clamped."""
        level = self.level
        row = [1.0]
        row += [self._value(back) - level for back in range(LAGS)]
        row += [mean - level for mean in self._means]
        row += self._usual_day(level)
        row.append(self._yesterday())
        row += calendar(self._day)[self.index % self._day]
        weekday = (int(self.index * self._step_s) // DAY_S + 3) % 7
        row.append(1.0 if weekday >= 5 else 0.0)
        return self._clamp(np.array(row))

    def _usual_day(self, level: float) -> list[float]:
        """Returns the profile's change to each look ahead, and its distance from the level; 0 = unknown."""
        now = self._profile.at(self._second(self.index))
        if now is None:
            return [0.0] * (len(NEAR_STEPS) + 2)
        changes = []
        for ahead in (*NEAR_STEPS, self._horizon):
            then = self._profile.at(self._second(self.index + ahead))
            changes.append(0.0 if then is None else then - now)
        return [*changes, now - level]

    def _yesterday(self) -> float:
        """Returns yesterday's change over the horizon from this time of day; 0 on the first day."""
        if self._first is None or self.index - self._day - 1 < self._first:
            return 0.0
        then = sum(self._value(self._day - self._horizon + shift) for shift in (-1, 0, 1))
        now = sum(self._value(self._day + shift) for shift in (-1, 0, 1))
        return (then - now) / 3.0

    def _clamp(self, row: Floats) -> Floats:
        self._seen += 1
        limit = CLAMP_RMS * np.sqrt(self._squares) + CLAMP_LEAST
        limit[0] = 1.0
        limit[-2 * HARMONICS - 1 :] = 1.0
        row = np.minimum(np.maximum(row, -limit), limit)
        self._squares += max(RMS_RATE, 1.0 / self._seen) * (row * row - self._squares)
        return row
