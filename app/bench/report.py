"""Rows from measures, their JSON and their tables."""

from __future__ import annotations

import datetime
import json
import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench.latency import Phase
from app.bench.machine import machine, versions
from app.bench.targets import targets
from app.bench.throughput import Measure
from app.bench.variants import WARM_JIT, Variant

Row = dict[str, Any]

QUIET_LOAD = 0.5
"""Load average above which a machine is not quiet."""

SIGNS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
WIDTH = 200
"""Columns where the output is no terminal."""


@dataclass
class Results:
    """What has been measured so far; names are those of variants."""

    measures: dict[tuple[str, int], list[Measure]] = field(default_factory=dict)
    """By variant and message size."""
    latency: dict[str, list[Phase]] = field(default_factory=dict)
    """At the low rate, then at a share of the variant's own maximum."""
    latency_floor_ms: dict[str, float] = field(default_factory=dict)
    """Producer to consumer without a router between them."""
    missing: dict[str, str] = field(default_factory=dict)
    """Variants whose environment could not be made, with the reason."""
    failed: dict[str, str] = field(default_factory=dict)
    """Variants that did not do the work, or ended, with the reason."""

    def add(self, variant: Variant, size_bytes: int, measure: Measure) -> None:
        """Adds one run."""
        self.measures.setdefault((variant.name, size_bytes), []).append(measure)

    def rate(self, variant: Variant, size_bytes: int) -> float | None:
        """Returns the median throughput, None where there is none."""
        runs = self.measures.get((variant.name, size_bytes))
        return statistics.median(run.requests_per_s for run in runs) if runs else None


def report(results: Results, variants: Sequence[Variant], sizes: Sequence[int]) -> dict[str, Any]:
    """Returns date, machine, versions, rows, targets, and the variants that are not in the rows."""
    rows = [
        _row(variant, size, results)
        for size in sizes
        for variant in variants
        if (variant.name, size) in results.measures
    ]
    add_ratios(rows)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
        "latency_floor_ms": results.latency_floor_ms,
        "missing": results.missing,
        "failed": results.failed,
        "targets": targets(rows) if rows else [],
    }


def _row(variant: Variant, size_bytes: int, results: Results) -> Row:
    """Returns the row of a variant: medians of its runs."""
    runs = results.measures[variant.name, size_bytes]
    row: Row = {
        "name": variant.name,
        "variant": variant.title,
        "guarantee": variant.guarantee,
        "size_bytes": size_bytes,
        "threads": max(run.threads for run in runs),
        "requests_per_s": round(statistics.median(run.requests_per_s for run in runs)),
        "cpu_us_per_request": round(statistics.median(run.cpu_us for run in runs), 2),
        "ratio_to_bare": None,
        "rss_mb": round(max(run.rss_mb for run in runs)),
        "runs": [
            {"requests_per_s": round(run.requests_per_s), "cpu_us_per_request": round(run.cpu_us, 2)}
            for run in runs
        ],
    }
    if variant.family == "streams":
        row["jit_warm"] = min(run.skipped for run in runs) >= WARM_JIT.skip
    shares = [run.in_handoff for run in runs if run.in_handoff is not None]
    if shares:
        row["in_handoff"] = {
            "of_slots_in_use": round(statistics.median(share.of_used for share in shares), 4),
            "of_all_slots": round(statistics.median(share.of_all for share in shares), 4),
        }
    for name, phase in zip(LATENCIES, _phases(variant, size_bytes, results), strict=False):
        row[name] = phase.latency_ms | {
            "requests_per_s": round(phase.requests_per_s),
            "counted": phase.counted,
            "kept_up": phase.kept_up,
        }
    return row


def _phases(variant: Variant, size_bytes: int, results: Results) -> list[Phase]:
    """Returns the latencies that belong to the row: they are measured with the smallest size."""
    smallest = min(size for _, size in results.measures)
    return results.latency.get(variant.name, []) if size_bytes == smallest else []


def cautions(variants: Sequence[Variant], messages: int, load: float) -> list[str]:
    """Returns why the figures may not mean what they seem to; `load`: the load average before."""
    found = []
    java = any(variant.family == "streams" for variant in variants)
    if java and WARM_JIT.within(messages).skip < WARM_JIT.skip:
        found.append(
            f"{messages:,} messages are too few to warm up a JVM: figures of Kafka Streams are too low; "
            f"it takes {WARM_JIT.until:,}"
        )
    if load > QUIET_LOAD:
        found.append(f"the machine was busy before the first run: load average {load:.1f}")
    return found


def add_ratios(rows: list[Row]) -> None:
    """Fills `ratio_to_bare`: throughput against the bare loop of the same guarantee and size."""
    bare = {
        (row["guarantee"], row["size_bytes"]): row["requests_per_s"]
        for row in rows
        if row["name"] in ("bare-eos", "bare-alo")
    }
    for row in rows:
        against = bare.get((row["guarantee"], row["size_bytes"]))
        if against:
            row["ratio_to_bare"] = round(row["requests_per_s"] / against, 3)


def write(path: Path, whole: dict[str, Any]) -> None:
    """Writes the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=2) + "\n")


# ---------------------------------------------------------------------------- tables

COLUMNS = {
    "variant": "variant",
    "guarantee": "guarantee",
    "size_bytes": "bytes",
    "requests_per_s": "requests/s",
    "cpu_us_per_request": "CPU us",
    "ratio_to_bare": "to bare",
    "rss_mb": "RSS MB",
    "threads": "threads",
}
"""Fields of a row and their headings."""
LATENCIES = {"latency_ms": "at 2 k/s", "latency_at_70_percent": "at 70 %"}


def wide_console() -> Console:
    """Returns a console on stdout that cuts no table where the output is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def show(whole: dict[str, Any]) -> None:
    """Prints rows, targets, and what is not there."""
    console = wide_console()
    console.print(_rows_table(whole["rows"]))
    console.print(targets_table(whole["targets"], {"size_bytes": "bytes"}))
    for row in whole["rows"]:
        if "in_handoff" in row:
            used = row["in_handoff"]["of_slots_in_use"]
            console.print(f"{row['variant']}: in handoff {used:.1%} of the slots that requests come to")
    if whole["latency_floor_ms"]:
        console.print(f"latency without a router, ms: {whole['latency_floor_ms']}", markup=False)
    for caution in whole["cautions"]:
        console.print(f"caution: {caution}", markup=False)
    for what in ("missing", "failed"):
        for name, reason in whole[what].items():
            console.print(f"{what}: {name}: {reason}", markup=False)


def _rows_table(rows: Sequence[Row]) -> Table:
    table = Table(caption="latency: ms, p50 / p99 / p99.9; * = it did not keep up with the rate")
    for heading in COLUMNS.values():
        left = heading in ("variant", "guarantee")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for heading in LATENCIES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(row[name]) for name in COLUMNS]
        table.add_row(*cells, *(_latency_cell(row.get(name)) for name in LATENCIES))
    return table


def judged(measure: str, sign: str, limit: float, measured: float | None) -> Row:
    """Returns a target with what was measured, to 4 digits, and whether it is met; None where it was not."""
    met = None if measured is None else bool(SIGNS[sign](measured, limit))
    shown = None if measured is None else round(measured, 4) if measured < float("inf") else None
    return {"measure": measure, "target": f"{sign} {limit:g}", "measured": shown, "met": met}


def targets_table(found: Sequence[Row], where: Mapping[str, str] = MappingProxyType({})) -> Table:
    """Returns the table of targets; `where`: field -> heading of what tells alike measures apart."""
    table = Table(title="targets")
    for heading in ("measure", *where.values(), "target", "measured", "met"):
        table.add_column(heading, justify="left" if heading == "measure" else "right", no_wrap=True)
    for entry in found:
        met = {True: "yes", False: "NO", None: "-"}[entry["met"]]
        cells = (entry["measure"], *(entry[name] for name in where), entry["target"], entry["measured"])
        table.add_row(*map(_cell, cells), met)
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _latency_cell(latency: Row | None) -> str:
    if latency is None:
        return "-"
    text = " / ".join(f"{latency[name]:,.1f}" for name in ("p50", "p99", "p999"))
    return text if latency["kept_up"] else text + " *"
