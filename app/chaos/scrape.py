"""What routers say of themselves: their metrics every second, kept past the death of each process."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

INTERVAL_S = 1.0
TIMEOUT_S = 0.5
"""A stopped process answers nothing; the next one must not wait for it."""
HOLD = "foreshard_router_hold_seconds"
UNPROVEN = "foreshard_router_order_unproven_requests"

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks our own processes without any proxy that the environment names."""

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels."""


class Scraper:
    """A thread that reads /metrics of the processes it is given; `last` holds each one's newest values.

    A process is known by its log, whose first line names its address: every incarnation has its own.
    """

    def __init__(self) -> None:
        self._logs: list[Path] = []
        self.last: dict[Path, Mapping[Sample, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrape", daemon=True)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)

    def watch(self, logs: Iterable[Path]) -> None:
        """Replaces the processes that are read."""
        self._logs = list(logs)

    def read(self) -> None:
        """Reads all once more."""
        for log in self._logs:
            text = _get(log, "/metrics")
            if text:
                self.last[log] = samples(text)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.read()

    def total(self, name: str) -> float | None:
        """Returns the sum over all processes of a counter; None where none has it."""
        found = [
            value
            for values in self.last.values()
            for (sample, _), value in values.items()
            if sample == f"{name}_total"
        ]
        return sum(found) if found else None

    def buckets(self, name: str) -> dict[float, float]:
        """Returns a histogram's cumulative counts by upper bound, all processes together."""
        merged: dict[float, float] = {}
        for values in self.last.values():
            for (sample, labels), value in values.items():
                if sample == f"{name}_bucket":
                    bound = float(dict(labels)["le"])
                    merged[bound] = merged.get(bound, 0.0) + value
        return dict(sorted(merged.items()))


def ready(log: Path) -> bool:
    """Returns whether the router with this log says that it routes."""
    return bool(_get(log, "/readyz"))


def samples(text: str) -> dict[Sample, float]:
    """Returns every sample of a page in Prometheus text."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def quantile(buckets: Mapping[float, float], part: float) -> float | None:
    """Returns the value below which `part` of the observations lie; None without any.

    Linear within a bucket, as Prometheus does it: 10 observations, all in (0.1, 0.25], p50 = 0.175.
    What lies over the highest bound counts as that bound.
    """
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    below, bound_before = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= part * total and count > below:
            if bound == float("inf"):
                return bound_before
            return bound_before + (bound - bound_before) * (part * total - below) / (count - below)
        below, bound_before = count, bound
    return bound_before


def _get(log: Path, path: str) -> str:
    """Returns a page of the process with this log; empty where it does not answer with 200."""
    found = re.search(r"^router \S+ on (http://\S+)", log.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        return ""
    try:
        with _DIRECT.open(found[1] + path, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
