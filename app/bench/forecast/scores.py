"""Errors against the last value: per series, and as geometric means over series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.bench.forecast.ours import HORIZON, Run
from streams.core.forecast.profile import Floats, Ints

SHOWN = {"h1": 1, "h5": 5, "h10": 10}
"""Steps ahead that have a column of their own; `mean` is that over all ten."""
MINUTE_S = 60.0
"""Steps up to this are those of request rates in production; slower series are metrics."""
EXACT = 1e-6
"""A forecast without error counts as one with a millionth of the last value's."""

Ratios = Mapping[str, float]
"""{h1, h5, h10, mean}: MAE / MAE of the last value."""
Place = tuple[int, int]
"""Which series: number of the run, column in its group."""


@dataclass(frozen=True)
class Model:
    """What one model made of all series, and what ours made of the same steps."""

    name: str
    cpu_us_per_step: float
    """CPU of one forecast, and of the learning that it took."""
    origins: int
    """Forecasts made, over all series."""
    relative: Mapping[Place, Ratios | None]
    ours: Mapping[Place, Ratios | None]
    refitted: bool
    """A peer from a library, on a part of the origins; else a baseline on all of them."""


def errors(values: Floats, origins: Ints, paths: Floats) -> tuple[Floats, Floats]:
    """Returns float64[horizon + 1] twice, MAE of the paths and of the last value per step ahead; [0] is 0.

    values: float64[steps], NaN = unknown, not scored; origins: int64[n], rows that forecasts were made after;
    paths: float64[n, horizon], NaN = none.
    """
    mae, naive = np.zeros(HORIZON + 1), np.zeros(HORIZON + 1)
    for ahead in range(1, HORIZON + 1):
        there = origins + ahead < len(values)
        at, made = origins[there], paths[there, ahead - 1]
        truth, last = values[at + ahead], values[at]
        scored = np.isfinite(truth) & np.isfinite(last) & np.isfinite(made)
        if scored.any():
            mae[ahead] = np.abs(made - truth)[scored].mean()
            naive[ahead] = np.abs(last - truth)[scored].mean()
    return mae, naive


def relative(mae: Floats, naive: Floats) -> dict[str, float] | None:
    """Returns MAE / MAE of the last value at 1, 5, 10 steps, and the mean of all ten ratios.

    mae, naive: float64[horizon + 1]. None where the last value makes no error at some step ahead: a
    constant series, or none that was scored.
    """
    if not (naive[1:] > 0).all():
        return None
    ratios = mae[1:] / naive[1:]
    return {name: float(ratios[ahead - 1]) for name, ahead in SHOWN.items()} | {"mean": float(ratios.mean())}


def ours(runs: Sequence[Run]) -> dict[Place, Ratios | None]:
    """Returns the ratios of our forecaster on all steps that are scored."""
    return {
        (number, column): relative(run.evaluation.mae[column], run.evaluation.naive_mae[column])
        for number, run in enumerate(runs)
        for column in range(len(run.group.names))
    }


def model_of(
    name: str,
    runs: Sequence[Run],
    origins: Mapping[Place, Ints],
    paths: Mapping[Place, Floats],
    cpu_s: float,
    refitted: bool,
) -> Model:
    """Returns the model with these forecasts; paths: float64[n, horizon]; cpu_s: of one forecast.

    Few origins are divided by the last value's error over all scored steps: that of a few may be near 0.
    """
    theirs: dict[Place, Ratios | None] = {}
    mine: dict[Place, Ratios | None] = {}
    for place, rows in origins.items():
        run, column = runs[place[0]], place[1]
        values = run.group.values[:, column]
        naive = run.evaluation.naive_mae[column]
        theirs[place] = relative(errors(values, rows, paths[place])[0], naive)
        mine[place] = relative(errors(values, rows, run.made[rows, column, 1:])[0], naive)
    return Model(name, 1e6 * cpu_s, sum(len(rows) for rows in origins.values()), theirs, mine, refitted)


def geometric(
    found: Mapping[Place, Ratios | None], runs: Sequence[Run], minute: bool = False
) -> dict[str, float]:
    """Returns {h1, h5, h10, mean}, geometric means over the series that are judged; empty where none is.

    minute: only those with steps up to a minute.
    """
    judged = [
        ratios
        for place, ratios in found.items()
        if ratios is not None and not (minute and runs[place[0]].group.step_s > MINUTE_S)
    ]
    if not judged:
        return {}
    logs = {key: [np.log(max(ratios[key], EXACT)) for ratios in judged] for key in (*SHOWN, "mean")}
    return {key: round(float(np.exp(np.mean(values))), 4) for key, values in logs.items()}


def series_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns {name, step_s, rel_h1, rel_h5, rel_h10, rel, coverage90} per series; None: not judged."""
    rows = []
    for (number, column), ratios in ours(runs).items():
        run = runs[number]
        row: dict[str, Any] = {"name": run.group.names[column], "step_s": run.group.step_s}
        row |= {f"rel_{key}": ratios and round(ratios[key], 4) for key in SHOWN}
        covered = float(run.evaluation.coverage90[column, 1:].mean())
        rows.append(
            row | {"rel": ratios and round(ratios["mean"], 4), "coverage90": ratios and round(covered, 4)}
        )
    return rows
