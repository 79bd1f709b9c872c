"""A variant while it runs: its processes, what they use, and how far the group has committed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from app.bench.peers import ROOT, Environment, Missing, python_environment, streams_environment
from app.bench.stage import INGEST_PARTITIONS, MAPPING_HEADER, Job, Stage, clusters
from app.bench.variants import Family
from schemas.errors import ForeshardError

STOP_S = 10.0
"""Seconds that a variant may take to end after SIGTERM."""

LOOK_S = 2.0
"""Seconds between two looks for new child processes."""

LOG_LINES = 5
"""Lines of a dead variant's output in the error."""


def environments(families: set[Family]) -> dict[Family, Environment | Missing]:
    """Returns how to start each family; peers' environments are made where they are new."""
    found: dict[Family, Environment | Missing] = {
        "bare": Environment((sys.executable, "-m", "bench.bare_loop")),
        "foreshard": Environment((sys.executable, "-m", "app.cli", "router", "--config")),
    }
    if "streams" in families:
        found["streams"] = streams_environment()
    if "quix" in families:
        found["quix"] = python_environment("quix")
    if "faust" in families:
        found["faust"] = python_environment("faust")
    return found


def command(stage: Stage, job: Job, environment: Environment) -> list[str]:
    """Returns the command that starts the variant."""
    stage.snapshot(job)
    if job.variant.family == "foreshard":
        path = str(stage.config_path(job))
        return [*environment.command, path, "--processes", str(job.variant.workers)]
    if job.variant.family == "bare":
        given = {
            "bootstrap": stage.bootstrap,
            "ingest": job.ingest,
            "group": job.group,
            "guarantee": job.variant.guarantee,
            "topics": {cluster.topic: cluster.partitions for cluster in clusters().values()},
            "mapping": MAPPING_HEADER,
        }
        return [*environment.command, json.dumps(given)]
    return [*environment.command, str(stage.peer_file(job))]


@dataclass(frozen=True)
class Used:
    """What the processes have used since they started."""

    cpu_s: float
    rss_bytes: int
    """Now."""
    threads: int


class Running:
    """One variant's process and what it has started."""

    def __init__(self, process: psutil.Popen, log: Path) -> None:
        self._process = process
        self._log = log
        self._tree: list[psutil.Process] = []
        self._looked = 0.0

    def check(self) -> None:
        """Raises ForeshardError where the process has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            said = " / ".join(line.strip() for line in lines)
            raise ForeshardError(f"the measured process ended with status {self._process.returncode}: {said}")

    def used(self) -> Used:
        """Returns what it and its children use."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._tree = [self._process, *self._process.children(recursive=True)]
        cpu_s, rss_bytes, threads = 0.0, 0, 0
        for member in self._tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += member.memory_info().rss
                threads += member.num_threads()
        return Used(cpu_s, rss_bytes, threads)


@contextlib.contextmanager
def running(stage: Stage, job: Job, environment: Environment) -> Iterator[Running]:
    """A running variant; ended, with everything that it started, at the end."""
    log = stage.folder / f"{job.group}.log"
    started = command(stage, job, environment)
    with log.open("w") as output:
        process = psutil.Popen(started, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield Running(process, log)
        finally:
            _end(process)


def _end(process: psutil.Popen) -> None:
    everyone = [process, *process.children(recursive=True)] if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_S)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)
    for member in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


class Watcher:
    """Asks how many requests a group has committed."""

    def __init__(self, bootstrap: str, ingest: str, group: str) -> None:
        # The stable view would wait for every open transaction, and there is always one.
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "isolation.level": "read_uncommitted",
                "log_level": 0,
            }
        )
        self._places = [TopicPartition(ingest, number) for number in range(INGEST_PARTITIONS)]

    def committed(self) -> int | None:
        """Returns the sum of the committed offsets; None where the broker does not say."""
        try:
            found = self._consumer.committed(self._places, 10)
        except KafkaException:
            return None  # a broker that has just started still looks for the group's coordinator
        return sum(max(0, place.offset) for place in found)

    def close(self) -> None:
        """Ends it."""
        self._consumer.close()
