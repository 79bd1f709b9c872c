"""Do forecasts and announcements save waits in the whole system, processes and broker included?

    python -m bench.closed_loop --seeds 1,2,3,4,5 --json bench/results/closed-loop-<date>.json

Per seed three demos of one pass on the same traffic and broker, in an order that rotates: the campaign
announced, the campaign withheld, and the balancer told to plan on measurements alone. In real time, with a
campaign of half the other load that is there within seconds and known 36 s before: on a milder one, or with
the clock twice as fast, a balancer that only measures is in time as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.bench.machine import machine
from app.bench.report import judged, targets_table, wide_console, write
from app.local_kafka import local_kafka

VARIANTS = {"announced": (), "withheld": ("--withhold-event",), "reactive": ("--policy", "reactive")}
LEAST_WITHHELD_PCT = 0.5
"""With less the load would be no test of anything."""
MOST_OF_WITHHELD = 0.5
SHOWN = ("violations_pct", "wait_p99_s", "wait_max_s", "plans", "drifts", "lost", "repeated", "out_of_order")

Row = dict[str, Any]


def run(
    seconds: int, time_scale: float, campaign_share: float, seeds: Sequence[int], json_path: Path | None
) -> dict[str, Any]:
    """Returns what all demos came to; writes it after each."""
    rows: list[Row] = []
    names = list(VARIANTS)
    facts = {"seconds": seconds, "time_scale": time_scale, "campaign_share": campaign_share}
    options = [text for name, value in facts.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with local_kafka(quiet=False) as kafka, tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"KAFKA_BOOTSTRAP": kafka.bootstrap}
        for number, seed in enumerate(seeds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                file = Path(folder) / f"{name}-{seed}.json"
                figures = _demo([*options, *VARIANTS[name], "--seed", str(seed)], environment, file)
                rows.append({"variant": name, "seed": seed} | figures)
                sys.stderr.write(f"{rows[-1]}\n")
                whole = _report(rows, facts)
                if json_path is not None:
                    write(json_path, whole)
    return whole


def _demo(options: Sequence[str], environment: dict[str, str], file: Path) -> Row:
    command = [sys.executable, "-m", "app.cli", "demo", "--passes", "auto", "--json", str(file), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    figures = json.loads(file.read_text())["passes"]["auto"]
    return {field: figures[field] for field in SHOWN}


def _report(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    means = {
        name: statistics.fmean(row["violations_pct"] for row in rows if row["variant"] == name)
        for name in VARIANTS
        if any(row["variant"] == name for row in rows)
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **facts,
        "rows": list(rows),
        "violations_pct": {name: round(value, 3) for name, value in means.items()},
        "targets": _targets(rows, means) if len(means) == len(VARIANTS) else [],
    }


def _targets(rows: Sequence[Row], means: dict[str, float]) -> list[dict[str, Any]]:
    announced, withheld, reactive = (means[name] for name in VARIANTS)
    broken = sum(row["lost"] + row["repeated"] + row["out_of_order"] for row in rows)
    part = announced / withheld if withheld else None
    return [
        judged("withheld: waited more than 1 s, %", ">=", LEAST_WITHHELD_PCT, withheld),
        judged("announced / withheld", "<=", MOST_OF_WITHHELD, part),
        judged("announced - reactive, points", "<=", 0, announced - reactive),
        judged("lost, repeated or out of order", "==", 0, broken),
    ]


def main() -> None:
    """Runs the demos of the command line; exit status 1 where a target is not met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--campaign-share", type=float, default=0.5)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    whole = run(given.seconds, given.time_scale, given.campaign_share, seeds, given.json)
    wide_console().print(targets_table(whole["targets"]))
    sys.exit(0 if all(target["met"] for target in whole["targets"]) else 1)


if __name__ == "__main__":
    main()
