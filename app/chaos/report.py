"""What a run found, as JSON and as a few lines for the reader at the terminal."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import confluent_kafka
import psutil

from app.chaos.judge import Verdict
from app.chaos.scrape import HOLD, UNPROVEN, Scraper, quantile
from app.chaos.settings import Chaos

GIB = 1 << 30


@dataclass
class Outcome:
    """A run that is over."""

    chaos: Chaos
    verdict: Verdict
    kills: int
    mapping_changes: int
    seconds: float
    waiting: int
    """Requests that routers had not forwarded at the end; 0 when the run ended as it should."""
    behind: int
    """Partitions of clusters whose group had not come to the end."""
    settled_s: float | None
    """Seconds from the last request forwarded until every partition had settled the last mapping version;
    None where it did not in the time allowed."""
    timeline: list[dict[str, Any]]
    broker: str
    markers_skipped: int | None
    """Transaction markers that the broker left out; None where its log cannot be read."""

    @property
    def finished(self) -> bool:
        """Whether everything was consumed in the time allowed."""
        return not self.waiting and not self.behind

    @property
    def good(self) -> bool:
        """Whether every promise was kept, in a run that shows it."""
        allowed = self.chaos.guarantee == "at-least-once"
        verdict = self.verdict
        kept = not (verdict.broken if not allowed else verdict.lost or verdict.out_of_order)
        return kept and not verdict.void and self.finished


def as_json(outcome: Outcome, scraper: Scraper) -> dict[str, Any]:
    """Returns the report."""
    verdict = outcome.verdict
    holds = scraper.buckets(HOLD)
    return {
        "requests": outcome.chaos.requests,
        "kills": outcome.kills,
        "mapping_changes": outcome.mapping_changes,
        "lost": verdict.lost,
        "repeated": verdict.repeated,
        "out_of_order": verdict.out_of_order,
        "misplaced": verdict.misplaced,
        "altered": verdict.altered,
        "phantom": verdict.phantom,
        "unprocessed": verdict.unprocessed,
        "not_stored": verdict.not_stored,
        "processed_again": verdict.processed_again,
        "dead_letters": verdict.dead_letters,
        "held": int(max(holds.values(), default=0)) if holds else None,
        "hold_p50_s": _rounded(quantile(holds, 0.50)),
        "hold_p99_s": _rounded(quantile(holds, 0.99)),
        "order_unproven": scraper.total(UNPROVEN),
        "settled_s": _rounded(outcome.settled_s),
        "markers_skipped": outcome.markers_skipped,
        "seed": outcome.chaos.seed,
        "rule": outcome.chaos.rule,
        "mapping": outcome.chaos.mapping,
        "guarantee": outcome.chaos.guarantee,
        "seconds": round(outcome.seconds, 1),
        "finished": outcome.finished,
        "versions": versions(outcome.broker),
        "machine": machine(),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "failures": outcome.timeline,
    }


def versions(broker: str) -> dict[str, str]:
    """Returns what was run with what."""
    return {
        "foreshard": version("foreshard"),
        "python": platform.python_version(),
        "confluent_kafka": version("confluent-kafka"),
        "librdkafka": str(confluent_kafka.libversion()[0]),
        "broker": broker,
    }


def machine() -> dict[str, Any]:
    """Returns what the run had to share between all its processes."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
    }


def sentences(report: dict[str, Any]) -> Iterator[str]:
    """Yields the report for a reader."""
    yield (
        f"{report['requests']:,} requests, {report['kills']} kills, {report['mapping_changes']} mapping "
        f"changes in {report['seconds']:.0f} s (seed {report['seed']}, rule {report['rule']})"
    )
    yield (
        f"lost {report['lost']}, repeated {report['repeated']}, out of order {report['out_of_order']}; "
        f"dead letters {report['dead_letters']}, misplaced {report['misplaced']}"
    )
    if report["held"]:
        yield (
            f"{report['held']:,} slots held requests: p50 {report['hold_p50_s']} s, "
            f"p99 {report['hold_p99_s']} s; order unproven {report['order_unproven']}"
        )
    for name, meaning in {
        "altered": "forwarded with another key, value, header or timestamp",
        "phantom": "processed by a backend, but not visible",
        "unprocessed": "visible, but written down by no backend: the run proves nothing",
        "not_stored": "missing or twice in the ingest topic: the run proves nothing",
    }.items():
        if report[name]:
            yield f"{name} {report[name]}: {meaning}"
    if report["markers_skipped"]:
        yield (
            f"the broker left out {report['markers_skipped']} transaction markers: what is lost or "
            "repeated is not the routers' doing (app/chaos/broker_log.py says more)"
        )
    if report["settled_s"] is None:
        yield "some slots are in motion still: their handoff did not end"
    if not report["finished"]:
        yield "not everything was consumed in the time allowed"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
