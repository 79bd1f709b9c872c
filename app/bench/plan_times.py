"""How long one plan takes on large mappings."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from schemas.records import SLOTS, ClusterState, MappingRecord
from streams.core.outlook import COLUMNS
from streams.core.planner import ClusterInput, PlanInput, PlannerSettings, plan
from streams.core.simulation.lanes import homes_by_load

SIZES = {"1024 x 32": (1_024, 32, 100), "4096 x 1000": (4_096, 1_000, 20)}
"""Shards, clusters, and how many plans are timed."""
AWAY = 0.05
"""Part of the shards of which half is away from home."""


def plan_times_ms(sizes: Mapping[str, tuple[int, int, int]] = SIZES) -> dict[str, float]:
    """Returns the 99th percentile of a plan's duration by size; loads grow elsewhere each time."""
    found = {}
    for name, (shards, clusters, count) in sizes.items():
        times = []
        for seed in range(count):
            inputs = _inputs(shards, clusters, np.random.default_rng(seed))
            before = time.perf_counter()
            plan(inputs, PlannerSettings())
            times.append(1_000 * (time.perf_counter() - before))
        found[name] = round(float(np.percentile(times, 99)), 2)
    return found


def _inputs(shards: int, clusters: int, rng: np.random.Generator) -> PlanInput:
    """Returns a round in which clusters are at 0.65 on average and a tenth of the shards will double."""
    names = [f"c{number:04}" for number in range(clusters)]
    now = rng.pareto(2.5, shards) + 0.2
    growth = np.where(rng.random(shards) < 0.1, 1.0, rng.uniform(-0.1, 0.1, shards))
    load = now[:, None] * (1.0 + growth[:, None] * np.linspace(0.0, 1.0, COLUMNS))
    capacity = np.full(clusters, float(now.sum()) / 0.65 / clusters)
    homes = homes_by_load(now, capacity)
    records = []
    for shard in range(shards):
        home = names[homes[shard]]
        other = names[int(rng.integers(clusters))]
        half = SLOTS // 2
        drifts = rng.random() < AWAY and other != home
        segments = [(0, half, other), (half, SLOTS, home)] if drifts else [(0, SLOTS, home)]
        records.append(
            MappingRecord(
                shard=shard,
                version=1,
                epoch=1,
                home=home,
                segments=segments,
                plan="1.1",
                reason="first-start",
            )
        )
    return PlanInput(
        now=0.0,
        load=load,
        skew={},
        records=records,
        clusters=[
            ClusterInput(name, ClusterState.ACTIVE, True, np.full(COLUMNS, one), 0.0)
            for name, one in zip(names, capacity.tolist(), strict=True)
        ],
    )
