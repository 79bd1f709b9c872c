"""The whole benchmark, from the broker's start to the report."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from app.bench.peers import Missing
from app.bench.report import add_ratios, row, show
from app.bench.running import environments
from app.bench.stage import Job, Stage
from app.bench.throughput import Measure, measure
from app.bench.variants import Variant
from app.local_kafka import local_kafka


@dataclass(frozen=True)
class Order:
    """What is asked of the benchmark."""

    sizes: tuple[int, ...]
    messages: int
    variants: tuple[Variant, ...]
    runs: int
    latency: bool
    json_path: Path | None


def run_bench_router(order: Order) -> dict[str, Any]:
    """Returns (prints, and writes) the rows and the targets."""
    console = Console(stderr=True)
    console.print("making the peers' environments ...")
    homes = environments({variant.family for variant in order.variants})
    rows = []
    with local_kafka(quiet=False) as kafka, tempfile.TemporaryDirectory() as folder:
        stage = Stage(kafka.bootstrap, Path(folder))
        for size in order.sizes:
            ingest = f"bench.requests.{size}"
            console.print(f"writing {order.messages:,} requests of {size} bytes ...")
            stage.write_requests(ingest, size, order.messages)
            measured: dict[Variant, list[Measure]] = {variant: [] for variant in order.variants}
            for number in range(order.runs):
                for variant in order.variants if number % 2 == 0 else reversed(order.variants):
                    home = homes[variant.family]
                    if isinstance(home, Missing):
                        console.print(f"{variant.name}: missing: {home.reason}")
                        continue
                    job = Job(variant, ingest, f"bench-{variant.name}-{size}-{number}")
                    found = measure(stage, job, home, order.messages)
                    stage.clear_outputs()
                    console.print(
                        f"{variant.name}, run {number + 1}: {found.requests_per_s:,.0f} requests/s, "
                        f"{found.cpu_us:.2f} us, {found.seconds:.1f} s"
                    )
                    measured[variant].append(found)
            rows += [row(variant, size, runs) for variant, runs in measured.items() if runs]
            stage.delete_topic(ingest)
    add_ratios(rows)
    report = {"rows": rows}
    if order.json_path is not None:
        order.json_path.write_text(json.dumps(report, indent=2) + "\n")
    show(rows)
    return report
