"""The targets, computed from rows: ratios within one run on one machine.

A ratio is the median of those of the runs: the machine may be faster in one run than in another, but what
is compared was measured within minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Row = Mapping[str, Any]
Field = Literal["requests_per_s", "cpu_us_per_request"]


@dataclass(frozen=True)
class Ratio:
    """A target for one variant's figure over another's, of the same message size."""

    measure: str
    field: Field
    variant: str
    against: str
    limit: float
    at_least: bool = True

    @property
    def target(self) -> str:
        """Returns the target as text."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


RATE: Field = "requests_per_s"
CPU: Field = "cpu_us_per_request"

RATIOS = (
    Ratio("throughput / Kafka Streams, exactly-once, 1 thread", RATE, "foreshard-eos", "streams-eos", 0.55),
    Ratio("CPU / Kafka Streams, exactly-once, 1 thread", CPU, "foreshard-eos", "streams-eos", 1.5, False),
    Ratio("throughput / Quix Streams, exactly-once", RATE, "foreshard-eos", "quix-eos", 2.5),
    Ratio("throughput / stock Faust", RATE, "foreshard-eos", "faust-alo", 25),
    Ratio("CPU / bare loop, exactly-once", CPU, "foreshard-eos", "bare-eos", 1.6, False),
    Ratio("CPU / bare loop, at-least-once", CPU, "foreshard-alo", "bare-alo", 1.6, False),
    Ratio("throughput, exactly-once / at-least-once", RATE, "foreshard-eos", "foreshard-alo", 0.9),
    Ratio("throughput, 5 % in handoff / none", RATE, "handoff-moving-eos", "handoff-none-eos", 0.8),
    Ratio("throughput, 4,096 shards / 256", RATE, "shards-4096-eos", "foreshard-eos", 0.9),
)

LATENCY_MS = {"p50": 15.0, "p99": 50.0}
"""Producer to read_committed consumer at 2,000 requests/s, milliseconds."""


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns {measure, size_bytes, target, measured, met} per target and size.

    Both None: not measured. Only `met` None: measured against a JVM that was not warm, which judges nothing.
    """
    found: list[dict[str, Any]] = []
    for size in sorted({row["size_bytes"] for row in rows}):
        by_name = {row["name"]: row for row in rows if row["size_bytes"] == size}
        found += [_ratio(ratio, size, by_name) for ratio in RATIOS]
        found += _latency(size, by_name.get("foreshard-eos", {}))
    return [entry for entry in found if entry["measured"] is not None or entry["size_bytes"] == _first(rows)]


def _first(rows: Sequence[Row]) -> int:
    """Returns the smallest size: all targets are meant to be measured with it."""
    return int(min(row["size_bytes"] for row in rows))


def _ratio(ratio: Ratio, size: int, by_name: Mapping[str, Row]) -> dict[str, Any]:
    one, other = (_runs(by_name.get(name), ratio.field) for name in (ratio.variant, ratio.against))
    pairs = list(zip(one, other, strict=False))
    measured = round(median(mine / theirs for mine, theirs in pairs), 3) if pairs else None
    met = None
    cold = by_name.get(ratio.against, {}).get("jit_warm") is False
    if measured is not None and not cold:
        met = measured >= ratio.limit if ratio.at_least else measured <= ratio.limit
    return _entry(ratio.measure, size, ratio.target, measured, met)


def _runs(row: Row | None, field: Field) -> list[float]:
    """Returns a figure of each run, in order."""
    return [] if row is None else [float(run[field]) for run in row["runs"]]


def _latency(size: int, row: Row) -> list[dict[str, Any]]:
    known = row.get("latency_ms") or {}
    return [
        _entry(
            f"latency {name} at 2,000 requests/s, exactly-once, ms",
            size,
            f"<= {limit:g}",
            known.get(name),
            known[name] <= limit if name in known else None,
        )
        for name, limit in LATENCY_MS.items()
    ]


def _entry(measure: str, size: int, target: str, measured: float | None, met: bool | None) -> dict[str, Any]:
    return {"measure": measure, "size_bytes": size, "target": target, "measured": measured, "met": met}
