"""The 22 features of every series: all but the calendar are differences, so scale does not matter."""

from __future__ import annotations

import numpy as np

from streams.core.forecast.profile import DAY_S, Floats, Ints, Profile

LEVEL_RATE = 0.5
"""Weight of the newest value in the level l that everything is measured from."""
LAGS = 6
"""Newest values, each as its difference to the level."""
MEMORIES = (4, 20, 120)
"""Steps that longer means remember: 2 min, 10 min, 1 h of 30-s steps."""
NEAR_STEPS = (2, 5)
"""Steps ahead at which the usual day is looked at, beside the horizon."""
DEVIATION_RATE = 0.2
"""Weight of the newest distance from the usual day."""
HARMONICS = 3
COUNT = 1 + LAGS + len(MEMORIES) + len(NEAR_STEPS) + 1 + 1 + 1 + 2 * HARMONICS + 1
"""22 features."""
CLAMP_RMS, CLAMP_LEAST = 6.0, 0.5
"""A feature is held within 6 times its own size + 0.5: one spike must not move the weights."""
RMS_RATE = 0.001
"""The size of a feature remembers 8 h of 30-s steps; before that all values weigh the same."""
NEVER = np.iinfo(np.int64).max


class Features:
    """What the features need of the past: a day of values, means, the usual day. Values are logs.

    Steps are common to all series; `rows` are the series (int64[n]) that a call is about.
    """

    def __init__(self, series: int, step_s: float, horizon: int) -> None:
        self._step_s, self._horizon = step_s, horizon
        self.day = max(2, round(DAY_S / step_s))
        self.ring = np.zeros((series, self.day + horizon + 4), dtype=np.float32)
        self.first = np.full(series, NEVER, dtype=np.int64)
        """Step from which on the ring holds values of its own; NEVER before the first."""
        self.level = np.zeros(series)
        self.means = np.zeros((series, len(MEMORIES)))
        self.deviation = np.zeros(series)
        self.profile = Profile(series, step_s)
        self.squares = np.zeros((series, COUNT))
        self.seen = np.zeros(series, dtype=np.int64)
        angles = 2 * np.pi * (np.arange(self.day) + 0.5) / self.day
        waves = [wave(k * angles) for k in range(1, HARMONICS + 1) for wave in (np.sin, np.cos)]
        self._calendar: Floats = np.stack(waves, axis=1)
        self._rates = 1.0 / np.array(MEMORIES, dtype=np.float64)

    def push(self, rows: Ints, index: int, values: Floats, known: Ints) -> None:
        """Takes the values of step `index`; only those of `known` (a part of `rows`) form the usual day."""
        fresh = self.first[rows] == NEVER
        if fresh.any():
            new, value = rows[fresh], values[fresh]
            self.first[new] = index
            self.ring[new] = value[:, None]
            self.level[new] = value
            self.means[new] = value[:, None]
        self.ring[rows, index % self.ring.shape[1]] = values
        self.level[rows] += LEVEL_RATE * (values - self.level[rows])
        self.means[rows] += self._rates * (values[:, None] - self.means[rows])
        second = self._second(index)
        usual = self.profile.at(np.array([second]))[rows, 0]
        off = np.where(np.isnan(usual), 0.0, values - usual)
        self.deviation[rows] += DEVIATION_RATE * (off - self.deviation[rows])
        if len(known):
            learned = values if len(known) == len(rows) else values[np.isin(rows, known)]
            self.profile.learn(known, second, learned)

    def forget(self, rows: Ints) -> None:
        """Forgets the last day, after a longer gap: the next value counts as if it had been all along."""
        self.first[rows] = NEVER

    def _second(self, index: int) -> float:
        return (index + 0.5) * self._step_s % DAY_S

    def _back(self, index: int, steps: Ints) -> Floats:
        """Returns float64[series, n]: the values so many steps before `index`."""
        found: Floats = self.ring[:, (index - steps) % self.ring.shape[1]].astype(np.float64)
        return found

    def usual_day(self, index: int) -> Floats:
        """Returns float64[series, horizon + 1]: P at the step and at every one ahead; NaN = not known."""
        ahead = index + 0.5 + np.arange(self._horizon + 1, dtype=np.float64)
        return self.profile.at(ahead * self._step_s)

    def yesterday(self, index: int) -> Floats:
        """Returns float64[series, horizon + 1]: yesterday's change from this time on, in means of three.

        [:, 0] is 0; NaN on the first day.
        """
        back = self.day - np.arange(-1, self._horizon + 2)
        values = self._back(index, back)
        smooth = (values[:, :-2] + values[:, 1:-1] + values[:, 2:]) / 3.0
        known = index - self.day - 1 >= self.first
        found: Floats = np.where(known[:, None], smooth - smooth[:, :1], np.nan)
        return found

    def matrix(self, index: int, usual: Floats, yesterday: Floats) -> Floats:
        """Returns float64[series, 22] at step `index`, not clamped yet."""
        level = self.level[:, None]
        weekday = (int(index * self._step_s) // DAY_S + 3) % 7
        looks = [*NEAR_STEPS, self._horizon]
        columns = [
            np.ones_like(level),
            self._back(index, np.arange(LAGS)) - level,
            self.means - level,
            usual[:, looks] - usual[:, :1],
            usual[:, :1] - level,
            yesterday[:, -1:],
            np.broadcast_to(self._calendar[index % self.day], (len(level), 2 * HARMONICS)),
            np.full_like(level, float(weekday >= 5)),
        ]
        found: Floats = np.concatenate(columns, axis=1)
        found[np.isnan(found)] = 0.0
        return found

    def clamp(self, rows: Ints, found: Floats) -> Floats:
        """Returns the features of `rows`, float64[n, 22], within what is usual for each; learns what is."""
        self.seen[rows] += 1
        squares = self.squares[rows]
        limit = CLAMP_RMS * np.sqrt(squares) + CLAMP_LEAST
        limit[:, 0] = 1.0
        limit[:, -2 * HARMONICS - 1 :] = 1.0
        held: Floats = np.minimum(np.maximum(found, -limit), limit)
        rate = np.maximum(RMS_RATE, 1.0 / self.seen[rows])[:, None]
        self.squares[rows] = squares + rate * (held * held - squares)
        return held
