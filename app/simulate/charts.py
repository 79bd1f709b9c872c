"""Figures of a simulation: load per cluster, moves and violations over time. Drawn by matplotlib."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import ConfigError
from streams.core.simulation.lanes import Lane
from streams.core.simulation.measures import Row
from streams.core.simulation.workload import BIN_S, Floats

MINUTES = 2
"""Figures are means or sums of so long."""
GROUP = round(60 * MINUTES / BIN_S)
MOST_MOVES = 500
"""Moves of one policy that the page lists."""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}"
)


def draw(lanes: Sequence[Lane], path: Path) -> None:
    """Writes the figure to a file whose ending says what it is: .png, .svg, .pdf."""
    figure = _figure(lanes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def page(lanes: Sequence[Lane], rows: Sequence[Row], facts: Sequence[str], path: Path) -> None:
    """Writes one HTML file with the facts, the figures of every policy, the chart, and the moves."""
    drawn = io.StringIO()
    _figure(lanes).savefig(drawn, format="svg")
    svg = drawn.getvalue()
    parts = [
        "<!doctype html><meta charset=utf-8>",
        f"<title>{html.escape(rows[0].scenario)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(rows[0].scenario)}</h1>",
        *(f"<p>{html.escape(fact)}</p>" for fact in facts),
        _table([one.to_json() for one in rows]),
        svg[svg.index("<svg") :],
        *(_moves(lane) for lane in lanes if lane.record.moves),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def _moves(lane: Lane) -> str:
    rows = [
        {
            "time": datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S"),
            "shard": move.shard,
            "from": move.source,
            "to": move.target,
            "slots": sum(stop - start for start, stop in move.slots),
            "% of all load": round(100 * part, 3),
            "because": move.reason.value,
        }
        for at, move, part in lane.record.moves[:MOST_MOVES]
    ]
    count = len(lane.record.moves)
    name = html.escape(f"{lane.policy.value}, rounds of {lane.round_s:g} s: {count} moves")
    return f"<details><summary>{name}</summary>{_table(rows)}</details>"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure of matplotlib, sizes in inches; ConfigError where that is missing."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional: only who draws needs it
    except ImportError:
        raise ConfigError(["drawing needs matplotlib: pip install 'foreshard[charts]'"]) from None
    return Figure(figsize=(width, height), layout="constrained")


def _figure(lanes: Sequence[Lane]) -> Any:
    """Returns the figure: load per cluster of every policy, then violations and moves of all."""
    figure = new_figure(13, 2.4 * (len(lanes) + 2))
    axes = figure.subplots(len(lanes) + 2, 1, sharex=True)
    for axis, lane in zip(axes, lanes, strict=False):
        load = _grouped(np.array(lane.record.load)) / GROUP
        axis.plot(_hours(len(load)), load, linewidth=0.8)
        axis.axhline(1.0, color="black", linewidth=0.6, linestyle="--")
        axis.set_ylim(0, max(1.3, min(2.0, float(load.max(initial=0.0)) * 1.05)))
        axis.set_title(f"load / capacity per cluster: {_name(lane)}", fontsize=10, loc="left")
    late, moves = axes[-2], axes[-1]
    for number, lane in enumerate(lanes):
        look = {"linewidth": 0.9, "color": f"C{number}", "label": _name(lane)}
        requests = np.maximum(_grouped(np.array(lane.record.requests)), 1e-9)
        share = 100 * _grouped(np.array(lane.record.late)) / requests
        late.plot(_hours(len(share)), share, **look)
        moves.plot(_hours(len(share)), _moves_by_time(lane, len(share)), **look)
    late.set_title("% of the requests that wait more than 1 s", fontsize=10, loc="left")
    moves.set_title(f"moves in {MINUTES} min", fontsize=10, loc="left")
    late.legend(fontsize=8)
    moves.set_xlabel("hours")
    return figure


def _moves_by_time(lane: Lane, count: int) -> Floats:
    """Returns float64[count]: moves in each group of bins."""
    begin = lane.work.time(lane.work.warm_bins)
    at = [int((time - begin) / (60 * MINUTES)) for time, *_ in lane.record.moves]
    found: Floats = np.bincount(np.array(at, dtype=np.int64), minlength=count)[:count].astype(np.float64)
    return found


def _name(lane: Lane) -> str:
    return lane.policy.value


def _grouped(values: Floats) -> Floats:
    """Returns the sums of whole groups of bins."""
    whole = len(values) // GROUP * GROUP
    sums: Floats = values[:whole].reshape(-1, GROUP, *values.shape[1:]).sum(axis=1)
    return sums


def _hours(count: int) -> Floats:
    hours: Floats = np.arange(count) * MINUTES / 60
    return hours
