"""Errors against the last value: per series, and as geometric means over series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from app.bench.forecast.ours import HORIZON, Run
from streams.core.forecast.profile import Floats

SHOWN = {"h1": 1, "h5": 5, "h10": 10}
"""Steps ahead that have a column of their own; `mean` is that over all ten."""


def relative(mae: Floats, naive: Floats) -> dict[str, float] | None:
    """Returns MAE / MAE of the last value at 1, 5, 10 steps, and the mean of all ten ratios.

    mae, naive: float64[horizon + 1]. None where the last value makes no error at some step ahead: a
    constant series, or none that was scored.
    """
    if not (naive[1:] > 0).all():
        return None
    ratios = mae[1:] / naive[1:]
    return {name: float(ratios[ahead - 1]) for name, ahead in SHOWN.items()} | {"mean": float(ratios.mean())}


def series_rows(run: Run) -> list[dict[str, Any]]:
    """Returns {name, step_s, rel_h1, rel_h5, rel_h10, rel, coverage90} per series; None: not judged."""
    done, rows = run.evaluation, []
    for number, name in enumerate(run.group.names):
        found = relative(done.mae[number], done.naive_mae[number])
        rows.append(
            {
                "name": name,
                "step_s": run.group.step_s,
                **{f"rel_{key}": found and round(found[key], 4) for key in SHOWN},
                "rel": found and round(found["mean"], 4),
                "coverage90": found and round(float(done.coverage90[number, 1 : HORIZON + 1].mean()), 4),
            }
        )
    return rows


def geometric(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns {h1, h5, h10, mean}: geometric means over the series that are judged; empty where none is."""
    judged = [row for row in rows if row["rel"] is not None]
    if not judged:
        return {}
    columns = {"h1": "rel_h1", "h5": "rel_h5", "h10": "rel_h10", "mean": "rel"}
    return {key: round(geometric_mean(row[name] for row in judged), 4) for key, name in columns.items()}


def geometric_mean(values: Iterable[float]) -> float:
    """Returns the geometric mean; an exact forecast counts as an error of a millionth."""
    return float(np.exp(np.mean(np.log(np.maximum(list(values), 1e-6)))))
