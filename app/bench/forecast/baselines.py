"""Forecasts that need no library: the value of a day ago, and the exponential mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from app.bench.forecast.groups import Group
from app.bench.forecast.ours import HORIZON, Run
from app.bench.forecast.scores import Model, model_of
from streams.core.forecast.profile import DAY_S, Floats

EWMA_RATE = 0.3
"""Weight of the newest value."""


def seasonal_naive(group: Group) -> Floats:
    """Returns float64[steps, series, horizon]: the value a day before, else the last one."""
    values = group.values
    day = max(1, round(DAY_S / group.step_s))
    made = np.repeat(values[:, :, None], HORIZON, axis=2)
    for ahead in range(1, HORIZON + 1):
        back = day * -(-ahead // day) - ahead  # a step a day, or several, before the one that is forecast
        then = np.full(values.shape, np.nan)
        if back < len(values):
            then[back:] = values[: len(values) - back]
        made[:, :, ahead - 1] = np.where(np.isfinite(then), then, made[:, :, ahead - 1])
    return made


def ewma(group: Group) -> Floats:
    """Returns float64[steps, series, horizon]: the exponential mean, the same for every step ahead."""
    mean = np.full(group.values.shape[1], np.nan)
    means = np.empty(group.values.shape)
    for t, value in enumerate(group.values):
        started = np.where(np.isnan(mean), value, mean + EWMA_RATE * (value - mean))
        mean = np.where(np.isfinite(value), started, mean)
        means[t] = mean
    return np.repeat(means[:, :, None], HORIZON, axis=2)


BASELINES: dict[str, Callable[[Group], Floats]] = {"seasonal naive": seasonal_naive, "EWMA": ewma}


def run_baselines(runs: Sequence[Run]) -> list[Model]:
    """Returns each baseline on all steps that are scored."""
    models = []
    for name, forecast in BASELINES.items():
        began = time.process_time()
        made = [forecast(run.group) for run in runs]
        cpu_s = time.process_time() - began
        paths = {
            (number, column): one[run.origins(column), column]
            for number, (run, one) in enumerate(zip(runs, made, strict=True))
            for column in range(len(run.group.names))
        }
        origins = {(number, column): runs[number].origins(column) for number, column in paths}
        cpu_s /= sum(run.series_steps for run in runs)
        models.append(model_of(name, runs, origins, paths, cpu_s, refitted=False))
    return models
