"""What forecasts look like: the last hours of three series, with what was forecast five steps before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.bench.forecast.ours import HORIZON, Run
from app.simulate.charts import new_figure

SHOWN_STEPS = 360
"""Steps that are drawn: 6 h of minutes."""


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws the series that is forecast best, the one in the middle, and the worst, to a PNG file.

    Raises ConfigError where matplotlib is missing.
    """
    places = [(run, column) for run in runs for column in range(len(run.group.names))]
    places.sort(key=lambda place: _error(*place))
    chosen = list(dict.fromkeys([0, len(places) // 2, len(places) - 1]))
    drawing = new_figure(11, 3 * len(chosen))
    for row, number in enumerate(chosen):
        run, column = places[number]
        known = np.flatnonzero(np.isfinite(run.group.values[:, column]))
        steps = np.arange(max(known[-1] - SHOWN_STEPS, HORIZON), known[-1] + 1)
        hours = (steps - steps[-1]) * run.group.step_s / 3600
        axes = drawing.add_subplot(len(chosen), 1, row + 1)
        axes.plot(hours, run.group.values[steps, column], color="0.6", linewidth=1, label="came")
        for ahead, colour in ((1, "tab:blue"), (HORIZON, "tab:orange")):
            made = run.made[steps - ahead, column, ahead]
            axes.plot(hours, made, color=colour, linewidth=1, label=f"forecast {ahead} before")
        title = f"{run.group.names[column]}: error {_error(run, column):.2f} of the last value's"
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylim(bottom=0)
    drawing.axes[0].legend(loc="lower left", fontsize="small", title="steps")
    drawing.axes[-1].set_xlabel("hours")
    drawing.savefig(path, dpi=110)


def _error(run: Run, column: int) -> float:
    """Returns the mean over all steps ahead of MAE / MAE of the last value."""
    return float(np.mean([run.evaluation.relative(column, ahead) for ahead in range(1, HORIZON + 1)]))
