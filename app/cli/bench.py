"""Verbs that measure: bench."""

from __future__ import annotations

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
    type=click.IntRange(10_000),
    default=4_000_000,
    show_default=True,
    help="Requests per size.",
)
@click.option("--variants", "names", default="", help="Names, or their beginnings [default: all].")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each variant.")
@click.option("--no-latency", is_flag=True, help="Throughput only.")
def bench_router(
    json_path: Path | None, sizes: str, messages: int, names: str, runs: int, no_latency: bool
) -> None:
    """Throughput, CPU and latency of routers: ours, a bare loop, Kafka Streams, Quix, Faust."""
    from app.bench.run import Order, run_bench_router
    from app.bench.variants import chosen

    run_bench_router(
        Order(
            sizes=tuple(int(size) for size in sizes.split(",")),
            messages=messages,
            variants=tuple(chosen(names)),
            runs=runs,
            latency=not no_latency,
            json_path=json_path,
        )
    )


bench.add_command(chaos)
