"""The forecast bench's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench.report import WIDTH


def show(whole: Mapping[str, Any]) -> None:
    """Prints series, means, and what was left out."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(_series_table(whole["series"]))
    for title, key in (("all series", "geomean"), ("steps up to 1 min", "geomean_minute")):
        console.print(_means_table(title, whole[key]))
    console.print(f"CPU of learning and forecasting one step of one series: {whole['cpu_us_per_step']} us")
    for one in whole["skipped"]:
        console.print(f"left out: {one['name']}: {one['why']}", markup=False)


def _series_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(caption="MAE / MAE of the last value, below 1 is better; part within the 90 % interval")
    for heading in ("series", "step s", "h1", "h5", "h10", "mean", "coverage"):
        table.add_column(heading, justify="left" if heading == "series" else "right", no_wrap=True)
    for row in rows:
        figures = (row[name] for name in ("rel_h1", "rel_h5", "rel_h10", "rel", "coverage90"))
        table.add_row(row["name"], f"{row['step_s']:g}", *map(_figure, figures))
    return table


def _means_table(title: str, models: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{title}: geometric means")
    for heading in ("model", "h1", "h5", "h10", "mean"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for model, means in models.items():
        table.add_row(model, *(_figure(means.get(key)) for key in ("h1", "h5", "h10", "mean")))
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
