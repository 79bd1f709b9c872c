"""Rows from measures, their JSON and their table."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench.throughput import Measure
from app.bench.variants import Variant

Row = dict[str, Any]


def row(variant: Variant, size_bytes: int, runs: list[Measure]) -> Row:
    """Returns the row of a variant: medians of its runs."""
    return {
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


def add_ratios(rows: list[Row]) -> None:
    """Fills `ratio_to_bare`: throughput against the bare loop of the same guarantee and size."""
    bare = {
        (r["guarantee"], r["size_bytes"]): r["requests_per_s"]
        for r in rows
        if r["name"].startswith("bare") and "requests_per_s" in r
    }
    for r in rows:
        against = bare.get((r["guarantee"], r["size_bytes"]))
        if against and "requests_per_s" in r:
            r["ratio_to_bare"] = round(r["requests_per_s"] / against, 3)


def show(rows: list[Row]) -> None:
    """Prints the rows."""
    table = Table()
    columns = ("variant", "guarantee", "size_bytes", "threads", "requests_per_s", "cpu_us_per_request")
    for column in (*columns, "ratio_to_bare", "rss_mb"):
        table.add_column(column.replace("_", " "), justify="right" if column not in columns[:2] else "left")
    for r in rows:
        table.add_row(*(str(r.get(column, "")) for column in (*columns, "ratio_to_bare", "rss_mb")))
    Console().print(table)
