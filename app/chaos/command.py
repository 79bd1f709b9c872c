"""The verb `chaos` of `foreshard bench`; until it hangs there, `python -m app.chaos`."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import cast

import click

from app.chaos.settings import Chaos, Rule, Source


@click.command("chaos")
@click.option(
    "--requests", type=click.IntRange(1_000), default=100_000, show_default=True, help="Requests to send."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--seed", type=int, help="Seed of requests, moves and failures [default: another each time].")
@click.option(
    "--rule",
    type=click.Choice(["kept", "broken"]),
    default="kept",
    show_default=True,
    help="Whether a shard waits until its last move is settled everywhere before it moves again.",
)
@click.option(
    "--mapping",
    type=click.Choice(["plan", "balancer"]),
    default="plan",
    show_default=True,
    help="What changes the mapping: random plans, or a real balancer.",
)
@click.option(
    "--duration-limit",
    type=click.FloatRange(30),
    default=3600.0,
    show_default=True,
    help="Seconds after which what is left is not waited for.",
)
@click.option(
    "--guarantee",
    type=click.Choice(["exactly-once", "at-least-once"]),
    default="exactly-once",
    show_default=True,
    help="Of the routers; with at-least-once repeated requests are counted but allowed.",
)
@click.option("--keep", is_flag=True, help="Keep logs and files, and say where.")
def chaos(  # noqa: PLR0913, PLR0917 - a command's options are its function's arguments
    requests: int,
    json_path: Path | None,
    seed: int | None,
    rule: str,
    mapping: str,
    duration_limit: float,
    guarantee: str,
    keep: bool,
) -> None:
    """Kill everything while slots move; then count what was lost, repeated, or out of order.

    Exit status 1 where any of it is not 0; logs and files are then kept.
    """
    from app.chaos.run import run_chaos  # noqa: PLC0415 - other verbs need none of it

    asked = Chaos(
        requests=requests,
        seed=random.SystemRandom().randrange(1_000_000) if seed is None else seed,
        rule=cast(Rule, rule),
        mapping=cast(Source, mapping),
        duration_limit_s=duration_limit,
        guarantee=guarantee,
    )
    sys.exit(run_chaos(asked, json_path, keep=keep))
