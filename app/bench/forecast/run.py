"""The whole forecast bench, from files to the report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench.forecast.groups import grouped, usable
from app.bench.forecast.ours import run_ours
from app.bench.forecast.report import show
from app.bench.forecast.scores import geometric, series_rows
from app.bench.report import write
from app.bench.series_files import read_series
from schemas.errors import ConfigError

MINUTE_S = 60.0
"""Steps up to this are those of request rates in production; slower series are metrics."""


@dataclass(frozen=True)
class Order:
    """What is asked of the bench."""

    folder: Path
    json_path: Path | None
    command: str


def run_bench_forecast(order: Order) -> None:
    """Prints the report and writes it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    began = time.monotonic()
    found, unreadable = read_series(order.folder)
    series, unfit = usable(found)
    if not series:
        raise ConfigError(f"no series in {order.folder}: a file needs a time and a value in every line")
    runs = []
    for group in grouped(series):
        run = run_ours(group)
        runs.append(run)
        cost = 1e6 * run.cpu_s / run.series_steps
        console.print(f"{group.names[0]} and {len(group.names) - 1} more: {cost:.0f} us per series-step")
    rows = [row for run in runs for row in series_rows(run)]
    cpu_s = sum(run.cpu_s for run in runs)
    whole: dict[str, Any] = {
        "command": order.command,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "series": rows,
        "skipped": [{"name": one.name, "why": one.why} for one in [*unreadable, *unfit]],
        "geomean": {"foreshard": geometric(rows)},
        "geomean_minute": {"foreshard": geometric([row for row in rows if row["step_s"] <= MINUTE_S])},
        "cpu_us_per_step": round(1e6 * cpu_s / sum(run.series_steps for run in runs), 1),
    }
    if order.json_path is not None:
        write(order.json_path, whole)
    show(whole)
