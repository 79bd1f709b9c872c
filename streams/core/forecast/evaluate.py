"""Prequential evaluation: at every step forecast first, then learn; compared with the last value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streams.core.forecast.forecaster import Forecaster
from streams.core.forecast.profile import Floats, Ints


@dataclass(frozen=True)
class Evaluation:
    """Over the scored steps, per series and step ahead, float64[series, horizon + 1] ([:, 0] is 0)."""

    mae: Floats
    naive_mae: Floats
    coverage90: Floats
    """Part of what came within the 5 % and 95 % bounds."""

    def relative(self, row: int, ahead: int) -> float:
        """Returns MAE / MAE of the last value, `ahead` steps ahead; below 1 beats it."""
        return float(self.mae[row, ahead] / self.naive_mae[row, ahead])


def evaluate(forecaster: Forecaster, first: int, values: Floats, skip: Ints) -> Evaluation:
    """Returns the errors of forecasts of `values`, float64[steps, series], the first at step `first`.

    Series s is scored from its step skip[s] on; NaN values are not scored. The forecast made at step t
    was made from values[: t + 1] alone, and values[t + h] checks it.
    """
    steps, series = values.shape
    width = forecaster.horizon + 1
    ring = np.full((width, 3, series, width), np.nan)
    sums = np.zeros((4, series, width))
    ahead = np.arange(1, width)
    for t in range(steps):
        truth = values[t]
        made = ring[(t - ahead) % width, :, :, ahead]  # [horizon, 3, series]
        last = ring[(t - ahead) % width, 0, :, 0]
        scored = (t - ahead[:, None] >= skip) & np.isfinite(truth) & np.isfinite(made[:, 0]) & np.isfinite(last)
        inside = (made[:, 1] <= truth) & (truth <= made[:, 2])
        for number, what in enumerate((np.abs(made[:, 0] - truth), np.abs(last - truth), inside, 1.0)):
            sums[number, :, 1:] += np.where(scored, what, 0.0).T
        forecaster.learn(first + t, truth)
        ring[t % width, 0] = forecaster.forecast()
        ring[t % width, 1], ring[t % width, 2] = forecaster.bound(0.05), forecaster.bound(0.95)
        ring[t % width, :, ~np.isfinite(truth)] = np.nan
    count = np.maximum(sums[3], 1.0)
    return Evaluation(sums[0] / count, sums[1] / count, sums[2] / count)
