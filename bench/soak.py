"""Twenty minutes of the demo's load with a real balancer that moves slots: does memory stay flat?

    python -m bench.soak --minutes 20 --json bench/results/soak-<date>.json

Samples the resident memory of routers and balancer every 5 s. "First" are the five minutes after the
first one (buffers fill, forecasters and caches are made), "last" the last five of the load.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from app.demo import backends
from app.demo.generator import generate
from app.demo.one_pass import OnePass
from app.demo.report import count
from app.demo.traffic import DEFAULT_SEED
from app.local_kafka import local_kafka
from schemas.records import Mode

SAMPLE_S = 5.0
WARM_S = 60.0
"""Left out at the beginning."""
SPAN_S = 300.0
MOST_GROWTH = 0.05
TIME_SCALE = 10.0
ROLES = ("router", "balancer")


class MemorySampler:
    """Samples the resident bytes of our child processes by role, in a thread, until it is stopped."""

    def __init__(self) -> None:
        self.samples: dict[str, list[tuple[float, int]]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            for child in psutil.Process().children(recursive=True):
                try:
                    role = _role(child.cmdline())
                    if role:
                        self.samples.setdefault(role, []).append((time.time(), child.memory_info().rss))
                except psutil.Error:
                    continue


def _role(command: list[str]) -> str:
    """Returns "router 0", "balancer" and so on; "" for other processes."""
    if "app.cli" not in command:
        return ""
    verb = command[command.index("app.cli") + 1]
    if verb == "router":
        return f"router {command[command.index('--index') + 1]}"
    return verb if verb in ROLES else ""


def growth(samples: list[tuple[float, int]], begin: float, end: float) -> dict[str, float]:
    """Returns the mean MB of the first and the last span of the load, and how much more the last has."""
    first = [rss for at, rss in samples if begin + WARM_S <= at < begin + WARM_S + SPAN_S]
    last = [rss for at, rss in samples if end - SPAN_S <= at < end]
    before, after = statistics.fmean(first), statistics.fmean(last)
    return {
        "first_mb": round(before / 1e6, 1),
        "last_mb": round(after / 1e6, 1),
        "most_mb": round(max(rss for _, rss in samples) / 1e6, 1),
        "growth": round(after / before - 1, 4),
    }


def soak(minutes: float) -> dict[str, Any]:
    """Returns what a soak of so many minutes found: memory by process, and what the backends consumed."""
    seconds = int(minutes * 60)
    traffic = generate(seconds=seconds, time_scale=TIME_SCALE, seed=DEFAULT_SEED)
    capacity = backends.capacities(traffic.mean_cps)
    with (
        local_kafka(quiet=False) as kafka,
        tempfile.TemporaryDirectory() as folder,
        MemorySampler() as memory,
    ):
        one = OnePass(
            {"bootstrap.servers": kafka.bootstrap},
            traffic,
            capacity,
            TIME_SCALE,
            Mode.AUTO,
            Path(folder),
            _say,
        )
        outcome = one.run()
        figures = count(traffic, outcome)
    begin, end = outcome.begin, outcome.begin + outcome.seconds
    found = {role: growth(samples, begin, end) for role, samples in sorted(memory.samples.items())}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": minutes,
        "requests": len(traffic),
        "requests_per_s": round(len(traffic) / seconds),
        "moves": sum(len(decision.moves) for decision in outcome.decisions if decision.skip is None),
        "memory": found,
        "flat": all(row["growth"] < MOST_GROWTH for row in found.values()),
        "figures": asdict(figures),
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> None:
    """Runs the soak of the command line; exit status 1 where memory grows or a promise is broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = soak(given.minutes)
    text = json.dumps(found, indent=2)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)
    broken = found["figures"]["lost"] or found["figures"]["repeated"] or not found["flat"]
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
