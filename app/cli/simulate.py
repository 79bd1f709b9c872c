"""`foreshard simulate`: what the balancer would do with a load, without Kafka."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.common import config_option, json_option, read_config

FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@config_option
@click.option("--trace", type=EXISTING, help="Recorded traffic: a CSV file of counts, or a request log.")
@click.option(
    "--columns", help="Columns of the trace: time,series,requests of counts, or time,type,key of a log."
)
@click.option(
    "--scenario", default="type-campaigns", show_default=True, help="Without a trace: what happens."
)
@click.option("--shapes", type=FOLDER, help="Folder of recorded series that give a scenario its shapes.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Of chance: equal seeds, equal results.",
)
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Simulated time.")
@click.option(
    "--warm-days",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="Days of a scenario that are learned before.",
)
@click.option("--clusters", default="12", show_default=True, help="How many, or capacities: a=500,b=800.")
@click.option(
    "--peak",
    type=click.FloatRange(0.01),
    default=0.95,
    show_default=True,
    help="Busiest minute of a trace / capacity, where --clusters is a number.",
)
@click.option(
    "--policies",
    default="static,reactive,predictive",
    show_default=True,
    help="Also: hash, bounded, order-free, no-events, oracle; or all.",
)
@click.option("--round-s", type=float, help="Interval of rounds [default: as configured].")
@json_option
@click.option("--png", type=FILE, help="Draw load, moves and violations here.")
@click.option("--html", type=FILE, help="Write a page with figures, chart and moves here.")
def simulate(
    config_path: Path | None,
    trace: Path | None,
    columns: str | None,
    scenario: str,
    shapes: Path | None,
    seed: int,
    hours: float,
    warm_days: float,
    clusters: str,
    peak: float,
    policies: str,
    round_s: float | None,
    as_json: bool,
    png: Path | None,
    html: Path | None,
) -> None:
    """Balance a load in simulation, under several policies and the configured settings.

    The load is a scenario with seeded shapes, or recorded traffic: of a trace, shards, types and costs are
    those of the configuration file, if one is given.
    """
    from app.simulate.order import Order, run_simulate

    config = read_config(config_path)
    run_simulate(
        Order(
            config=config,
            trace=trace,
            columns=columns,
            scenario=scenario,
            shapes=shapes,
            seed=seed,
            hours=hours,
            warm_days=warm_days,
            clusters=_clusters(clusters),
            peak=peak,
            policies=tuple(name.strip() for name in policies.split(",")),
            round_s=round_s or config.rounds.round_s,
            as_json=as_json,
            png=png,
            html=html,
        )
    )


def _clusters(text: str) -> int | dict[str, float]:
    """Returns a number of clusters, or their capacities by name; raises click.BadParameter."""
    try:
        if "=" not in text:
            found: int | dict[str, float] = int(text)
        else:
            pairs = (part.split("=") for part in text.split(","))
            found = {name.strip(): float(capacity) for name, capacity in pairs}
        least = found if isinstance(found, int) else min(found.values())
        if not 0 < least < float("inf"):
            raise ValueError(f"{least} is not above 0")
    except ValueError as error:
        raise click.BadParameter(f"--clusters takes a number, or a=500,b=800: {error}") from None
    return found
