"""The balance bench: every policy on every scenario, and what the targets say."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.bench.balance_targets import FIELDS, means, targets
from app.bench.machine import machine
from app.bench.plan import SIZES, worst_p99_ms
from app.bench.plan import Size as PlanSize
from app.bench.report import targets_table, wide_console, write
from app.bench.trace_shapes import TraceShapes, trace_shapes
from schemas.errors import ConfigError
from streams.core.simulation.draft import Size
from streams.core.simulation.lanes import Policy
from streams.core.simulation.measures import row
from streams.core.simulation.run import Setting, simulate
from streams.core.simulation.scenarios import SCENARIOS, workload
from streams.core.simulation.shapes import DAY_S

PLANS = tuple(replace(size, runs=20) for size in SIZES)
"""Fewer plans than `foreshard bench plan` times, which says more about them."""


@dataclass(frozen=True)
class Order:
    """What is asked of the bench."""

    traces: Path
    scenarios: Sequence[str]
    seeds: Sequence[int]
    size: Size
    setting: Setting
    json_path: Path | None
    resume: bool
    """Keep the rows that the JSON file has already."""
    command: str
    plans: Sequence[PlanSize] = PLANS
    """Sizes of plans that are timed."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.scenarios) - set(SCENARIOS))
        if unknown:
            raise ConfigError([f"no scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}"])


def run_bench_balance(order: Order) -> None:
    """Simulates day after day, writes the report after each, and prints it in the end."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    shapes = trace_shapes(order.traces, (order.size.warm_s + order.size.length_s) / DAY_S)
    console.print(f"load shapes from {len(shapes.names)} series")
    rows = _known(order)
    times = {size.name: worst_p99_ms(size) for size in order.plans}
    began = time.monotonic()
    for seed in order.seeds:
        for scenario in order.scenarios:
            if any(one["scenario"] == scenario and one["seed"] == seed for one in rows):
                continue
            before = time.monotonic()
            rows += _day(order, shapes, scenario, seed)
            console.print(f"{scenario}, seed {seed}: {time.monotonic() - before:.0f} s")
            if order.json_path is not None:
                write(order.json_path, _report(order, rows, times, time.monotonic() - began))
    show(_report(order, rows, times, time.monotonic() - began))


def _known(order: Order) -> list[dict[str, Any]]:
    if not order.resume or order.json_path is None or not order.json_path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(order.json_path.read_text())["rows"]
    return rows


def _day(order: Order, shapes: TraceShapes, scenario: str, seed: int) -> list[dict[str, Any]]:
    work = workload(scenario, seed, shapes, order.size)
    facts = {"series": len(work.rules.series), "utilisation": round(float(work.utilisation().mean()), 3)}
    setting = order.setting
    if not work.events:  # then it is the same as the predictive policy, and need not be simulated twice
        kept = [policy for policy in setting.policies if policy is not Policy.NO_EVENTS]
        setting = replace(setting, policies=kept)
    rows = [row(lane, seed).to_json() | facts for lane in simulate(work, setting, seed)]
    if len(setting.policies) < len(order.setting.policies):
        rows += [
            one | {"policy": Policy.NO_EVENTS.value}
            for one in rows
            if one["policy"] == Policy.PREDICTIVE.value
        ][:1]
    return rows


def _report(
    order: Order, rows: list[dict[str, Any]], times: dict[str, float], seconds: float
) -> dict[str, Any]:
    main = {name for name, scenario in SCENARIOS.items() if scenario.main}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": order.command,
        "minutes": round(seconds / 60, 1),
        "scenario_days": len({(one["scenario"], one["seed"]) for one in rows}),
        "rows": rows,
        "means": means(rows, main),
        "by_scenario": {
            name: means(rows, {name}) for name in SCENARIOS if any(r["scenario"] == name for r in rows)
        },
        "plan_p99_ms": times,
        "targets": targets(rows, main, times),
    }


def show(whole: dict[str, Any]) -> None:
    """Prints the averages, violations by scenario, and the targets."""
    console = wide_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("policy", *FIELDS):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, figures in whole["means"].items():
        table.add_row(policy, *(f"{figures[name]:.3f}" for name in FIELDS))
    console.print(table)
    by_scenario = Table(box=None, pad_edge=False, header_style="bold")
    by_scenario.add_column("waited more than 1 s, %")
    for scenario in whole["by_scenario"]:
        by_scenario.add_column(scenario, justify="right")
    for policy in dict.fromkeys(name for figures in whole["by_scenario"].values() for name in figures):
        cells = [figures.get(policy, {}).get("violations_pct") for figures in whole["by_scenario"].values()]
        by_scenario.add_row(policy, *("-" if cell is None else f"{cell:.3f}" for cell in cells))
    console.print(by_scenario)
    console.print(targets_table(whole["targets"]))
