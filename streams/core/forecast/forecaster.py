"""The forecaster of all request series: learns a step at a time, forecasts the next five minutes.

Forecasts are a mix of seven experts, from the last value to heads that have learned the series.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streams.core.forecast.bounds import Bounds
from streams.core.forecast.features import COUNT, Features
from streams.core.forecast.heads import Heads
from streams.core.forecast.mix import Mix
from streams.core.forecast.profile import Floats, Ints
from streams.core.forecast.skill import Score, Skill

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
MEANS = (0.3, 0.6)
"""Rates of the exponential means that are experts."""
EXPERTS = ("last value", "mean .3", "mean .6", "yesterday", "usual day", "own head", "pooled head")
HOURS = 25
"""Hourly maxima kept: those of the last day, and the hour that has begun."""
SHOCK_STEPS = 10
"""Steps for which an upper bound stays above a value that broke through it."""


class _Issued:
    """Forecasts that wait for what they foretold: a ring of the last `horizon` steps."""

    def __init__(self, horizon: int, heads: int, series: int) -> None:
        size = horizon + 1
        self.index = np.full(size, -1, dtype=np.int64)
        self.made = np.zeros((size, series), dtype=np.bool_)
        self.samples = np.zeros((size, series, COUNT))
        self.level = np.zeros((size, series))
        self.own = np.zeros((size, heads, series))
        self.pooled = np.zeros((size, heads, series))
        self.experts = np.zeros((size, horizon, series, len(EXPERTS)))
        self.path = np.zeros((size, horizon, series))
        self.last = np.zeros((size, series))


class Forecaster:
    """Forecasts requests per step of several series, from steps whose announced events are taken out."""

    def __init__(self, series: int, step_s: float = 30.0, horizon: int = 10) -> None:
        if not 0 < step_s <= 3600 or horizon < 5:
            raise ValueError(f"step_s = {step_s} is not in (0, 3600], or horizon = {horizon} is below 5")
        self.series, self.step_s, self.horizon = series, step_s, horizon
        self.index: int | None = None
        """Newest step learned."""
        self._heads = Heads(series, (1, horizon // 2, horizon))
        self._between = _between(self._heads.steps, horizon)
        self._features = Features(series, step_s, horizon)
        self._mix = Mix(horizon, series, len(EXPERTS))
        self._bounds = Bounds(horizon, series)
        self._score = Score(series, step_s)
        self._issued = _Issued(horizon, len(self._heads.steps), series)
        self._offset = np.zeros(series)
        """Of the logarithm; 0 until FIRST_STEPS values are known."""
        self._first = np.zeros((series, FIRST_STEPS))
        self._first_index = np.zeros((series, FIRST_STEPS), dtype=np.int64)
        self._known = np.zeros(series, dtype=np.int64)
        """Steps with data since the start."""
        self._means = np.zeros((len(MEANS), series))
        self._path = np.zeros((series, horizon + 1))
        self._missed = np.zeros(series, dtype=np.int64)
        self._largest = np.zeros((series, HOURS))
        self._hour = -1
        self._shock = np.zeros(series, dtype=np.int64)
        """Steps for which the upper bound is held up still."""

    # ------------------------------------------------------------------ what it answers

    def forecast(self) -> Floats:
        """Returns float64[series, horizon + 1], requests per step: [:, 0] newest, [:, h] h steps ahead.

        Finite, 0 or more, at most twice the largest value of the last day. Where the newest steps are
        unknown it is the rest of the last forecast, its end held.
        """
        return np.take_along_axis(self._path, self._ahead(), axis=1)

    def bound(self, level: float) -> Floats:
        """Returns float64[series, horizon + 1]: above a part `level` of what comes (0.05, 0.9, 0.95).

        0 or more. After a value above its bound the upper ones are at least that of the newest, for 10 steps.
        """
        path = self._path.copy()
        path[:, 1:] += self._bounds.offset(level).T
        if level > 0.5:
            held = (self._shock > 0)[:, None]
            path[:, 1:] = np.where(held, np.maximum(path[:, 1:], path[:, :1]), path[:, 1:])
        return np.maximum(np.take_along_axis(path, self._ahead(), axis=1), 0.0)

    def usual(self, index: int) -> Floats:
        """Returns float64[series]: log of what is usual at the time of step `index`; NaN = not known."""
        return self._features.usual_day(index)[:, 0]

    def largest(self) -> Floats:
        """Returns float64[series], the largest requests per step of the last day; 0 without any."""
        most: Floats = self._largest.max(axis=1)
        return most

    def skill(self) -> list[Skill]:
        """Returns per series how good its forecasts of the last 24 h were, and whether they may be used."""
        return self._score.skills(self._known, -1 if self.index is None else self.index)

    def _ahead(self) -> Ints:
        steps: Ints = np.minimum(np.arange(self.horizon + 1) + self._missed[:, None], self.horizon)
        return steps

    # ------------------------------------------------------------------ how it learns

    def learn(self, index: int, values: Floats) -> None:
        """Learns the requests of step `index`, float64[series]; NaN and impossible values mean unknown.

        Steps come in rising order (ValueError); those left out are unknown. An unknown step is taken to
        be what was forecast for it, and is not scored.
        """
        if values.shape != (self.series,):
            raise ValueError(f"{values.shape} values given for {self.series} series")
        if self.index is not None and index <= self.index:
            raise ValueError(f"step {index} does not follow step {self.index}")
        self._pass_over(index)
        self.index = index
        known = np.isfinite(values)
        known &= (values >= 0) & (values <= MOST_REQUESTS)
        self._step(index, np.where(known, values, 0.0), known)

    def _pass_over(self, index: int) -> None:
        """Takes the steps since the last one as unknown; after more than a day nothing of it is used."""
        if self.index is None:
            return
        gap = index - self.index - 1
        if gap > self._features.day:
            self._features.forget(np.arange(self.series))
            self._missed += gap
        else:
            nothing = np.zeros(self.series)
            for missed in range(self.index + 1, index):
                self._step(missed, nothing, nothing > 0)

    def _step(self, index: int, values: Floats, known: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        live = self._offset > 0
        scored = live & known
        if scored.any():
            self._settle(index, values, scored)
        rows = np.flatnonzero(live)
        if len(rows):
            ahead = np.minimum(self._missed[rows] + 1, self.horizon)
            fed = np.where(known[rows], values[rows], self._path[rows, ahead])
            self._push(rows, index, fed, np.flatnonzero(scored))
        self._missed = np.where(known, 0, self._missed + 1)
        self._shock = np.maximum(self._shock - 1, 0)
        self._known += known
        self._remember(index, values)
        begun = self._begin(index, values, known & ~live)
        self._issue(index, values, np.flatnonzero(scored | begun))

    def _push(self, rows: Ints, index: int, values: Floats, known: Ints) -> None:
        for number, rate in enumerate(MEANS):
            self._means[number, rows] += rate * (values - self._means[number, rows])
        self._features.push(rows, index, np.log(values + self._offset[rows]), known)

    def _begin(
        self, index: int, values: Floats, new: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Gathers the first values of a series; then fixes the offset and goes through them again."""
        begun = np.zeros(self.series, dtype=np.bool_)
        for row in np.flatnonzero(new).tolist():
            place = int(self._known[row]) - 1
            self._first[row, place] = values[row]
            self._first_index[row, place] = index
            self._path[row] = values[row]
            if place < FIRST_STEPS - 1:
                continue
            self._offset[row] = max(OFFSET_PART * self._first[row].mean(), LEAST_OFFSET)
            self._means[:, row] = self._first[row, 0]
            one = np.array([row])
            for number, value in zip(self._first_index[row].tolist(), self._first[row], strict=True):
                self._push(one, number, np.array([value]), one)
            begun[row] = True
        return begun

    def _settle(self, index: int, values: Floats, known: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Teaches and scores the forecasts that were made for this step."""
        issued = self._issued
        looks = np.arange(1, self.horizon + 1)
        slots = (index - looks) % len(issued.index)
        there = issued.index[slots] == index - looks
        scored = issued.made[slots] & there[:, None] & known
        path, last = issued.path[slots, looks - 1], issued.last[slots]
        self._mix.learn(scored, issued.experts[slots, looks - 1], path, last, values)
        upper = path[0] + self._bounds.offset(0.95)[0]
        self._shock[scored[0] & (values > upper)] = SHOCK_STEPS + 1
        self._bounds.learn(scored, values - path)
        self._score.add(index, scored[-1], np.abs(path[-1] - values), np.abs(last[-1] - values), values)
        observed = np.log(values + np.where(self._offset > 0, self._offset, 1.0))
        for head, steps in enumerate(self._heads.steps):
            rows = np.flatnonzero(scored[steps - 1])
            if len(rows):
                slot = slots[steps - 1]
                own, pooled = issued.own[slot, head, rows], issued.pooled[slot, head, rows]
                seen = observed[rows] - issued.level[slot, rows]
                self._heads.learn(head, rows, issued.samples[slot, rows], own, pooled, seen)

    def _issue(self, index: int, values: Floats, rows: Ints) -> None:
        """Makes the forecasts from this step on, and keeps them until they can be checked."""
        issued, slot = self._issued, index % len(self._issued.index)
        issued.index[slot] = index
        issued.made[slot] = False
        if not len(rows):
            return
        features, offset = self._features, self._offset[rows]
        usual, yesterday = features.usual_day(index), features.yesterday(index)
        samples = features.clamp(rows, features.matrix(index, usual, yesterday)[rows])
        own, pooled = self._heads.predict(rows, samples)
        level, last = features.level[rows], values[rows]
        most = MOST_RISE * self._largest[rows].max(axis=1)
        logs = np.stack(
            [
                level + yesterday[rows, 1:].T,
                usual[rows, 1:].T + features.deviation[rows],
                level + self._between @ own,
                level + self._between @ pooled,
            ],
            axis=-1,
        )
        top = np.log(most + offset)[:, None]
        learned = np.minimum(np.maximum(np.exp(np.minimum(logs, top)) - offset[:, None], 0.0), most[:, None])
        simple = np.stack([last, *self._means[:, rows]], axis=-1)
        simple = np.broadcast_to(simple, (self.horizon, len(rows), 1 + len(MEANS)))
        experts = np.concatenate([simple, np.where(np.isnan(learned), simple[..., :1], learned)], axis=-1)
        path = np.minimum((self._mix.weights()[:, rows] * experts).sum(axis=-1), most)
        self._path[rows, 0] = last
        self._path[rows, 1:] = path.T
        issued.made[slot, rows] = True
        issued.samples[slot, rows] = samples
        issued.level[slot, rows] = level
        issued.own[slot][:, rows] = own
        issued.pooled[slot][:, rows] = pooled
        issued.experts[slot][:, rows] = experts
        issued.path[slot][:, rows] = path
        issued.last[slot, rows] = last

    def _remember(self, index: int, values: Floats) -> None:
        """Keeps the largest value of every hour of the last day."""
        hour = int(index * self.step_s // 3600)
        if hour != self._hour:
            for passed in range(max(self._hour + 1, hour - HOURS + 1), hour + 1):
                self._largest[:, passed % HOURS] = 0.0
            self._hour = hour
        place = hour % HOURS
        self._largest[:, place] = np.maximum(self._largest[:, place], values)

    # ------------------------------------------------------------------ its state

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the whole state by name; a forecaster that `restore`s it continues exactly."""
        found = {
            f"{part}.{name}": value
            for part, owner in self._parts().items()
            for name, value in vars(owner).items()
            if isinstance(value, np.ndarray) and not (part == "features" and name.startswith("_"))
        }
        found |= self._heads.to_arrays()
        found["index"] = np.array([-1 if self.index is None else self.index, self._hour], dtype=np.int64)
        return {name: np.array(value) for name, value in found.items()}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Takes a state; ValueError where it is that of other series, another step or horizon."""
        mine = self.to_arrays()
        wrong = [name for name, value in mine.items() if arrays.get(name, np.zeros(0)).shape != value.shape]
        if wrong:
            raise ValueError(f"the saved forecasts are those of other series: {', '.join(sorted(wrong)[:3])}")
        for part, owner in self._parts().items():
            for name in [name for name in mine if name.startswith(f"{part}.")]:
                setattr(owner, name.removeprefix(f"{part}."), arrays[name].copy())
        self._heads.restore(arrays)
        index, self._hour = (int(value) for value in arrays["index"])
        self.index = None if index < 0 else index

    def _parts(self) -> dict[str, object]:
        bins = {f"profile{bins.width_s}": bins for bins in self._features.profile.bins}
        return {
            "forecaster": self,
            "features": self._features,
            "mix": self._mix,
            "bounds": self._bounds,
            "score": self._score,
            "issued": self._issued,
            **bins,
        }


def _between(heads: tuple[int, ...], horizon: int) -> Floats:
    """Returns float64[horizon, heads]: weights of the heads around each step ahead, linear."""
    steps = np.arange(1, horizon + 1)
    weights: Floats = np.stack([np.interp(steps, heads, unit) for unit in np.eye(len(heads))], axis=1)
    return weights
