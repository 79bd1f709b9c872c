"""Load shapes from recorded series: days of any of them, as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.bench.series_files import Series, read_series
from schemas.errors import ConfigError
from streams.core.simulation.shapes import DAY_S
from streams.core.simulation.workload import BIN_S, Floats

LONGEST_STEP_S = 300.0
"""Series of coarser steps say nothing of the next five minutes."""
MOST_UNKNOWN = 0.02
"""Of the values of a stretch."""
LEAST_SD, MOST_PEAK = 0.12, 6.0
"""Standard deviation and largest value of a stretch, as parts of its mean: neither constant nor one spike."""
TRIES = 400


class TraceShapes:
    """Stretches of recorded series that begin at a midnight of their own; shifted days begin before it."""

    def __init__(self, series: Sequence[Series], days: float) -> None:
        """days: how long the stretches are to be, shifts of up to a day not counted."""
        self._series = [
            one
            for one in series
            if one.step_s <= LONGEST_STEP_S and len(one.values) * one.step_s >= (days + 1) * DAY_S
        ]
        if not self._series:
            raise ConfigError(
                [f"no series of {days + 1:g} days in steps of {LONGEST_STEP_S:.0f} s or less was found"]
            )
        self.names = [one.name for one in self._series]

    def draw(self, rng: np.random.Generator, bins: int, shift_s: float) -> Floats:
        """Returns float64[bins], mean 1; its day begins `shift_s` later than the first bin."""
        for _ in range(TRIES):
            one = self._series[int(rng.integers(len(self._series)))]
            stretch = _stretch(one, rng, bins * BIN_S, shift_s)
            if stretch is not None:
                at = (np.arange(bins) + 0.5) * BIN_S
                values = np.interp(at, *stretch)
                shape: Floats = values / values.mean()
                return shape
        raise ConfigError(
            [f"no fit stretch of {bins * BIN_S / DAY_S:g} days was found in {len(self.names)} series"]
        )


def _stretch(
    one: Series, rng: np.random.Generator, length_s: float, shift_s: float
) -> tuple[Floats, Floats] | None:
    """Returns (times from 0 on, values) of a stretch by chance; None where it is not fit."""
    until_midnight = -one.start_s % DAY_S - shift_s
    earliest = until_midnight if until_midnight >= 0 else until_midnight + DAY_S
    starts = np.arange(earliest, len(one.values) * one.step_s - length_s, DAY_S)
    if not len(starts):
        return None
    first = round(float(rng.choice(starts)) / one.step_s)
    values = one.values[first : first + round(length_s / one.step_s) + 1]
    known = np.isfinite(values)
    if known.mean() < 1 - MOST_UNKNOWN or values[known].min() < 0:
        return None
    mean = values[known].mean()
    if mean <= 0 or values[known].std() < LEAST_SD * mean or values[known].max() > MOST_PEAK * mean:
        return None
    times: Floats = (np.arange(len(values), dtype=np.float64) + 0.5) * one.step_s
    return times[known], values[known]


def trace_shapes(folder: Path, days: float) -> TraceShapes:
    """Returns the shapes of all series below a folder."""
    found, _ = read_series(folder)
    return TraceShapes(found, days)
