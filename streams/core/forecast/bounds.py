"""Bounds: how far off forecasts usually are, as quantiles that are tracked online."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.mix import TINY
from streams.core.forecast.profile import Floats

LEVELS = (0.05, 0.9, 0.95)
"""Quantiles that are tracked; the outer two bound 90 % of what comes."""
SCALE_RATE = 0.02
"""The usual residual remembers 50 steps."""
MOST_RISE = 8.0
"""One residual counts at most 8 times in the usual one."""
STEP = 0.03
LEAST_STEP = 0.05
"""A quantile moves by at least this part of STEP, also near 0."""
GAUSSIAN_MEAN = 0.7979
"""Mean absolute value of a standard normal: quantiles begin as those of one."""


class Bounds:
    """Per look ahead and series: the usual residual, and quantiles in units of it."""

    def __init__(self, horizon: int, series: int) -> None:
        start = [NormalDist().inv_cdf(level) / GAUSSIAN_MEAN for level in LEVELS]
        self.scale = np.zeros((horizon, series))
        self.quantile: Floats = np.broadcast_to(np.array(start), (horizon, series, len(LEVELS))).copy()
        self.seen = np.zeros((horizon, series), dtype=np.int64)

    def learn(self, scored: NDArray[np.bool_], residuals: Floats) -> None:
        """Learns residuals (observed - forecast), float64[horizon, series], where scored."""
        known = scored & (self.scale > TINY)
        units = residuals / np.where(self.scale > TINY, self.scale, 1.0)
        below = units[..., None] < self.quantile
        step = STEP * np.maximum(np.abs(self.quantile), LEAST_STEP) * (np.array(LEVELS) - below)
        self.quantile += np.where(known[..., None], step, 0.0)
        self.seen += scored
        size = np.abs(residuals)
        size = np.where(self.scale > TINY, np.minimum(size, MOST_RISE * self.scale), size)
        rate = np.maximum(SCALE_RATE, 1.0 / np.maximum(self.seen, 1))
        self.scale += np.where(scored, rate * (size - self.scale), 0.0)

    def offset(self, level: float) -> Floats:
        """Returns float64[horizon, series]: what to add to a forecast for its quantile `level`."""
        found: Floats = self.scale * self.quantile[..., LEVELS.index(level)]
        return found
