"""One series' forecaster: learns a step at a time, forecasts the next five minutes, knows its skill."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import exp, isfinite, log

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.features import NAMES, Features
from streams.core.forecast.heads import Head, Sample
from streams.core.forecast.skill import DAY_S, Errors, Score, Skill

Floats = NDArray[np.float64]

FIRST_STEPS = 30
"""Steps whose mean sets the offset of the logarithm; until then the last value is the forecast."""
OFFSET_PART = 0.1
"""Offset as a part of that mean: small loads are not stretched without end."""
LEAST_OFFSET = 0.1
"""A tenth of a request, for series that begin with nothing."""
MOST_RISE = 2.0
"""A forecast is at most this times the largest value of the last day."""
MOST_REQUESTS = 1e15
"""More per step is no count of requests but a broken record."""


@dataclass(frozen=True)
class _Issued:
    """A forecast that waits for what it foretold."""

    index: int
    sample: Sample
    level: float
    predicted: tuple[float, ...]
    last: float
    at_horizon: float


class SeriesForecaster:
    """Forecasts requests per step of one series, from steps whose announced events are taken out."""

    def __init__(self, step_s: float = 30.0, horizon: int = 10) -> None:
        if not 0 < step_s <= 3600 or horizon < 2:
            raise ValueError(f"step_s = {step_s} is not in (0, 3600], or horizon = {horizon} is below 2")
        self.step_s, self.horizon = step_s, horizon
        self.index: int | None = None
        """Newest step learned."""
        self._heads = [Head(steps) for steps in sorted({1, horizon // 2, horizon})]
        self._between = _between([head.steps for head in self._heads], horizon)
        self._features = Features(step_s, horizon)
        self._score = Score(step_s)
        self._first: list[tuple[int, float]] = []
        self._offset: float | None = None
        self._issued: deque[_Issued] = deque()
        self._recent: deque[tuple[int, float]] = deque()
        self._path: Floats = np.zeros(horizon + 1)
        self._missed = 0
        self._skill: tuple[int, Skill] | None = None

    def learn(self, index: int, y: float | None) -> None:
        """Learns that step `index` had `y` requests; None, NaN and impossible values mean unknown.

        Steps come in rising order (ValueError); those left out are unknown. An unknown step is taken
        to be what was forecast for it, and is not scored.
        """
        if self.index is not None and index <= self.index:
            raise ValueError(f"step {index} does not follow step {self.index}")
        self._pass_over(index - 1)
        if y is None or not isfinite(y) or not 0 <= y <= MOST_REQUESTS:
            self._pass_over(index)
            return
        self.index = index
        self._remember(index, y)
        self._missed = 0
        self._score.known += 1
        if self._offset is None:
            self._begin(index, y)
        else:
            self._settle(index, y)
            self._features.push(index, log(y + self._offset), known=True)
            self._issue(index, y)

    def forecast(self) -> Floats:
        """Returns float64[horizon + 1], requests per step: [0] newest, [h] h steps ahead.

        Finite, 0 or more, at most twice the largest value of the last day. With the newest steps
        unknown it is the rest of the last forecast, its end held.
        """
        ahead = np.minimum(np.arange(self.horizon + 1) + self._missed, self.horizon)
        path: Floats = self._path[ahead]
        return path

    @property
    def skill(self) -> Skill:
        """How good the forecasts of the last 24 h were, and whether they may be used."""
        newest = self.index if self.index is not None else 0
        if self._skill is None or self._skill[0] != newest:
            self._skill = newest, self._score.skill(newest)
        return self._skill[1]

    def errors(self, steps: int | None = None) -> Errors:
        """Returns the sums of errors at the horizon over the last `steps` steps, a day at most."""
        return self._score.errors(self.index if self.index is not None else 0, steps)

    # ------------------------------------------------------------------ how a step is learned

    def _pass_over(self, index: int) -> None:
        """Feeds the last forecast for every step up to `index` that was not learned."""
        if self.index is None or index <= self.index:
            return
        if self._offset is not None and index - self.index > DAY_S / self.step_s:
            end = max(float(self._path[-1]), 0.0)
            self._features.skip(index, log(end + self._offset))
        elif self._offset is not None:
            for missed in range(self.index + 1, index + 1):
                ahead = min(self._missed + missed - self.index, self.horizon)
                expected = float(self._path[ahead])
                self._features.push(missed, log(expected + self._offset), known=False)
        self._missed += index - self.index
        self.index = index

    def _begin(self, index: int, y: float) -> None:
        """Gathers the first 30 steps; then fixes the offset and goes through them again."""
        self._first.append((index, y))
        self._path = np.full(self.horizon + 1, y)
        if len(self._first) < FIRST_STEPS:
            return
        mean = sum(value for _, value in self._first) / len(self._first)
        self._offset = max(OFFSET_PART * mean, LEAST_OFFSET)
        for number, value in self._first:
            self._features.push(number, log(value + self._offset), known=True)
        self._first = []
        self._issue(index, y)

    def _settle(self, index: int, y: float) -> None:
        """Teaches and scores the forecasts that were made for this step."""
        while self._issued and self._issued[0].index < index - self.horizon:
            self._issued.popleft()
        observed = log(y + (self._offset or 0.0))
        by_index = {issued.index: issued for issued in self._issued}
        for number, head in enumerate(self._heads):
            issued = by_index.get(index - head.steps)
            if issued is not None:
                head.learn(issued.sample, issued.predicted[number], observed - issued.level)
        oldest = by_index.get(index - self.horizon)
        if oldest is not None:
            self._score.add(index, abs(oldest.at_horizon - y), abs(oldest.last - y), y)

    def _issue(self, index: int, y: float) -> None:
        """Makes the forecast from this step on, and keeps it until it can be checked."""
        sample: Sample = dict(zip(NAMES, self._features.vector().tolist(), strict=True))
        level = self._features.level
        predicted = tuple(head.predict(sample) for head in self._heads)
        offset = self._offset or 0.0
        most = MOST_RISE * self._recent[0][1]
        top = log(most + offset)
        path = [y]
        for weights in self._between:
            value = level + sum(weight * part for weight, part in zip(weights, predicted, strict=True))
            path.append(min(max(exp(min(value, top)) - offset, 0.0), most))
        self._path = np.array(path)
        self._issued.append(_Issued(index, sample, level, predicted, y, path[-1]))

    def _remember(self, index: int, y: float) -> None:
        """Keeps the values of the last day that may be its largest: falling, the largest first."""
        while self._recent and self._recent[-1][1] <= y:
            self._recent.pop()
        self._recent.append((index, y))
        while self._recent[0][0] <= index - DAY_S / self.step_s:
            self._recent.popleft()


def _between(heads: list[int], horizon: int) -> list[list[float]]:
    """Returns, per step ahead from 1, the weights of the heads around it (linear between them)."""
    unit = np.eye(len(heads))
    return [
        [float(np.interp(step, heads, unit[number])) for number in range(len(heads))]
        for step in range(1, horizon + 1)
    ]
