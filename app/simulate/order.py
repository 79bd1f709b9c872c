"""One simulation, from what was asked for to what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from app.bench.trace_shapes import trace_shapes
from app.cli.common import print_json, print_table
from app.config import Config
from app.simulate.charts import draw, page
from app.simulate.traces import Wanted, read_trace
from schemas.errors import ConfigError
from streams.core.simulation.draft import Size
from streams.core.simulation.lanes import Policy
from streams.core.simulation.measures import Row, row
from streams.core.simulation.run import Setting, simulate
from streams.core.simulation.scenarios import SCENARIOS, workload
from streams.core.simulation.shapes import DAY_S, Generated
from streams.core.simulation.workload import BIN_S, Workload

POLICIES = {
    "static": Policy.STATIC,
    "hash": Policy.HASH,
    "bounded": Policy.BOUNDED,
    "reactive": Policy.REACTIVE,
    "order-free": Policy.UNORDERED,
    "predictive": Policy.PREDICTIVE,
    "no-events": Policy.NO_EVENTS,
    "oracle": Policy.ORACLE,
}
"""Policies by their names on the command line."""
COLUMNS = ("policy", "waited > 1 s, %>", "> 5 s, %>", "moved, %/h>", "moves/h>", "reversals, %>", "away, %>")


@dataclass(frozen=True)
class Order:
    """What is asked of `foreshard simulate`; its options by their names."""

    config: Config
    trace: Path | None
    columns: str | None
    scenario: str
    shapes: Path | None
    seed: int
    hours: float
    warm_days: float
    clusters: int | dict[str, float]
    peak: float
    policies: Sequence[str]
    round_s: float
    as_json: bool
    png: Path | None
    html: Path | None

    def setting(self) -> Setting:
        """Returns policies and settings; raises ConfigError."""
        unknown = [name for name in self.policies if name not in (*POLICIES, "all")]
        if unknown:
            raise ConfigError([f"no policy {', '.join(unknown)}; there are: {', '.join(POLICIES)}"])
        chosen = [
            policy for name, policy in POLICIES.items() if name in self.policies or "all" in self.policies
        ]
        try:
            return Setting(chosen, (self.round_s,), self.config.rounds)
        except ValueError as error:
            raise ConfigError([str(error)]) from None

    def workload(self) -> Workload:
        """Returns the load; raises ConfigError."""
        shards = self.config.rules.shards
        if self.trace is not None:
            rules = self.config.rules if self.config.path else None
            wanted = Wanted(rules, shards, self.clusters, self.peak, self.hours, self.seed)
            return read_trace(self.trace, self.columns, wanted)
        if self.scenario not in SCENARIOS:
            raise ConfigError([f"no scenario {self.scenario}; there are: {', '.join(SCENARIOS)}"])
        if not isinstance(self.clusters, int):
            raise ConfigError(["capacities are for a trace; a scenario takes a number: --clusters 12"])
        size = Size(shards, self.clusters, self.warm_days * DAY_S, self.hours * 3_600)
        days = self.warm_days + self.hours / 24
        return workload(
            self.scenario, self.seed, trace_shapes(self.shapes, days) if self.shapes else Generated(), size
        )


def run_simulate(order: Order) -> None:
    """Simulates, then prints, and draws where it is asked for."""
    setting, work = order.setting(), order.workload()
    with click.progressbar(length=100, label=work.name, file=click.get_text_stream("stderr")) as bar:
        lanes = simulate(work, setting, order.seed, lambda part: bar.update(round(100 * part) - bar.pos))
        bar.update(100 - bar.pos)
    rows = [row(lane, order.seed) for lane in lanes]
    if order.png is not None:
        draw(lanes, order.png)
    if order.html is not None:
        page(lanes, rows, facts(work), order.html)
    if order.as_json:
        print_json({"facts": facts(work), "rows": [one.to_json() for one in rows]})
    else:
        show(facts(work), rows)


def facts(work: Workload) -> list[str]:
    """Returns what was simulated, in words."""
    used = work.utilisation()
    return [
        f"{work.hours:g} h of {work.name}; {work.warm_bins * BIN_S / DAY_S:.2g} days before were learned; "
        f"{len(work.rules.series)} series, {work.rules.shards} shards, {len(work.clusters)} clusters of "
        f"{work.capacity_cps.min():.4g} to {work.capacity_cps.max():.4g} cost units/s.",
        f"The load takes {used.mean():.0%} of all capacity on average and {used.max():.0%} at most; "
        f"{len(work.events)} events are announced.",
    ]


def show(said: Sequence[str], rows: Sequence[Row]) -> None:
    """Prints the facts and one line per policy."""
    for sentence in said:
        click.echo(sentence)
    cells = [
        (
            one.policy,
            f"{one.violations_pct:.3f}",
            f"{one.violations5_pct:.3f}",
            f"{one.moved_pct_per_h:.1f}",
            f"{one.moves_per_h:.1f}",
            f"{one.reversals_pct:.1f}",
            f"{one.away_pct:.1f}",
        )
        for one in rows
    ]
    print_table(COLUMNS, cells)
