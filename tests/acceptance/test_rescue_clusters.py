"""A cluster dies with work waiting; an operator gives it up and rescues the work, by the command line.

Real balancer, routers and backends. Each request that the dead backend had not done is processed once
elsewhere, and from then on every key is in order again, also when the cluster comes back.
`python -m tests.acceptance.test_rescue_clusters 50000` does it with as many requests.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from app.chaos.backend import read_rows
from app.config import Config, load
from app.local_kafka import LocalKafka, local_kafka
from streams.core.keys import locate
from streams.core.offset_note import decode_note
from tests.acceptance.cli_kit import ROOT, Cli, cli_for
from tests.streams.broker import until

pytestmark = pytest.mark.broker

REQUESTS = 10_000
USERS = 400
TRICKLE_RPS = 400.0
"""Requests of all users that go on all the time."""
DEAD_RPS = 2_000.0
"""What the cluster that dies works off before."""
ROUTER = """
[router]
group = "{prefix}-router"
dead_grace_s = 1.0
"""
WAIT_S = 120.0


@dataclass
class Stage:
    """Everything that runs, and what was asked for."""

    cli: Cli
    folder: Path
    config: Config
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    asked: list[int] = field(default_factory=lambda: [0] * USERS)
    """Requests of each user so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a Python module with arguments."""
        made = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL)
        self.running.append(made)
        return made

    def backend(self, cluster: str, life: int = 1, rate: float = 0.0) -> subprocess.Popen[bytes]:
        """Starts the backend of a cluster; each life writes a file of its own."""
        return self.start(
            *("app.chaos.backend", "--bootstrap", self.cli.bootstrap, "--topic", self.topic(cluster)),
            *("--group", cluster, "--rate", str(rate), "--commit-s", "0.5"),
            *("--out", str(self.folder / f"{cluster}.{life}")),
        )

    def topic(self, cluster: str) -> str:
        return f"{self.cli.prefix}.requests.{cluster}"

    def produce(self, producer: Producer, user: int) -> None:
        """The next request of a user."""
        with self.lock:
            sequence = self.asked[user]
            self.asked[user] += 1
            value = b'{"type": "order", "tenant": "acme", "user": {"id": %d}}' % user
            identity = [("id", b"%d.%d" % (user, sequence))]
            producer.produce(self.config.ingest, value, b"u%d" % user, headers=identity)
        producer.poll(0)

    def producer(self) -> Producer:
        settings = {"enable.idempotence": True, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
        return Producer(self.config.kafka | settings)

    def rows(self, *names: str) -> np.ndarray[Any, np.dtype[np.void]]:
        """Returns what these lives of backends have processed; without names, all of them."""
        found = [self.folder / name for name in names] or sorted(self.folder.glob("c?.?"))
        return np.concatenate([read_rows(self.folder / "none"), *map(read_rows, found)])

    def mapping(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.cli.json("mapping", "show")
        return shown

    def slots(self, cluster: str) -> int:
        """Returns how many slots a cluster owns."""
        segments = (segment for record in self.mapping()["records"] for segment in record["segments"])
        return sum(stop - start for start, stop, owner in segments if owner == cluster)

    def users_of(self, cluster: str) -> list[int]:
        """Returns the users whose slot a cluster owns."""
        records = {record["shard"]: record["segments"] for record in self.mapping()["records"]}
        found = []
        for user in range(USERS):
            shard, slot = locate(self.config.rules, "order", ["acme", str(user)])
            owner = next(o for start, stop, o in records[shard] if start <= slot % 256 < stop)
            found += [user] if owner == cluster else []
        return found

    def committed(self, group: str, topic: str, partitions: int) -> list[TopicPartition]:
        consumer = Consumer(self.config.kafka | {"group.id": group})
        found = consumer.committed([TopicPartition(topic, number) for number in range(partitions)], 10)
        consumer.close()
        return found

    def routed(self) -> bool:
        """Returns whether the routers have decided about everything that was in the ingest topic just now."""
        consumer = Consumer(self.config.kafka | {"group.id": "none"})
        places = [TopicPartition(self.config.ingest, number) for number in range(2)]
        ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
        consumer.close()
        return all(position >= end for position, end in zip(self.positions(), ends, strict=True))

    def positions(self) -> list[int]:
        places = self.committed(f"{self.cli.prefix}-router", self.config.ingest, 2)
        notes = [decode_note(place.metadata) for place in places]
        return [note.position if note else -1 for note in notes]

    def newest(self) -> int:
        """Returns the mapping version that every ingest partition uses at least."""
        places = self.committed(f"{self.cli.prefix}-router", self.config.ingest, 2)
        notes = [decode_note(place.metadata) for place in places]
        return min(note.newest if note else 0 for note in notes)


@contextmanager
def staged(bootstrap: str, folder: Path) -> Iterator[Stage]:
    """A balancer and two routers, three clusters; whatever runs ends with it."""
    prefix = f"rescue{time.monotonic_ns()}"
    cli = cli_for(folder, bootstrap, prefix)
    cli.file.write_text(cli.file.read_text() + ROUTER.format(prefix=prefix))
    cli.ok("topics", "create", "--ingest-partitions", "2")
    until(lambda: cli.run("topics", "check").exit_code == 0, "the broker knows the topics")
    for name in ("c1", "c2", "c3"):
        cli.ok("clusters", "add", name, "--capacity", "1000", "--no-wait")
    stage = Stage(cli, folder, load(cli.file, {}))
    try:
        stage.start("app.cli", "balancer", "-c", str(cli.file))
        for index in ("0", "1"):
            stage.start("app.cli", "router", "-c", str(cli.file), "--index", index)
        yield stage
    finally:
        for process in stage.running:
            process.kill()
            process.wait(10)


@contextmanager
def trickle(stage: Stage) -> Iterator[None]:
    """Requests of all users in turn, while the block runs."""
    stopped = threading.Event()

    def run() -> None:
        producer = stage.producer()
        for user in itertools.cycle(range(USERS)):
            if stopped.wait(1 / TRICKLE_RPS):
                break
            stage.produce(producer, user)
        assert producer.flush(30) == 0

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(30)


def rescue_story(bootstrap: str, folder: Path, requests: int) -> str:
    """A cluster is killed, set down, rescued and comes back; returns what happened."""
    with staged(bootstrap, folder) as stage:
        cli = stage.cli
        dying = stage.backend("c1", rate=DEAD_RPS)
        stage.backend("c2")
        stage.backend("c3")
        with trickle(stage):
            until(lambda: len(stage.rows()) > USERS, "requests flow", WAIT_S)
            die_at_work(stage, dying, requests)
            cli.ok("clusters", "down", "c1")
            until(lambda: stage.slots("c1") == 0, "its slots have left", WAIT_S)
            until(lambda: stage.newest() >= stage.mapping()["version"], "the routers know", WAIT_S)
            until(lambda: cli.run("clusters", "rescue", "c1").exit_code == 0, "it is rescued", WAIT_S)
            until(lambda: stage.newest() >= stage.mapping()["version"], "the routers know of it", WAIT_S)
            with stage.lock:
                proven = list(stage.asked)
            said = cli.ok("rounds", "list", "-n", "500")
            rescued = int(re.findall(r"rescued (\d+) requests of c1", said)[-1])
            comes_back(stage)
        until(stage.routed, "all is routed", WAIT_S)
        until(lambda: distinct(stage.rows()) == sum(stage.asked), "all is processed", WAIT_S)
        assert stage.mapping()["clusters"]["c1"]["rescues"] == 1
        return check(stage, requests, rescued, proven)


def die_at_work(stage: Stage, dying: subprocess.Popen[bytes], requests: int) -> None:
    """The backend of c1 is killed while it works; at least so many requests wait for it then."""
    users = stage.users_of("c1")
    producer = stage.producer()
    before = len(stage.rows("c1.1"))
    for user in itertools.islice(itertools.cycle(users), requests + 2_000):
        stage.produce(producer, user)
    assert producer.flush(60) == 0
    until(lambda: len(stage.rows("c1.1")) > before + 500, "it works", WAIT_S)
    dying.kill()
    dying.wait(10)
    until(stage.routed, "all is routed", WAIT_S)


def comes_back(stage: Stage) -> None:
    """c1 has a new backend and is active; its slots return under traffic."""
    stage.backend("c1", life=2)
    stage.cli.ok("clusters", "activate", "c1")
    until(lambda: stage.slots("c1") > 0, "slots come back", WAIT_S)
    until(lambda: len(stage.rows("c1.2")) > USERS // 4, "it works again", WAIT_S)


def distinct(rows: np.ndarray[Any, np.dtype[np.void]]) -> int:
    """Returns how many different requests were processed."""
    return len(np.unique(rows["id"].astype(np.uint64) << np.uint64(32) | rows["seq"]))


def check(stage: Stage, requests: int, rescued: int, proven: list[int]) -> str:
    """Fails unless each request was processed once, and each key in order from `proven` on."""
    rows = stage.rows()
    code = rows["id"].astype(np.uint64) << np.uint64(32) | rows["seq"]
    values, counts = np.unique(code, return_counts=True)
    assert len(values) == sum(stage.asked), f"lost {sum(stage.asked) - len(values)}"
    assert rescued >= requests
    dead = stage.rows("c1.1")
    done = set((dead["id"].astype(np.uint64) << np.uint64(32) | dead["seq"]).tolist())
    again = values[counts > 1].tolist()
    assert counts.max() <= 2
    assert set(again) <= done, "only what the dead backend had done, and not committed, may be done again"
    wrong = out_of_order(rows, proven)
    assert wrong == 0, f"{wrong} of {sum(stage.asked) - sum(proven)} out of order"
    return (
        f"{rescued} of {sum(stage.asked)} requests rescued, each processed once; {len(again)} of them twice, "
        f"which the dead backend had done and not committed; {sum(stage.asked) - sum(proven)} requests "
        f"afterwards, all in order"
    )


def out_of_order(rows: np.ndarray[Any, np.dtype[np.void]], proven: list[int]) -> int:
    """Returns how many requests, from `proven` on, were first processed after a later one of their user."""
    rows = rows[np.argsort(rows["ns"], kind="stable")]
    newest = [-1] * USERS
    wrong = 0
    seen: set[tuple[int, int]] = set()
    for user, sequence in zip(rows["id"].tolist(), rows["seq"].tolist(), strict=True):
        if (user, sequence) in seen:
            continue
        seen.add((user, sequence))
        late = sequence < newest[user]
        wrong += late and (sequence >= proven[user] or newest[user] >= proven[user])
        newest[user] = max(newest[user], sequence)
    return wrong


def test_what_waits_for_a_dead_cluster_is_rescued_once_and_order_goes_on(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    """The backend was killed in the middle of its work; its cluster comes back later."""
    rescue_story(kafka.bootstrap, tmp_path, REQUESTS)


def main() -> None:
    """Tells the story on a broker of its own, with as many requests as the first argument says."""
    with local_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(rescue_story(kafka.bootstrap, Path(folder), int(sys.argv[1])) + "\n")


if __name__ == "__main__":
    main()
