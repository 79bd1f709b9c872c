"""Verbs that measure: bench."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from app.chaos.command import chaos


@click.group()
def bench() -> None:
    """Measure against peers in one run."""


@bench.command("router")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--sizes", default="220,1000", show_default=True, help="Sizes of the requests, bytes.")
@click.option(
    "--messages",
    type=click.IntRange(50_000),
    default=4_000_000,
    show_default=True,
    help="Requests per size; with fewer, a JVM is not warm when its window begins.",
)
@click.option("--variants", "names", default="", help="Names, or their beginnings [default: all].")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each variant.")
@click.option("--no-latency", is_flag=True, help="Throughput only.")
@click.option("--quick", is_flag=True, help="About 10 minutes: exactly-once, 220 bytes, one run, latency.")
def bench_router(
    json_path: Path | None,
    sizes: str,
    messages: int,
    names: str,
    runs: int,
    no_latency: bool,
    quick: bool,
) -> None:
    """Throughput, CPU and latency of routers: ours, a bare loop, Kafka Streams, Quix, Faust.

    Exit status 1 where a variant is missing, or did not do the work; a target that is not met is only said.
    """
    from app.bench.run import Order, run_bench_router
    from app.bench.variants import QUICK, chosen

    if quick:
        sizes, names, runs = "220", names or QUICK, 1
    given = sys.argv[1:] if sys.argv[1:2] == ["bench"] else ["bench", "router"]
    order = Order(
        sizes=_sizes(sizes),
        messages=messages,
        variants=tuple(chosen(names)),
        runs=runs,
        latency=not no_latency,
        json_path=json_path,
        command=shlex.join(["foreshard", *given]),
    )
    if not run_bench_router(order):
        sys.exit(1)


@bench.command("forecast")
@click.option(
    "--series",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of CSV files, also compressed or in tar archives: time, value.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--png", "png_path", type=click.Path(path_type=Path), help="Draw some of the forecasts here.")
@click.option("--quick", is_flag=True, help="A few minutes: few origins of the peers, fewer campaigns.")
@click.option("--only-ours", is_flag=True, help="Neither peers nor campaigns: our forecasts of the series.")
@click.option(
    "--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes of a peer at a time."
)
def bench_forecast(
    folder: Path, json_path: Path | None, png_path: Path | None, quick: bool, only_ours: bool, jobs: int
) -> None:
    """Forecasts of real series: errors against the last value and peers, coverage, campaigns, CPU.

    Files are read recursively; the step of a series is its own. Every step is forecast before it is learned.
    Exit status 1 where a peer is missing; a target that is not met is only said.
    """
    from app.bench.forecast.run import Order, run_bench_forecast

    order = Order(
        folder, json_path, _command(), quick=quick, only_ours=only_ours, png_path=png_path, jobs=jobs
    )
    if not run_bench_forecast(order):
        sys.exit(1)


def _command() -> str:
    """Returns what was typed."""
    given = sys.argv[1:] if sys.argv[1:2] == ["bench"] else ["bench"]
    return shlex.join(["foreshard", *given])


@bench.command("balance")
@click.option(
    "--traces",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with recorded series (CSV, compressed or in archives): the shapes of the load.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write rows, means and targets here."
)
@click.option("--scenarios", default="", help="Names with commas [default: all].")
@click.option("--seeds", default="1,2", show_default=True, help="One day of every scenario per seed.")
@click.option("--rounds", default="10,30", show_default=True, help="Intervals of rounds, s.")
@click.option(
    "--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Length of a scenario-day."
)
@click.option("--resume", is_flag=True, help="Keep the days that the JSON file has already.")
def bench_balance(
    traces: Path,
    json_path: Path | None,
    scenarios: str,
    seeds: str,
    rounds: str,
    hours: float,
    resume: bool,
) -> None:
    """Balancing policies on simulated days: waits, moves, and the targets. Some minutes per scenario-day."""
    from app.bench.balance import Order, run_bench_balance
    from streams.core.simulation.draft import Size
    from streams.core.simulation.run import Setting
    from streams.core.simulation.scenarios import SCENARIOS

    try:
        setting = Setting(rounds_s=tuple(float(length) for length in rounds.split(",")))
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError as error:
        raise click.BadParameter(f"--rounds and --seeds take numbers with commas between: {error}") from None
    order = Order(
        traces=traces,
        scenarios=tuple(scenarios.split(",")) if scenarios else tuple(SCENARIOS),
        seeds=numbers,
        size=Size(length_s=hours * 3600),
        setting=setting,
        json_path=json_path,
        resume=resume,
        command=_command(),
    )
    run_bench_balance(order)


def _sizes(text: str) -> tuple[int, ...]:
    """Returns the sizes in bytes; raises click.BadParameter."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise click.BadParameter(f"--sizes takes numbers with commas between, not {text!r}") from None


@bench.command("plan")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--runs", type=click.IntRange(1), help="Rounds of each kind [default: 200 small, 100 large].")
@click.option("--seed", type=int, default=72, show_default=True, help="Seed of the rounds.")
def bench_plan(json_path: Path | None, runs: int | None, seed: int) -> None:
    """How long the planner takes, at 1,024 shards x 32 clusters and at 4,096 x 1,000.

    Exit status 1 where a target is missed.
    """
    from app.bench.plan import run_bench_plan

    if not run_bench_plan(json_path, seed, runs):
        sys.exit(1)


bench.add_command(chaos)
