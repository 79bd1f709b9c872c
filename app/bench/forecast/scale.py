"""What one step costs with as many series as a large deployment has."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from app.bench.forecast.ours import HORIZON
from streams.core.forecast import Forecaster

WARM_STEPS = 45
"""Steps before it counts: 30 gather, 10 pass until the first forecast of the horizon is checked."""
COUNTED_STEPS = 5


@dataclass(frozen=True)
class Scale:
    """CPU seconds of one step, all series: the median of a few."""

    series: int
    step_cpu_s: float


def run_scale(series: int = 4000) -> Scale:
    """Returns the CPU of learning and forecasting one step of so many series."""
    forecaster, rng = Forecaster(series, 30.0, HORIZON), np.random.default_rng(1)
    mean = np.exp(rng.uniform(1.0, 8.0, series))
    spent = []
    for step in range(WARM_STEPS + COUNTED_STEPS):
        values = rng.poisson(mean * (1.2 + np.sin(step / 20.0))).astype(np.float64)
        began = time.process_time()
        forecaster.learn(step, values)
        forecaster.forecast()
        spent.append(time.process_time() - began)
    return Scale(series, float(np.median(spent[WARM_STEPS:])))
