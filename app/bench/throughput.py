"""Throughput and what it costs, between two committed offsets of one run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from app.bench.movement import InHandoff, companions, share_in_handoff
from app.bench.peers import Environment
from app.bench.running import Running, Used, Watcher, running
from app.bench.stage import Job, Stage
from app.bench.variants import Window
from schemas.errors import ForeshardError

LOOK_S = 0.05
"""Seconds between two looks at the committed offsets: under 1 % of a window."""

RUN_S = 400.0
"""Longest time that one run may take."""


@dataclass(frozen=True)
class Measure:
    """What one run took, in the window."""

    requests_per_s: float
    cpu_us: float
    """CPU of all processes of the variant per request, user and system, microseconds."""
    rss_mb: float
    """Peak of the resident memory of all processes, up to the window's end."""
    threads: int
    seconds: float
    """Length of the window."""
    skipped: int
    """Requests that it had forwarded before the window."""
    in_handoff: InHandoff | None = None
    """None: not asked for, or not reported."""


@dataclass(frozen=True)
class Sample:
    """One look at a run."""

    at_s: float
    committed: int
    used: Used


def measure(stage: Stage, job: Job, environment: Environment, messages: int) -> Measure:
    """Runs the variant over the ingest topic and returns what it took between the window's ends."""
    window = job.variant.window.within(messages)
    with running(stage, job, environment) as processes, companions(stage, job):
        watcher = Watcher(stage.bootstrap, job.ingest, job.group)
        try:
            samples = _watch(processes, watcher, window.until)
        finally:
            watcher.close()
    found = measured(samples, window)
    if not job.variant.movement:
        return found
    now = time.time()
    return replace(found, in_handoff=share_in_handoff(stage, job, now - found.seconds, now))


def _watch(processes: Running, watcher: Watcher, until: int) -> list[Sample]:
    """Returns samples up to the first with `until` requests committed."""
    samples: list[Sample] = []
    deadline = time.monotonic() + RUN_S
    while not samples or samples[-1].committed < until:
        processes.check()
        if time.monotonic() > deadline:
            done = samples[-1].committed if samples else 0
            raise ForeshardError(f"{done} of {until} requests were forwarded in {RUN_S:.0f} s")
        time.sleep(LOOK_S)
        committed = watcher.committed()
        if committed is not None:
            samples.append(Sample(time.monotonic(), committed, processes.used()))
    return samples


def measured(samples: list[Sample], window: Window) -> Measure:
    """Returns the measure between the first sample past the window's begin and the last one."""
    began = next(sample for sample in samples if sample.committed >= window.skip)
    ended = samples[-1]
    count = ended.committed - began.committed
    if count <= 0:
        raise ForeshardError(f"{window.until} requests are too few to measure: all were forwarded at once")
    seconds = ended.at_s - began.at_s
    return Measure(
        requests_per_s=count / seconds,
        cpu_us=(ended.used.cpu_s - began.used.cpu_s) / count * 1e6,
        rss_mb=max(sample.used.rss_bytes for sample in samples) / 1e6,
        threads=max(sample.used.threads for sample in samples),
        seconds=seconds,
        skipped=began.committed,
    )
