"""AutoARIMA, AutoETS and AutoTheta of statsforecast, refitted at every origin on what came before it.

Usage: forecast.py IN.npz OUT.npz. IN: values.N (float64[steps], NaN = unknown) and origins.N (rows after
which a forecast is due) of series N, horizon, and context, the number of values that a fit may use. OUT: of
each model MODEL.paths.N (float64[origins, horizon]) and MODEL.cpu (float64[series], the process's seconds).

Without a season: a day of minutes is 1,440 steps, too long for any of the three.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from statsforecast.models import AutoARIMA, AutoETS, AutoTheta

MODELS = {"AutoARIMA": AutoARIMA, "AutoETS": AutoETS, "AutoTheta": AutoTheta}


def known(values: np.ndarray) -> np.ndarray:
    """Returns the values with unknown ones on the line between their neighbours."""
    there = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), there, values[there])


def path(name: str, before: np.ndarray, horizon: int) -> np.ndarray:
    """Returns the forecast of a fresh model; the last value where it cannot be fitted."""
    if before.min() == before.max():
        return np.full(horizon, before[-1])
    try:
        found = np.asarray(
            MODELS[name](season_length=1).forecast(y=before, h=horizon)["mean"], dtype=np.float64
        )
    except Exception as error:  # noqa: BLE001 - whatever a fit ends with, the others go on
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return np.full(horizon, before[-1])
    return np.maximum(np.where(np.isfinite(found), found, before[-1]), 0.0)


def main() -> None:
    """Forecasts every origin of every series with every model."""
    warnings.simplefilter("ignore")
    given = np.load(sys.argv[1])
    horizon, context = int(given["horizon"]), int(given["context"])
    series = sorted(int(name.partition(".")[2]) for name in given.files if name.startswith("values."))
    found: dict[str, np.ndarray] = {}
    for name in MODELS:
        path(name, np.sin(np.arange(60.0)) + 2.0, horizon)  # what compiles or loads at the first call
        spent = np.zeros(len(series))
        for number in series:
            values, origins = given[f"values.{number}"], given[f"origins.{number}"]
            began = time.process_time()
            paths = [path(name, known(values[max(0, at + 1 - context) : at + 1]), horizon) for at in origins]
            spent[number] = time.process_time() - began
            found[f"{name}.paths.{number}"] = np.array(paths)
        found[f"{name}.cpu"] = spent
        print(f"{name}: {spent.sum():.0f} s", file=sys.stderr)
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
