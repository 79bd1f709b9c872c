"""`foreshard bench router`: the router against a bare loop with the same guarantee, in one run.

Each variant forwards the same requests, in a process and a consumer group of its own, one after the
other and in alternating order. What is measured lies between two committed offsets, so that neither
start-up nor the end of the topic counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from app.config import load
from app.local_kafka import local_kafka
from schemas.errors import ForeshardError
from schemas.records import ClusterState, MappedCluster
from schemas.topics import DEAD_LETTER, LOAD, MAPPING, ROOM_BYTES
from streams.core.mapping import first_mapping
from streams.mapping_topic import MappingWriter, plan_messages

RUNS = 3
"""Runs of each variant; the median counts."""

PARTITIONS = 6
CLUSTERS = 6
CLUSTER_PARTITIONS = 12

WINDOW = (0.15, 0.95)
"""The parts of the requests between whose commits it is measured."""

RUN_S = 300.0
"""Longest time that one run may take."""

BARE_LOOP = Path(__file__).parents[1] / "bench" / "bare_loop.py"
PREFIX = "bench."
INGEST = "bench.requests"
SHARDS = 256

CONFIG = f"""
[kafka]
"bootstrap.servers" = "%s"
[topics]
prefix = "{PREFIX}"
ingest = "{INGEST}"
[sharding]
shards = {SHARDS}
type_from = ["header:type", "json:type"]
[router]
group = "%s"
instance = "bench"
[web]
port = 0
[[request_types]]
name = "update"
key = ["json:tenant", "json:user.id"]
keyspace = "user"
[[request_types]]
name = "read"
key = ["json:tenant", "json:user.id"]
keyspace = "user"
[[request_types]]
name = "*"
key = ["key"]
"""


@dataclass(frozen=True)
class Measure:
    """What one run took, in the window."""

    requests_per_s: float
    cpu_us: float
    """CPU of the process and its threads per request, microseconds."""
    rss_mb: float
    threads: int


def run_bench_router(json_path: Path | None, messages: int) -> dict[str, Any]:
    """Returns (and prints) a row per variant: requests_per_s, cpu_us_per_request, ratio_to_bare, ..."""
    if not BARE_LOOP.exists():
        raise ForeshardError(f"{BARE_LOOP} is missing: run the benchmark from a clone of the repository")
    console = Console(stderr=True)
    with local_kafka(quiet=False) as kafka, tempfile.TemporaryDirectory() as folder:
        _make_topics(kafka.bootstrap, Path(folder))
        console.print(f"writing {messages:,} requests ...")
        _write_requests(kafka.bootstrap, messages)
        measured: dict[str, list[Measure]] = {"bare loop": [], "foreshard": []}
        for number in range(RUNS):
            order = list(measured) if number % 2 == 0 else list(reversed(measured))
            for variant in order:
                group = f"bench-{variant.replace(' ', '-')}-{number}"
                with _process(variant, kafka.bootstrap, group, Path(folder)) as process:
                    found = _measure(process, kafka.bootstrap, group, messages)
                console.print(f"{variant}, run {number + 1}: {found.requests_per_s:,.0f} requests/s")
                measured[variant].append(found)
    report = {"messages": messages, "runs": RUNS, "cpus": os.cpu_count(), "rows": _rows(measured)}
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    _show(report)
    return report


def _make_topics(bootstrap: str, folder: Path) -> None:
    """Makes all topics and writes the first mapping."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    roomy = {"max.message.bytes": str(1_048_588 + ROOM_BYTES)}
    names = _clusters()
    wanted = [
        NewTopic(INGEST, PARTITIONS, 1),
        NewTopic(PREFIX + DEAD_LETTER.name, 1, 1, config=roomy),
        NewTopic(PREFIX + LOAD.name, 1, 1),
        NewTopic(PREFIX + MAPPING.name, 1, 1, config={"cleanup.policy": "compact"}),
        *(NewTopic(cluster.topic, CLUSTER_PARTITIONS, 1, config=roomy) for cluster in names.values()),
    ]
    for made in admin.create_topics(wanted).values():
        made.result(30)
    rules = load(_config(bootstrap, "rules", folder), {}).rules
    weights = dict.fromkeys(names, 1.0)
    records, meta = first_mapping(SHARDS, weights, names, 1, rules.rules_hash(), "1.0")
    writer = MappingWriter({"bootstrap.servers": bootstrap}, PREFIX)
    writer.take_over()
    writer.write(plan_messages(PREFIX + MAPPING.name, records, meta))
    writer.close()


def _clusters() -> dict[str, MappedCluster]:
    return {
        f"c{number}": MappedCluster(
            topic=f"{PREFIX}requests.c{number}",
            group=f"c{number}",
            partitions=CLUSTER_PARTITIONS,
            state=ClusterState.ACTIVE,
        )
        for number in range(CLUSTERS)
    }


def _config(bootstrap: str, group: str, folder: Path) -> Path:
    path = folder / f"{group}.toml"
    path.write_text(CONFIG % (bootstrap, group))
    return path


def _write_requests(bootstrap: str, messages: int) -> None:
    """Writes requests of about 300 bytes, of 20,000 users, keyed by user."""
    chance = random.Random(1)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "compression.type": "lz4"})
    noise = [f"{chance.getrandbits(720):0180x}" for _ in range(64)]
    for number in range(messages):
        user = chance.randrange(20_000)
        value = {
            "type": "update" if number % 4 else "read",
            "tenant": f"tenant-{user % 50}",
            "user": {"id": f"user-{user}", "region": "eu"},
            "seq": number,
            "body": noise[number % 64],
        }
        while True:
            try:
                producer.produce(INGEST, json.dumps(value).encode(), f"user-{user}".encode())
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    if producer.flush(60):
        raise ForeshardError("the broker did not take the benchmark's requests")


@contextlib.contextmanager
def _process(variant: str, bootstrap: str, group: str, folder: Path) -> Iterator[psutil.Popen]:
    """A running variant."""
    if variant == "bare loop":
        topics = {cluster.topic: cluster.partitions for cluster in _clusters().values()}
        given = {"bootstrap": bootstrap, "ingest": INGEST, "group": group, "topics": topics}
        command = [sys.executable, "-m", "bench.bare_loop", json.dumps(given)]
    else:
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "router",
            "--config",
            str(_config(bootstrap, group, folder)),
        ]
    process = psutil.Popen(command, cwd=BARE_LOOP.parents[1], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)


def _measure(process: psutil.Popen, bootstrap: str, group: str, messages: int) -> Measure:
    """Returns what the variant took between the commits of WINDOW's parts of the requests."""
    # The stable view would wait for every open transaction, and there is always one.
    watcher = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"}
    )
    places = [TopicPartition(INGEST, number) for number in range(PARTITIONS)]
    seen: list[tuple[float, int, float]] = []
    deadline = time.monotonic() + RUN_S
    while not seen or seen[-1][1] < WINDOW[1] * messages:
        if process.poll() is not None:
            raise ForeshardError(f"the measured process ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ForeshardError(f"{group} forwarded {seen[-1][1] if seen else 0} requests in {RUN_S:.0f} s")
        time.sleep(0.05)
        try:
            done = sum(max(0, place.offset) for place in watcher.committed(places, 10))
        except KafkaException:
            continue  # a broker that has just started still looks for the group's coordinator
        used = process.cpu_times()
        seen.append((time.monotonic(), done, used.user + used.system))
    watcher.close()
    began = next(row for row in seen if row[1] >= WINDOW[0] * messages)
    ended = seen[-1]
    count = ended[1] - began[1]
    if not count:
        raise ForeshardError(f"{messages} requests are too few to measure: all were forwarded at once")
    return Measure(
        requests_per_s=count / (ended[0] - began[0]),
        cpu_us=(ended[2] - began[2]) / count * 1e6,
        rss_mb=process.memory_info().rss / 1e6,
        threads=process.num_threads(),
    )


def _rows(measured: dict[str, list[Measure]]) -> list[dict[str, Any]]:
    bare = statistics.median(run.requests_per_s for run in measured["bare loop"])
    rows = []
    for variant, runs in measured.items():
        rate = statistics.median(run.requests_per_s for run in runs)
        rows.append(
            {
                "variant": variant,
                "guarantee": "exactly-once",
                "threads": runs[0].threads,
                "requests_per_s": round(rate),
                "cpu_us_per_request": round(statistics.median(run.cpu_us for run in runs), 2),
                "ratio_to_bare": round(rate / bare, 3),
                "rss_mb": round(statistics.median(run.rss_mb for run in runs)),
            }
        )
    return rows


def _show(report: dict[str, Any]) -> None:
    table = Table(
        title=f"{report['messages']:,} requests, medians of {RUNS}, {report['cpus']} CPUs with the broker"
    )
    for column in report["rows"][0]:
        table.add_column(
            column.replace("_", " "), justify="left" if column in ("variant", "guarantee") else "right"
        )
    for row in report["rows"]:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console().print(table)
