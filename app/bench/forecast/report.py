"""The forecast bench's JSON and tables."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from app.bench.forecast.campaigns import Starts
from app.bench.forecast.ours import Run
from app.bench.forecast.scale import Scale
from app.bench.forecast.scores import Model, geometric, ours, series_rows
from app.bench.forecast.targets import Measured, targets
from app.bench.machine import forecast_versions, machine
from app.bench.report import targets_table, wide_console
from app.bench.series_files import Skipped

OURS = "foreshard"
MEANS = ("h1", "h5", "h10", "mean")


@dataclass(frozen=True)
class Results:
    """What was measured; None: not asked for, or no series is fit for it."""

    runs: Sequence[Run]
    skipped: Sequence[Skipped] = ()
    models: Sequence[Model] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    scale: Scale | None = None
    starts: Starts | None = None
    """Campaigns announced by kinds whose word is wrong in a way of its own."""
    silent: Starts | None = None
    """The same without announcements."""
    erratic: Starts | None = None
    """Announcements that are wrong each in its own way."""


def report(results: Results) -> dict[str, Any]:
    """Returns date, machine, versions, series, means, peers, campaigns, cost and targets."""
    runs = results.runs
    rows = series_rows(runs)
    cpu_us = 1e6 * sum(run.cpu_s for run in runs) / sum(run.series_steps for run in runs)
    means = {"all": _means(results, minute=False), "minute": _means(results, minute=True)}
    measured = Measured(
        runs,
        rows,
        results.models,
        {key: found[OURS] for key, found in means.items()},
        cpu_us,
        results.scale,
        results.starts,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": forecast_versions(),
        "series": rows,
        "skipped": [{"name": one.name, "why": one.why} for one in results.skipped],
        "geomean": means["all"],
        "geomean_minute": means["minute"],
        "peers": [_peer(model, runs) for model in results.models],
        "missing": dict(results.missing),
        "campaign_wape": results.starts and results.starts.came.wape,
        "campaigns": {
            name: _starts(starts)
            for name, starts in (
                ("announced", results.starts),
                ("not announced", results.silent),
                ("announced, each wrong in its own way", results.erratic),
            )
            if starts is not None
        },
        "cpu_us_per_step": round(cpu_us, 1),
        "scale": results.scale
        and {"series": results.scale.series, "step_cpu_s": round(results.scale.step_cpu_s, 3)},
        "targets": targets(measured),
    }


def _means(results: Results, minute: bool) -> dict[str, dict[str, float]]:
    """Returns the geometric means of every model; ours is over all steps, a peer's over its origins."""
    found = {OURS: geometric(ours(results.runs), results.runs, minute)}
    return found | {model.name: geometric(model.relative, results.runs, minute) for model in results.models}


def _peer(model: Model, runs: Sequence[Run]) -> dict[str, Any]:
    """Returns a peer's figures beside ours at the same origins."""
    return {
        "name": model.name,
        "origins": model.origins,
        "cpu_us_per_step": round(model.cpu_us_per_step, 1),
        "mean": geometric(model.relative, runs).get("mean"),
        "ours_mean": geometric(model.ours, runs).get("mean"),
        "mean_minute": geometric(model.relative, runs, minute=True).get("mean"),
        "ours_mean_minute": geometric(model.ours, runs, minute=True).get("mean"),
    }


def _starts(starts: Starts) -> dict[str, float | None]:
    sums = {"wape": starts.came, "wape_first_9": starts.first, "wape_cancelled": starts.cancelled}
    sums["wape_with_headroom"] = starts.planner
    return {name: None if one.wape is None else round(one.wape, 4) for name, one in sums.items()}


# ---------------------------------------------------------------------------- tables


def show(whole: Mapping[str, Any]) -> None:
    """Prints series, means, peers, campaigns, targets, and what was left out."""
    console = wide_console()
    console.print(_series_table(whole["series"]))
    for title, key in (("all series", "geomean"), ("steps up to a minute", "geomean_minute")):
        console.print(_means_table(title, whole[key]))
    if whole["peers"]:
        console.print(_peers_table(whole["peers"]))
    for name, wapes in whole["campaigns"].items():
        console.print(
            f"campaigns {name}: " + ", ".join(f"{what} {_figure(value)}" for what, value in wapes.items())
        )
    console.print(targets_table(whole["targets"], {"series": "series"}))
    for what in ("skipped", "missing"):
        found = whole[what]
        listed = found.items() if isinstance(found, Mapping) else ((one["name"], one["why"]) for one in found)
        for name, why in listed:
            console.print(f"{what}: {name}: {why}", markup=False)


def _series_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    caption = "MAE / MAE of the last value, below 1 is better; part of what came within the 90 % interval"
    table = _table("", ("series", "step s", *MEANS, "coverage"), caption)
    for row in rows:
        figures = (row[name] for name in ("rel_h1", "rel_h5", "rel_h10", "rel", "coverage90"))
        table.add_row(row["name"], f"{row['step_s']:g}", *map(_figure, figures))
    return table


def _means_table(title: str, models: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table(f"{title}: geometric means", ("model", *MEANS))
    for model, means in models.items():
        table.add_row(model, *(_figure(means.get(key)) for key in MEANS))
    return table


def _peers_table(peers: Sequence[Mapping[str, Any]]) -> Table:
    headings = ("peer", "origins", "CPU us", "mean", "ours there", "minute", "ours there")
    table = _table("peers beside ours at the same origins", headings)
    for row in peers:
        figures = (row[name] for name in ("mean", "ours_mean", "mean_minute", "ours_mean_minute"))
        table.add_row(
            row["name"], f"{row['origins']:,}", f"{row['cpu_us_per_step']:,.1f}", *map(_figure, figures)
        )
    return table


def _table(title: str, headings: Sequence[str], caption: str = "") -> Table:
    table = Table(title=title or None, caption=caption or None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
