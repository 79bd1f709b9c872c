"""Trust is earned: how well a series was forecast over the last day, and whether it is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400.0
"""Errors count for a day: both the quiet and the busy hours are in it."""
LEAST_DATA_S = 7_200.0
"""Two hours: less says nothing about a forecaster."""
MOST_RELATIVE = 1.1
"""A forecast this much worse than the last value does harm in the planner."""
MOST_WAPE = 0.35
"""Errors above this part of the load: capacity decisions on it are worse than none."""
FLAT = 0.001
"""Where the last value is off by less than this part of the level, the series counts as constant."""


@dataclass(frozen=True)
class Errors:
    """Sums over scored forecasts at the horizon: |error|, |error| of the last value, |observed|."""

    model: float
    naive: float
    observed: float
    scored: int

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.model + other.model,
            self.naive + other.naive,
            self.observed + other.observed,
            self.scored + other.scored,
        )

    @property
    def relative_mae(self) -> float | None:
        """MAE / MAE of the last value; None when nothing was scored; near 1 for a constant series."""
        if not self.scored:
            return None
        flat = FLAT * self.observed
        if self.naive > flat:
            return self.model / self.naive
        return (self.model + flat) / (self.naive + flat) if flat > 0 else 1.0 + self.model

    @property
    def wape(self) -> float | None:
        """Sum of |error| / sum of |observed|; None when nothing was scored."""
        if not self.scored:
            return None
        return self.model / self.observed if self.observed > 0 else float(self.model > 0)


@dataclass(frozen=True)
class Skill:
    """How good the forecasts of one series were over the last 24 h, at the horizon."""

    relative_mae: float | None
    """MAE / MAE of the last value; below 1 beats it; None when nothing was scored yet."""
    wape: float | None
    trusted: bool
    why_not: str = ""
    """Why the series is served reactively; empty when it is trusted."""


class Score:
    """The errors of the last day, by step index."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._size = max(2, round(DAY_S / step_s))
        self._errors: Floats = np.zeros((3, self._size))
        self._index: NDArray[np.int64] = np.full(self._size, np.iinfo(np.int64).min)
        self.known = 0
        """Steps with data since the start."""

    def add(self, index: int, model: float, naive: float, observed: float) -> None:
        """Takes the absolute errors of the forecast and of the last value for step `index`."""
        place = index % self._size
        self._errors[:, place] = model, naive, observed
        self._index[place] = index

    def errors(self, newest: int, steps: int | None = None) -> Errors:
        """Returns the sums over the last `steps` steps up to `newest`; a day at most."""
        window = min(steps if steps is not None else self._size, self._size)
        inside = self._index > newest - window
        model, naive, observed = self._errors @ inside
        return Errors(float(model), float(naive), float(observed), int(inside.sum()))

    def skill(self, newest: int) -> Skill:
        """Returns the verdict over the last 24 h."""
        errors = self.errors(newest)
        relative, wape = errors.relative_mae, errors.wape
        return Skill(relative, wape, *self._verdict(relative, wape))

    def _verdict(self, relative: float | None, wape: float | None) -> tuple[bool, str]:
        data_s = self.known * self._step_s
        if data_s < LEAST_DATA_S:
            return False, f"{data_s / 3600:.1f} h of data, {LEAST_DATA_S / 3600:.0f} h are needed"
        if relative is None or wape is None:
            return False, "no forecast of the last 24 h could be checked"
        if relative > MOST_RELATIVE:
            return False, f"MAE is {relative:.2f} of the last value's, over {MOST_RELATIVE}"
        if wape > MOST_WAPE:
            return False, f"errors are {wape:.0%} of the load, over {MOST_WAPE:.0%}"
        return True, ""
