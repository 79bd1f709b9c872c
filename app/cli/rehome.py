"""`foreshard rehome`: homes that fit the stored load."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from app import operators
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.cli.control import say, wait_option
from app.config import Config
from schemas.errors import InvalidRecordError, NotReadyError
from schemas.records import SLOTS, ClusterState, MappingRecord, Rehome
from streams.core.planner import PlannerSettings

DAY_S = 86_400.0
SHORT = 0.9
"""Of the days asked for: with less history than this the reader is told so."""


@dataclass(frozen=True)
class Proposal:
    """New homes, with what they are based on and what they cost."""

    load: npt.NDArray[np.float64]
    """float64[shards], mean load, cost units/s."""
    records: Sequence[MappingRecord]
    capacities: Mapping[str, float]
    """Of the active clusters."""
    homes: Mapping[int, str]
    """shard -> its new home."""

    def moved(self, shard: int) -> float:
        """Returns the load of a shard's slots that are not at its new home yet, cost units/s."""
        there = sum(b - a for a, b, owner in self.records[shard].segments if owner == self.homes[shard])
        return float(self.load[shard]) * (1 - there / SLOTS)

    def held(self, *, new: bool) -> dict[str, tuple[int, float]]:
        """Returns per active cluster how many shards have their home there, and their load."""
        found = dict.fromkeys(sorted(self.capacities), (0, 0.0))
        for record in self.records:
            home = self.homes.get(record.shard, record.home) if new else record.home
            if home in found:
                count, load = found[home]
                found[home] = count + 1, load + float(self.load[record.shard])
        return found

    def rounds(self, settings: PlannerSettings) -> int:
        """Returns about how many rounds it takes until the slots have followed."""
        moved = sum(self.moved(shard) for shard in self.homes)
        budget = settings.budget * float(self.load.sum())
        return max(
            math.ceil(moved / budget) if budget > 0 else 0,
            math.ceil(len(self.homes) / max(settings.max_returns, 1)),
        )


@click.command()
@click.option(
    "--days",
    type=click.FloatRange(0, 28, min_open=True),
    default=7.0,
    show_default=True,
    help="Days of stored load to look back on.",
)
@click.option("--apply", "apply_it", is_flag=True, help="Have the balancer take these homes.")
@config_option
@json_option
@wait_option
def rehome(days: float, apply_it: bool, config_path: Path | None, as_json: bool, wait: bool) -> None:
    """Propose homes by stored load, with as little movement as that takes.

    Shows the proposal and what it moves; --apply sends it. Slots then follow within the budget of each round,
    in every mode.
    """
    from app.load_history import read_history
    from streams.core.rehome import propose

    config = read_config(config_path)
    now = config.clock.now()
    snapshot = operators.snapshot(config)
    active = [c for c in operators.clusters(config) if c.state is ClusterState.ACTIVE]
    history = read_history(config, now - days * DAY_S, now, by_shard=True)
    if not history.steps:
        raise NotReadyError(f"no load is stored of the last {days:g} days; routers store it every 30 s")
    load, capacities = history.load(config.rules.costs()), {c.name: c.capacity_cps for c in active}
    homes = propose(load, [record.home for record in snapshot.records], capacities)
    proposal = Proposal(load, snapshot.records, capacities, homes)
    known_days = len(history.steps) * 30.0 / DAY_S
    if known_days < SHORT * days:
        click.echo(f"note: only {known_days:.1f} of {days:g} days are stored", err=True)
    if as_json:
        answer = operators.command(config, _command(config, homes), wait=wait) if apply_it and homes else None
        print_json(_json(proposal, known_days) | {"answer": answer.text if answer else None})
        if answer is not None and not answer.accepted:
            sys.exit(InvalidRecordError.exit_status)
        return
    _show(proposal, config.rounds.planner)
    if apply_it and homes:
        say(config, _command(config, homes), wait=wait)


def _command(config: Config, homes: Mapping[int, str]) -> Rehome:
    new = sorted(homes.items())
    return Rehome(id=operators.new_id("rehome"), at=config.clock.now(), by=operators.who(), homes=new)


def _show(proposal: Proposal, settings: PlannerSettings) -> None:
    before, after = proposal.held(new=False), proposal.held(new=True)
    rows = [
        (
            name,
            f"{capacity:g}",
            before[name][0],
            f"{before[name][1] / capacity:.2f}",
            after[name][0],
            f"{after[name][1] / capacity:.2f}",
        )
        for name, capacity in sorted(proposal.capacities.items())
    ]
    print_table(["cluster", "capacity/s>", "homes>", "load/capacity>", "new homes>", "then>"], rows)
    if not proposal.homes:
        click.echo("the homes fit the load: nothing to change")
        return
    moves = [
        (
            shard,
            proposal.records[shard].home,
            home,
            f"{proposal.load[shard]:.2f}",
            f"{proposal.moved(shard):.2f}",
        )
        for shard, home in sorted(proposal.homes.items(), key=lambda item: (-proposal.load[item[0]], item[0]))
    ]
    print_table(["shard>", "home", "new home", "load/s>", "moves/s>"], moves)
    moved = sum(proposal.moved(shard) for shard in proposal.homes)
    click.echo(
        f"{len(proposal.homes)} of {len(proposal.records)} shards get another home; "
        f"{moved:.1f} of {proposal.load.sum():.1f} cost units/s move, within about "
        f"{proposal.rounds(settings)} rounds"
    )


def _json(proposal: Proposal, known_days: float) -> dict[str, Any]:
    before, after = proposal.held(new=False), proposal.held(new=True)
    return {
        "days": round(known_days, 4),
        "load_cps": float(proposal.load.sum()),
        "moved_cps": sum(proposal.moved(shard) for shard in proposal.homes),
        "clusters": [
            {
                "name": name,
                "capacity_cps": capacity,
                "homes": before[name][0],
                "load_cps": before[name][1],
                "new_homes": after[name][0],
                "new_load_cps": after[name][1],
            }
            for name, capacity in sorted(proposal.capacities.items())
        ],
        "homes": [
            {
                "shard": shard,
                "home": proposal.records[shard].home,
                "new_home": home,
                "load_cps": float(proposal.load[shard]),
            }
            for shard, home in sorted(proposal.homes.items())
        ],
    }
