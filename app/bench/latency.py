"""Latency from a producer through a variant to a read_committed consumer, at a fixed rate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from app.bench.peers import ROOT, Environment
from app.bench.percentiles import SHARES
from app.bench.running import Running, Watcher, running
from app.bench.stage import INGEST_PARTITIONS, NAME, Job, Stage, clusters
from schemas.errors import ForeshardError

SIZE_BYTES = 220
LOW_RATE = 2_000
"""Requests/s of the first phase."""
SHARE_OF_MAXIMUM = 0.7

SETTLE_S = 3.0
"""Seconds at the rate before anything counts."""
MEASURE_S = 20.0
START_S = 3.0
"""Seconds until producer and consumer are there."""
ALL_READ = 10_000
"""Requests/s up to which the consumer reads every cluster; above it one of eight: reading costs CPU too."""
FELL_BEHIND_S = 1.0
"""A backlog of more than this at the end of a phase: the variant did not keep up."""
KEPT_RATE = 0.98
"""Share of the rate that the producer must have reached: it too needs CPU."""
WARM_S = 180.0
PHASE_S = MEASURE_S + 60.0


@dataclass(frozen=True)
class Phase:
    """One rate, measured."""

    requests_per_s: float
    """What the producer reached."""
    latency_ms: dict[str, float]
    """p50, p99, p999."""
    counted: int
    kept_up: bool
    """Whether the backlog was under FELL_BEHIND_S at the end."""


def measure_latency(stage: Stage, job: Job, environment: Environment, rates: list[float]) -> list[Phase]:
    """Returns one phase per rate, all of one process, after as many requests as its window skips."""
    warm = job.variant.window.skip
    stage.write_requests(job.ingest, SIZE_BYTES, warm)
    with running(stage, job, environment) as processes:
        watcher = Watcher(stage.bootstrap, job.ingest, job.group)
        try:
            _await(processes, watcher, warm)
            done = warm
            phases = []
            for rate in rates:
                phase, sent = _phase(stage, job, watcher, rate, done)
                done += sent
                phases.append(phase)
                _await(processes, watcher, done)
        finally:
            watcher.close()
    stage.clear_outputs()
    stage.delete_topic(job.ingest)
    return phases


def _await(processes: Running, watcher: Watcher, count: int) -> None:
    """Returns when so many requests are committed."""
    deadline = time.monotonic() + WARM_S
    while (watcher.committed() or 0) < count:
        processes.check()
        if time.monotonic() > deadline:
            raise ForeshardError(f"not {count} requests were forwarded within {WARM_S:.0f} s")
        time.sleep(0.05)


def _phase(stage: Stage, job: Job, watcher: Watcher, rate: float, before: int) -> tuple[Phase, int]:
    """Returns the phase and how many requests were sent; `before` were there already."""
    named = list(clusters().values()) if rate <= ALL_READ else list(clusters().values())[:1]
    places = [(cluster.topic, number) for cluster in named for number in range(cluster.partitions)]
    given = _given(stage, job.ingest, places, rate)
    reader = _start("app.bench.live_reader", given)
    producer = _start("app.bench.live_producer", given)
    sent = _result(producer)
    backlog = before + sent["sent"] - (watcher.committed() or 0)
    read = _result(reader)
    reached = sent["sent"] / sent["seconds"]
    phase = Phase(
        requests_per_s=reached,
        latency_ms={name: read[name] for name in SHARES},
        counted=read["counted"],
        kept_up=backlog < FELL_BEHIND_S * rate and reached > KEPT_RATE * rate,
    )
    return phase, sent["sent"]


def latency_floor(stage: Stage) -> dict[str, float]:
    """Returns the percentiles, ms, of requests that nobody routes: producer, broker, consumer."""
    topic = f"{NAME}.floor"
    stage.make_ingest(topic)
    given = _given(stage, topic, [(topic, number) for number in range(INGEST_PARTITIONS)], LOW_RATE)
    reader = _start("app.bench.live_reader", given)
    _result(_start("app.bench.live_producer", given))
    read = _result(reader)
    stage.delete_topic(topic)
    return {name: read[name] for name in SHARES}


def _given(stage: Stage, ingest: str, places: list[tuple[str, int]], rate: float) -> dict[str, Any]:
    """Returns what producer and consumer are told: what, how fast, and when it counts (monotonic ns)."""
    begin_ns = time.monotonic_ns() + int(START_S * 1e9)
    count_from_ns = begin_ns + int(SETTLE_S * 1e9)
    return {
        "bootstrap": stage.bootstrap,
        "ingest": ingest,
        "size_bytes": SIZE_BYTES,
        "rate": rate,
        "places": places,
        "begin_ns": begin_ns,
        "count_from_ns": count_from_ns,
        "end_ns": count_from_ns + int(MEASURE_S * 1e9),
    }


def _start(module: str, given: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, json.dumps(given)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Returns the JSON that a process prints at its end."""
    try:
        output, _ = process.communicate(timeout=PHASE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ForeshardError("the latency's producer or consumer did not end in time") from None
    if process.returncode:
        raise ForeshardError(f"the latency's producer or consumer ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result
