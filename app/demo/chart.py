"""The demo's report on the terminal: plain words, one table, one small chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.demo.report import WARM_UP_S, WINDOW_S, Figures
from app.demo.traffic import FloatArray

BARS = " ▁▂▃▄▅▆▇█"
TOP = 1.25
"""Load / capacity at which a bar is full."""

WORDS = {
    "requests": "requests sent",
    "routed": "requests that a backend processed",
    "lost": "lost",
    "repeated": "processed more than once",
    "out_of_order": "processed after a later request of their key",
    "dead_letters": "dead letters",
    "violations_pct": "% that waited more than 1 s",
    "wait_p50_s": "median wait, s",
    "wait_p99_s": "99 % waited at most, s",
    "wait_max_s": "longest wait, s",
    "max_over_mean": "busiest cluster / mean, by capacity",
    "mean_utilisation": "mean use of all capacity",
    "plans": "plans that changed the mapping",
    "plans_with_drifts": "... of them with a drift",
    "drifts": "moves away from home, or on",
    "returns": "moves back home",
    "rounds": "rounds of the balancer",
    "forecast_rel": "forecast error / error of the last value, 5 min ahead",
    "producer_late_max_s": "the producer was late by at most, s",
    "not_delivered": "requests that the producer could not store",
}
"""Every figure in plain words, in the order of the table."""


@dataclass(frozen=True)
class Shown:
    """One pass as it is shown."""

    mode: str
    figures: Figures
    load: FloatArray
    """float64[clusters, windows]: load / capacity."""


def show(
    console: Console, facts: Mapping[str, Any], clusters: Sequence[str], passes: Sequence[Shown]
) -> None:
    """Prints what was run, the figures of all passes, and load / capacity over time."""
    console.print()
    for sentence in sentences(facts):
        console.print(sentence, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for shown in passes:
        table.add_column(shown.mode, justify="right")
    rows = [asdict(shown.figures) for shown in passes]
    for name, words in WORDS.items():
        table.add_row(words, *(_cell(row[name]) for row in rows))
    console.print()
    console.print(table)
    console.print(f"\nload / capacity in windows of {WINDOW_S:.0f} s (full bar: {TOP:g}; red: over 1)")
    for shown in passes:
        console.print(f"[bold]{shown.mode}[/bold]")
        for name, row in zip(clusters, shown.load, strict=True):
            console.print(Text.assemble(f"  {name:<10}", _bars(row), f"  max {row.max():.2f}"))
    console.print()
    for sentence in conclusions(passes):
        console.print(sentence, markup=False)


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Returns what was run, in words: load, history, backends, campaign, settings."""
    source = f"{facts['source']} (seed {facts['seed']})"
    if "k" in facts:
        source += (
            f", window from {facts['window_from']}: {facts['recorded']:,} recorded requests, "
            f"each replayed {facts['k']} times"
        )
    sizes = ", ".join(f"{name} {size:g}" for name, size in facts["capacity_per_wall_s"].items())
    campaign = facts["campaign"]
    announced = "announced" if campaign["announced"] else "not announced"
    return [
        f"Load: {facts['requests']:,} requests in {facts['seconds']} s from {source}. Model time runs "
        f"{facts['time_scale']:g} times as fast: {facts['window_s']:,.0f} s of it.",
        f"History: {facts['history_steps']:,} steps ({facts['history_days']:g} days, "
        f"{facts['history_requests']:,} requests), which the balancer read at its start.",
        f"Backends: {sizes} cost units/s; planned mean utilisation {facts['planned_utilisation']:g}.",
        f"Campaign, {announced}: {campaign['requests_per_wall_s']:g} requests/s more on "
        f"{campaign['keys']} keys from {campaign['from_s']:g} to {campaign['to_s']:g} s.",
        f"Settings as shipped but dwell_s = {facts['dwell_s']:g}: moved shards may go home after "
        f"{facts['dwell_s'] / facts['time_scale']:g} s on the wall. "
        f"Waits count from second {WARM_UP_S:g} on.",
    ]


def conclusions(passes: Sequence[Shown]) -> list[str]:
    """Returns one sentence per pass: what became of the requests, and how many had to wait."""
    done = {"auto": "Balanced", "observe": "Only observed"}
    return [
        f"{done.get(shown.mode, shown.mode)}: {shown.figures.routed:,} requests processed, "
        f"{shown.figures.lost} lost, {shown.figures.repeated} repeated; "
        f"{shown.figures.violations_pct:.2f} % waited more than 1 s."
        for shown in passes
    ]


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _bars(row: FloatArray) -> Text:
    text = Text()
    for value in row:
        level = min(len(BARS) - 1, max(0, round(value / TOP * (len(BARS) - 1))))
        text.append(BARS[level] * 2, style="red" if value > 1 else "green")
    return text
