"""Trust is earned: how well a series was forecast over the last day, and whether it is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.profile import Floats, Ints

HOURS = 24
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
    """The errors of the last 24 hours, the begun one included, by the hour."""

    def __init__(self, series: int, step_s: float) -> None:
        self._step_s = step_s
        self.sums = np.zeros((4, series, HOURS))
        """Of |error|, |error| of the last value, |observed|, and how many."""
        self.hours = np.full(HOURS, -1, dtype=np.int64)
        """Which hour each column is of."""

    def add(self, index: int, scored: NDArray[np.bool_], model: Floats, naive: Floats, seen: Floats) -> None:
        """Takes the absolute errors of the forecast and of the last value for step `index`, where scored."""
        hour = int(index * self._step_s // 3600)
        place = hour % HOURS
        if self.hours[place] != hour:
            self.hours[place] = hour
            self.sums[:, :, place] = 0.0
        self.sums[:, :, place] += np.stack([model, naive, seen, np.ones_like(model)]) * scored

    def errors(self, row: int, newest: int) -> Errors:
        """Returns one series' sums over the 24 h up to step `newest`."""
        recent = self.hours > int(newest * self._step_s // 3600) - HOURS
        model, naive, observed, scored = self.sums[:, row] @ recent
        return Errors(float(model), float(naive), float(observed), int(scored))

    def skills(self, known: Ints, newest: int) -> list[Skill]:
        """Returns the verdicts at step `newest`, given how many steps with data each series had."""
        found = []
        for row, steps in enumerate(known.tolist()):
            errors = self.errors(row, newest)
            verdict = _verdict(steps * self._step_s, errors)
            found.append(Skill(errors.relative_mae, errors.wape, not verdict, verdict))
        return found


def _verdict(data_s: float, errors: Errors) -> str:
    """Returns why a forecast is not trusted; empty where it is."""
    relative, wape = errors.relative_mae, errors.wape
    if data_s < LEAST_DATA_S:
        return f"{data_s / 3600:.1f} h of data, {LEAST_DATA_S / 3600:.0f} h are needed"
    if relative is None or wape is None:
        return "no forecast of the last 24 h could be checked"
    if relative > MOST_RELATIVE:
        return f"MAE is {relative:.2f} of the last value's, over {MOST_RELATIVE}"
    if wape > MOST_WAPE:
        return f"errors are {wape:.0%} of the load, over {MOST_WAPE:.0%}"
    return ""
