"""The whole benchmark, from the broker's start to the report."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import KafkaException
from rich.console import Console

from app.bench.gate import Gate
from app.bench.latency import LOW_RATE, SHARE_OF_MAXIMUM, Phase, latency_floor, measure_latency
from app.bench.latency import SIZE_BYTES as LATENCY_SIZE_BYTES
from app.bench.peers import Environment, Missing
from app.bench.report import Results, cautions, report, show, write
from app.bench.running import environments
from app.bench.stage import NAME, Job, Stage
from app.bench.throughput import measure
from app.bench.variants import Variant
from app.local_kafka import local_kafka
from schemas.errors import ForeshardError

WARM_UP = 300_000
"""Requests that the first variant forwards before anything counts: the broker's JVM compiles too."""


@dataclass(frozen=True)
class Order:
    """What is asked of the benchmark."""

    sizes: tuple[int, ...]
    messages: int
    variants: tuple[Variant, ...]
    runs: int
    latency: bool
    json_path: Path | None
    command: str


@dataclass
class Bench:
    """One benchmark under way."""

    order: Order
    stage: Stage
    homes: dict[str, Environment]
    """By variant's name; a variant leaves it when it is missing or has failed."""
    results: Results = field(default_factory=Results)
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def run(self) -> None:
        """Gate, throughput per size, latency; in this order, so that nothing unproven is measured."""
        self._gate()
        for size in self.order.sizes:
            self._throughput(size)
        if self.order.latency:
            self.results.latency_floor_ms = latency_floor(self.stage)
            self.console.print(f"latency without a router, ms: {_named(self.results.latency_floor_ms)}")
            for variant in self._alive(main_only=True):
                self._latency(variant)

    def _alive(self, *, main_only: bool = False) -> Iterator[Variant]:
        """Yields the variants that can be measured."""
        for variant in self.order.variants:
            if variant.name in self.homes and (variant.main or not main_only):
                yield variant

    def _gate(self) -> None:
        gate = Gate(self.stage)
        for variant in self._alive():
            with self._surviving(variant):
                gate.check(variant, self.homes[variant.name])
                self.console.print(f"{variant.name}: every request in its place")

    def _throughput(self, size: int) -> None:
        """Measures every variant `runs` times, each time in the opposite order."""
        ingest = f"{NAME}.requests.{size}"
        self.console.print(f"writing {self.order.messages:,} requests of {size} bytes ...")
        self.stage.write_requests(ingest, size, self.order.messages)
        main_only = size != self.order.sizes[0]
        self._warm_up(ingest, size)
        for number in range(self.order.runs):
            variants = list(self._alive(main_only=main_only))
            for variant in variants if number % 2 == 0 else reversed(variants):
                with self._surviving(variant):
                    self._one_run(variant, size, number)
        self.stage.delete_topic(ingest)

    def _one_run(self, variant: Variant, size: int, number: int) -> None:
        job = Job(variant, f"{NAME}.requests.{size}", f"{NAME}-{variant.name}-{size}-{number}")
        found = measure(self.stage, job, self.homes[variant.name], self.order.messages)
        self.stage.clear_outputs()
        self.results.add(variant, size, found)
        self.console.print(
            f"{variant.name}, {size} bytes, run {number + 1}: {found.requests_per_s:,.0f} requests/s, "
            f"{found.cpu_us:.2f} us, {found.seconds:.1f} s"
        )

    def _warm_up(self, ingest: str, size: int) -> None:
        """Runs the first variant once without counting it."""
        for variant in self._alive():
            job = Job(variant, ingest, f"{NAME}-warm-up-{size}")
            with self._surviving(variant):
                measure(self.stage, job, self.homes[variant.name], min(WARM_UP, self.order.messages))
                self.stage.clear_outputs()
                return

    def _latency(self, variant: Variant) -> None:
        """Measures the latency at a low rate and at a share of the variant's own maximum."""
        highest = self.results.rate(variant, self.order.sizes[0])
        rates = [float(LOW_RATE), *([] if highest is None else [SHARE_OF_MAXIMUM * highest])]
        job = Job(variant, f"{NAME}.live.{variant.name}", f"{NAME}-live-{variant.name}")
        with self._surviving(variant):
            phases = measure_latency(self.stage, job, self.homes[variant.name], rates)
            self.results.latency[variant.name] = phases
            for phase in phases:
                self.console.print(f"{variant.name}: {_said(phase)}")

    def _surviving(self, variant: Variant) -> _Surviving:
        return _Surviving(self, variant)


class _Surviving:
    """One variant's failure is reported and ends that variant, not the benchmark."""

    def __init__(self, bench: Bench, variant: Variant) -> None:
        self._bench = bench
        self._variant = variant

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, ForeshardError | KafkaException):
            return False
        self._bench.results.failed[self._variant.name] = str(error)
        self._bench.homes.pop(self._variant.name, None)
        self._bench.console.print(f"{self._variant.name} FAILED: {error}")
        return True


def _said(phase: Phase) -> str:
    behind = "" if phase.kept_up else ", DID NOT KEEP UP"
    return f"latency at {phase.requests_per_s:,.0f} requests/s, ms: {_named(phase.latency_ms)}{behind}"


def _named(latency_ms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.1f}" for name, value in latency_ms.items())


def run_bench_router(order: Order) -> bool:
    """Prints the report and writes it; returns whether every variant was there and did its work."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what runs is then ended too
    began = time.monotonic()
    load = psutil.getloadavg()[0]
    console.print("making the peers' environments ...")
    found = environments({variant.family for variant in order.variants})
    results = Results()
    homes: dict[str, Environment] = {}
    for variant in order.variants:
        home = found[variant.family]
        if isinstance(home, Missing):
            results.missing[variant.name] = home.reason
            console.print(f"{variant.name} MISSING: {home.reason}")
        else:
            homes[variant.name] = home
    with local_kafka(quiet=False) as kafka, tempfile.TemporaryDirectory() as folder:
        bench = Bench(order, Stage(kafka.bootstrap, Path(folder)), homes, results, console)
        bench.run()
    whole: dict[str, Any] = report(results, order.variants, order.sizes)
    whole |= {
        "messages": order.messages,
        "runs": order.runs,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "latency_size_bytes": LATENCY_SIZE_BYTES,
        "command": order.command,
        "load_average_before": round(load, 2),
        "cautions": cautions(order.variants, order.messages, load),
    }
    if order.json_path is not None:
        write(order.json_path, whole)
    show(whole)
    return not results.failed and not results.missing
