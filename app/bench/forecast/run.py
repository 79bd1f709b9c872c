"""The whole forecast bench, from files to the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from app.bench.forecast.baselines import run_baselines
from app.bench.forecast.campaigns import MOST_DAYS, run_campaigns, world
from app.bench.forecast.chart import draw
from app.bench.forecast.groups import grouped, usable
from app.bench.forecast.ours import Run, run_ours
from app.bench.forecast.peers import Sample, run_peers
from app.bench.forecast.report import Results, report, show
from app.bench.forecast.scale import run_scale
from app.bench.report import write
from app.bench.series_files import Series, read_series
from schemas.errors import ForeshardError

FULL, QUICK = Sample(origins=20, days=6), Sample(origins=3, days=1)
QUICK_DAYS = 8.0
"""Days with campaigns of a quick run: the first three are without, and nine of a kind teach."""


@dataclass(frozen=True)
class Order:
    """What is asked of the bench."""

    folder: Path
    json_path: Path | None
    command: str
    quick: bool = False
    only_ours: bool = False
    """Neither peers nor campaigns: for who changes the forecaster."""
    png_path: Path | None = None
    """Draw some of the forecasts here."""
    jobs: int = 1
    """Processes of a peer at a time."""


def run_bench_forecast(order: Order) -> bool:
    """Prints the report and writes it; returns whether every peer that was asked for was there.

    Ours first, on a machine that does nothing else; then campaigns; then the peers, which take the longest.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    began = time.monotonic()
    found, unreadable = read_series(order.folder)
    series, unfit = usable(found)
    if not series:
        raise ForeshardError(f"no series in {order.folder}: a file needs a time and a value in every line")
    results = Results(_ours(series, console), skipped=[*unreadable, *unfit])
    if not order.only_ours:
        results = _campaigns(replace(results, scale=run_scale()), series, order.quick, console)
        console.print("peers ...")
        models, missing = run_peers(results.runs, QUICK if order.quick else FULL, order.jobs)
        results = replace(results, models=[*run_baselines(results.runs), *models], missing=missing)
    minutes = round((time.monotonic() - began) / 60, 1)
    whole = report(results) | {"command": order.command, "minutes": minutes}
    if order.json_path is not None:
        write(order.json_path, whole)
    if order.png_path is not None:
        draw(results.runs, order.png_path)
    show(whole)
    return not results.missing


def _ours(series: Sequence[Series], console: Console) -> list[Run]:
    runs = []
    for group in grouped(series):
        run = run_ours(group)
        runs.append(run)
        cost = 1e6 * run.cpu_s / run.series_steps
        console.print(f"{group.names[0]} and {len(group.names) - 1} more: {cost:.0f} us per series-step")
    return runs


def _campaigns(results: Results, series: Sequence[Series], quick: bool, console: Console) -> Results:
    """Returns the results with starts as announced, not announced, and announced wrong one by one."""
    days = QUICK_DAYS if quick else MOST_DAYS
    alike, each = world(series, True, days), world(series, False, days)
    if alike is None or each is None:
        console.print("campaigns: no series has steps of 30 or 60 s and is long enough")
        return results
    console.print(f"campaigns: {len(alike.campaigns)} on {alike.counts.shape[1]} series, three times ...")
    return replace(
        results,
        starts=run_campaigns(alike, announced=True),
        silent=run_campaigns(alike, announced=False),
        erratic=run_campaigns(each, announced=True),
    )
