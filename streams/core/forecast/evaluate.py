"""Prequential evaluation: at every step forecast first, then learn; compared with the last value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.series import SeriesForecaster

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Mean absolute errors per step ahead, float64[horizon + 1] ([0] is 0), over the scored steps."""

    mae: Floats
    naive_mae: Floats
    scored: int

    def relative(self, ahead: int) -> float:
        """Returns MAE / MAE of the last value, `ahead` steps ahead; below 1 beats it."""
        return float(self.mae[ahead] / self.naive_mae[ahead])


def evaluate(forecaster: SeriesForecaster, values: Sequence[float] | Floats, skip: int = 0) -> Evaluation:
    """Returns the errors of forecasts made at steps `skip` and later; NaN values are not scored.

    The forecast made at step t was made from values[: t + 1] alone, and values[t + h] checks it.
    """
    series = np.asarray(values, dtype=np.float64)
    horizon = forecaster.horizon
    forecasts = np.full((len(series), horizon + 1), np.nan)
    for index, value in enumerate(series):
        forecaster.learn(index, float(value))
        if index >= skip:
            forecasts[index] = forecaster.forecast()
    mae, naive = np.zeros(horizon + 1), np.zeros(horizon + 1)
    for ahead in range(1, horizon + 1):
        made, truth = forecasts[skip : len(series) - ahead], series[skip + ahead :]
        mae[ahead] = np.nanmean(np.abs(made[:, ahead] - truth))
        naive[ahead] = np.nanmean(np.abs(series[skip : len(series) - ahead] - truth))
    return Evaluation(mae, naive, int(np.isfinite(series[skip:]).sum()))
