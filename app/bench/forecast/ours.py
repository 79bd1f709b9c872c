"""Our forecaster on a group of series: its errors, every forecast it made, and its CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from app.bench.forecast.groups import Group
from streams.core.forecast import Evaluation, Forecaster, evaluate
from streams.core.forecast.profile import Floats, Ints

HORIZON = 10


class Recorded(Forecaster):
    """The forecaster, with the CPU seconds of learning and forecasting, and what it forecast."""

    def __init__(self, series: int, step_s: float) -> None:
        super().__init__(series, step_s, HORIZON)
        self.cpu_s = 0.0
        self.made: list[Floats] = []
        """Per step float[series, horizon + 1]."""

    def learn(self, index: int, values: Floats) -> None:
        """Learns a step, timed."""
        began = time.process_time()
        super().learn(index, values)
        self.cpu_s += time.process_time() - began

    def forecast(self) -> Floats:
        """Returns the forecast, timed and kept."""
        began = time.process_time()
        path = super().forecast()
        self.cpu_s += time.process_time() - began
        self.made.append(path)
        return path


@dataclass(frozen=True)
class Run:
    """What came of one group."""

    group: Group
    evaluation: Evaluation
    made: Floats
    """float64[steps, series, horizon + 1]: the forecasts issued at every step."""
    cpu_s: float
    """Of learning and forecasting, all steps and series."""

    @property
    def series_steps(self) -> int:
        """Steps with a value, over all series."""
        return int(np.isfinite(self.group.values).sum())

    def origins(self, column: int) -> Ints:
        """Returns the rows of a series whose forecasts are scored: they have a value, and a later one."""
        known = np.isfinite(self.group.values[:, column])
        rows = np.flatnonzero(known)
        scored: Ints = rows[(rows >= self.group.skip[column]) & (rows < rows[-1])]
        return scored


def run_ours(group: Group) -> Run:
    """Returns the prequential run of our forecaster over the group."""
    forecaster = Recorded(len(group.names), group.step_s)
    evaluation = evaluate(forecaster, group.first, group.values, group.skip)
    return Run(group, evaluation, np.stack(forecaster.made), forecaster.cpu_s)
