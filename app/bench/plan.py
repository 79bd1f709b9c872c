"""How long one plan takes: random rounds of every kind, at the two sizes that have a target."""

from __future__ import annotations

import datetime
import gc
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from app.bench.machine import machine
from app.bench.percentiles import percentiles
from app.bench.report import QUIET_LOAD, wide_console, write
from schemas.records import SLOTS, ClusterState, MappingRecord, Segment
from streams.core.planner import ClusterInput, PlanInput, PlannerSettings, plan

COLUMNS = 11
AWAY = 0.15
"""Part of the shards with slots away from home in the rounds that have some."""
SKEWED = 0.02
"""Part of the shards with measured hot slots."""
NOW = 1_000_000.0


@dataclass(frozen=True)
class Size:
    """Shards x clusters, with the target for the 99th percentile of every kind of round."""

    shards: int
    clusters: int
    target_ms: float
    runs: int
    """Rounds of each kind."""

    @property
    def name(self) -> str:
        """Returns "1024 x 32"."""
        return f"{self.shards} x {self.clusters}"


SIZES = (Size(1_024, 32, 20.0, 200), Size(4_096, 1_000, 1_000.0, 100))


@dataclass(frozen=True)
class Kind:
    """What a round finds; loads are parts of the whole capacity."""

    load: float
    surge: float = 1.0
    """The load of a tenth of the shards grows by this factor within the window."""
    away: bool = False
    draining: bool = False


KINDS: Mapping[str, Kind] = {
    "calm": Kind(0.45),
    "surge": Kind(0.55, surge=4.0),
    "surge, shards away": Kind(0.6, surge=3.0, away=True),
    "returns": Kind(0.4, away=True),
    "a cluster drains": Kind(0.6, away=True, draining=True),
    "all are full": Kind(1.1, surge=1.5, away=True),
}


def make(size: Size, kind: Kind, random: np.random.Generator) -> PlanInput:
    """Returns a round of that kind: skewed loads, homes in proportion to unequal capacities."""
    names = [f"c{number:04d}" for number in range(size.clusters)]
    capacity = random.uniform(50, 150, size.clusters)
    weights = random.pareto(2.0, size.shards) + 0.2
    homes = random.choice(size.clusters, size.shards, p=capacity / capacity.sum())
    now = weights / weights.sum() * capacity.sum() * kind.load
    growth = np.where(random.random(size.shards) < 0.1, kind.surge, 1.0)
    load = now[:, None] * (1 + np.outer(growth - 1, np.linspace(0, 1, COLUMNS)))
    records = []
    for shard in range(size.shards):
        home = names[homes[shard]]
        segments: list[Segment] = [(0, SLOTS, home)]
        if kind.away and random.random() < AWAY:
            cut = int(random.integers(1, SLOTS))
            away = names[(homes[shard] + int(random.integers(1, size.clusters))) % size.clusters]
            segments = [(0, cut, away), (cut, SLOTS, home)]
        records.append(
            MappingRecord(
                shard=shard, version=1, epoch=1, home=home, segments=segments, plan="1.1", reason="event"
            )
        )
    clusters = [
        ClusterInput(name, ClusterState.ACTIVE, True, np.full(COLUMNS, cps), 0.0)
        for name, cps in zip(names, capacity, strict=True)
    ]
    if kind.draining:
        clusters[0] = replace(clusters[0], state=ClusterState.DRAINING)
    skewed = np.flatnonzero(random.random(size.shards) < SKEWED).tolist()
    return PlanInput(
        now=NOW,
        load=load,
        skew={shard: random.dirichlet(np.full(SLOTS, 0.3)) for shard in skewed},
        records=records,
        clusters=clusters,
    )


def measure(size: Size, kind: Kind, seed: int) -> dict[str, Any]:
    """Returns percentiles of a plan's time on the wall and on the CPU, ms, and what plans did on average."""
    random = np.random.default_rng(seed)
    plan(make(size, kind, random), PlannerSettings())  # the first one loads code
    took, cpu, moves, stuck = [], [], 0, 0
    for _ in range(size.runs):
        inputs = make(size, kind, random)
        gc.collect()
        started, cpu_started = time.perf_counter(), time.process_time()
        made = plan(inputs, PlannerSettings())
        cpu.append((time.process_time() - cpu_started) * 1000)
        took.append((time.perf_counter() - started) * 1000)
        moves, stuck = moves + len(made.moves), stuck + len(made.stuck)
    return {
        "ms": percentiles(np.array(took)) | {"max": round(max(took), 2)},
        "cpu_ms": percentiles(np.array(cpu)),
        "moves": round(moves / size.runs, 1),
        "stuck": round(stuck / size.runs, 1),
    }


def worst_p99_ms(size: Size, seed: int = 1) -> float:
    """Returns the 99th percentile of a plan's time on the wall, ms, of the slowest kind of round."""
    return max(float(measure(size, kind, seed)["ms"]["p99"]) for kind in KINDS.values())


def run_bench_plan(json_path: Path | None, seed: int, runs: int | None) -> bool:
    """Measures all sizes and kinds, shows and writes them; returns whether every target is met."""
    load = psutil.getloadavg()[0]
    rows = []
    for size in SIZES if runs is None else [replace(size, runs=runs) for size in SIZES]:
        for name, kind in KINDS.items():
            found = measure(size, kind, seed)
            met = found["ms"]["p99"] <= size.target_ms
            shape = {"shards": size.shards, "clusters": size.clusters, "round": name, "runs": size.runs}
            rows.append(shape | found | {"target_p99_ms": size.target_ms, "met": met})
    whole = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "load_average": round(load, 2),
        "seed": seed,
        "rows": rows,
    }
    if json_path is not None:
        write(json_path, whole)
    _show(rows)
    if load > QUIET_LOAD:
        Console().print(f"caution: the machine was busy before the first plan: load average {load:.1f}")
    return all(row["met"] for row in rows)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(caption="one plan, ms")
    for heading in ("shards", "clusters", "round", "moves", "stuck", "p50", "p99", "target p99", "CPU p99"):
        table.add_column(heading, justify="left" if heading == "round" else "right")
    for row in rows:
        ms = row["ms"]
        target = f"{row['target_p99_ms']:g}{'' if row['met'] else ' missed'}"
        cells = [row[name] for name in ("shards", "clusters", "round", "moves", "stuck")]
        table.add_row(*(str(cell) for cell in (*cells, ms["p50"], ms["p99"], target, row["cpu_ms"]["p99"])))
    wide_console().print(table)
