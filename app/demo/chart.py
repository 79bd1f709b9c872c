"""The demo's report on the terminal: plain words, one table, one small chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.demo.report import WINDOW_S, Figures
from app.demo.traffic import FloatArray

BARS = " ▁▂▃▄▅▆▇█"
TOP = 1.25
"""Load / capacity at which a bar is full."""

WORDS = {
    "requests": "requests sent",
    "routed": "requests that a backend processed",
    "lost": "lost",
    "repeated": "processed more than once",
    "out_of_order": "behind a later request of their key (not promised yet)",
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
    console: Console, facts: Mapping[str, object], clusters: Sequence[str], passes: Sequence[Shown]
) -> None:
    """Prints what was run, the figures of all passes, and load / capacity over time."""
    console.print()
    for name, value in facts.items():
        console.print(f"  {name}: {value}", highlight=False)
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
