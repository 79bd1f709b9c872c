"""What runs beside a router in the rows about handoffs, and how much was in handoff."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from app.bench.peers import ROOT
from app.bench.stage import INGEST_PARTITIONS, Job, Stage, clusters
from app.bench.workload import places_in_use
from schemas.records import SLOTS
from schemas.topics import LOAD, MAPPING
from streams.tables import read_table

SHARDS_PER_PLAN = 26
"""Of 256, each second: 10 % of all slots, of which each is in handoff for about half a second."""

STOP_S = 5.0


@contextlib.contextmanager
def companions(stage: Stage, job: Job) -> Iterator[None]:
    """The processes that belong to the variant's movement; none for most variants."""
    if not job.variant.movement:
        yield
        return
    groups = [[cluster.group, cluster.topic, cluster.partitions] for cluster in clusters().values()]
    commands: dict[str, dict[str, Any]] = {
        "app.bench.committer": {"bootstrap": stage.bootstrap, "groups": groups}
    }
    if job.variant.movement == "moving":
        stage.snapshot(job)
        commands["app.bench.mover"] = {
            "bootstrap": stage.bootstrap,
            "prefix": job.prefix,
            "mapping_topic": job.prefix + MAPPING.name,
            "ingest": job.ingest,
            "ingest_partitions": INGEST_PARTITIONS,
            "group": job.group,
            "shards_per_plan": SHARDS_PER_PLAN,
        }
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += [
            subprocess.Popen([sys.executable, "-m", module, json.dumps(given)], cwd=ROOT)
            for module, given in commands.items()
        ]
        yield
        for process in started:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(STOP_S)


@dataclass(frozen=True)
class InHandoff:
    """Mean shares of (ingest partition, slot) pairs in handoff."""

    of_used: float
    """Of those that requests come to: an idle slot changes its cluster at once."""
    of_all: float


def share_in_handoff(stage: Stage, job: Job, from_s: float, to_s: float) -> InHandoff | None:
    """Returns what the router's load reports of that time say; None where none says anything.

    `from_s`, `to_s`: seconds since 1970, as in the reports.
    """
    records = read_table({"bootstrap.servers": stage.bootstrap}, job.prefix + LOAD.name)
    reports = [orjson.loads(record.value() or b"{}") for record in records]
    mean = mean_in_handoff(reports, from_s, to_s)
    if mean is None:
        return None
    shards = job.variant.shards
    return InHandoff(
        mean / places_in_use(shards, INGEST_PARTITIONS), mean / (INGEST_PARTITIONS * shards * SLOTS)
    )


def mean_in_handoff(reports: list[dict[str, object]], from_s: float, to_s: float) -> float | None:
    """Returns the mean of watch + hold over the reports whose window ends in that time."""
    counts = []
    for report in reports:
        moving, until = report.get("handoffs"), report.get("window_to")
        if isinstance(moving, dict) and isinstance(until, float | int) and from_s <= until <= to_s:
            counts.append(moving["watch"] + moving["hold"])
    return sum(counts) / len(counts) if counts else None
