"""LightGBM, refitted at the beginning of every day on the days before it, one per series and look ahead.

Usage: forecast.py IN.npz OUT.npz. IN: values.N (float64[steps], NaN = unknown), origins.N (rows after which
a forecast is due) and step.N (index of the first value and seconds of a step) of series N, and horizon. OUT:
LightGBM.paths.N (float64[origins, horizon]) and LightGBM.cpu (float64[series], seconds of the process).

Models look 1, 5 and 10 steps ahead; between them is the line. The target is the change of the logarithm, as
trees cannot extrapolate; the features are the same changes that our own forecaster sees.
"""

from __future__ import annotations

import sys
import time
import warnings

import lightgbm
import numpy as np

DAY_S = 86_400
MOST_DAYS = 28
LAGS = 12
MEMORIES = (4, 20, 120)
ROUNDS = 150
SETTINGS = {
    "objective": "regression_l1",
    "learning_rate": 0.07,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "seed": 1,
    "verbosity": -1,
}


def shifted(z: np.ndarray, steps: int) -> np.ndarray:
    """Returns z[t + steps] at t; NaN beyond its ends."""
    found = np.full(len(z), np.nan)
    if steps >= 0:
        found[: len(z) - steps] = z[steps:]
    elif -steps < len(z):
        found[-steps:] = z[:steps]
    return found


def features(z: np.ndarray, first: int, step_s: float) -> np.ndarray:
    """Returns float64[steps, features]: what is known at each step whatever is to be forecast."""
    second = (first + np.arange(len(z)) + 0.5) * step_s
    angle = 2 * np.pi * second / DAY_S
    means, mean = np.full((len(z), len(MEMORIES)), np.nan), np.full(len(MEMORIES), np.nan)
    rates = 1.0 / np.array(MEMORIES)
    for t in range(len(z)):
        if np.isfinite(z[t]):
            mean = np.where(np.isnan(mean), z[t], mean + rates * (z[t] - mean))
        means[t] = mean
    lags = [shifted(z, -lag) - z for lag in range(1, LAGS)]
    calendar = [np.sin(angle), np.cos(angle), second % DAY_S, (second // DAY_S + 3) % 7]
    return np.column_stack([*lags, means - z[:, None], *calendar])


def days_ago(z: np.ndarray, day: int, ahead: int) -> np.ndarray:
    """Returns float64[steps, features]: what came so many steps ahead a day and a week ago."""
    columns = []
    for back in (day, 7 * day):
        then = shifted(z, ahead - back) if back > ahead else np.full(len(z), np.nan)
        columns += [then - z, then - shifted(z, -back)]
    return np.column_stack(columns)


def forecast(values: np.ndarray, origins: np.ndarray, first: int, step_s: float, horizon: int) -> np.ndarray:
    """Returns float64[origins, horizon]: of each day's origins, by models of the days before."""
    there = values[: origins[0] + 1]
    delta = max(0.1 * np.nanmean(there), 1e-9)
    z = np.log(values + delta)
    day = max(2, round(DAY_S / step_s))
    looks = sorted({1, horizon // 2, horizon})
    days = (first + origins) // day
    made = np.full((len(origins), len(looks)), np.nan)
    usual = features(z, first, step_s)
    for place, ahead in enumerate(looks):
        x = np.column_stack([usual, days_ago(z, day, ahead)])
        change = shifted(z, ahead) - z
        for number in np.unique(days):
            due = np.flatnonzero(days == number)
            until = origins[due[0]] + 1 - ahead  # the last targets that are known when the day begins
            rows = np.arange(max(0, until - MOST_DAYS * day), until)
            rows = rows[np.isfinite(change[rows])]
            if len(rows) < 2 * SETTINGS["min_data_in_leaf"]:
                made[due, place] = 0.0
                continue
            model = lightgbm.train(SETTINGS, lightgbm.Dataset(x[rows], change[rows]), num_boost_round=ROUNDS)
            made[due, place] = model.predict(x[origins[due]], num_threads=1)
    steps = np.arange(1, horizon + 1)
    between = np.stack([np.interp(steps, looks, unit) for unit in np.eye(len(looks))], axis=1)
    return np.maximum(np.exp(z[origins][:, None] + made @ between.T) - delta, 0.0)


def main() -> None:
    """Forecasts every origin of every series."""
    warnings.simplefilter("ignore")
    given = np.load(sys.argv[1])
    horizon = int(given["horizon"])
    series = sorted(int(name.partition(".")[2]) for name in given.files if name.startswith("values."))
    found: dict[str, np.ndarray] = {}
    spent = np.zeros(len(series))
    for number in series:
        first, step_s = given[f"step.{number}"]
        origins = given[f"origins.{number}"]
        began = time.process_time()
        paths = forecast(given[f"values.{number}"], origins, int(first), float(step_s), horizon)
        spent[number] = time.process_time() - began
        found[f"LightGBM.paths.{number}"] = paths
    found["LightGBM.cpu"] = spent
    print(f"LightGBM: {spent.sum():.0f} s", file=sys.stderr)
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
