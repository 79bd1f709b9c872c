"""What the balancer's tests share: a site, balancers and routers as the command line starts them."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from app import operators, topic_admin
from app.config import Config, load
from schemas import topics
from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE
from schemas.records import (
    Answer,
    ClusterAdd,
    Command,
    Counts,
    Decision,
    LoadReport,
    MappingMeta,
    MappingRecord,
    Mode,
    PartitionLoad,
    SetMode,
    decision_record,
    mapping_record,
)
from streams.tables import read_table
from tests.streams.router_kit import (
    CLUSTER_PARTITIONS,
    INGEST_PARTITIONS,
    ROOT,
    RouterProcess,
    Site,
    wait_for,
)

SCALE = 10.0
"""Model seconds per second: rounds come every second."""
SHARDS = 32
CONFIG = """
[kafka]
"bootstrap.servers" = "{bootstrap}"
[topics]
prefix = "{prefix}"
ingest = "{prefix}requests"
replication_factor = 1
cluster_partitions = {partitions}
[topics.partitions]
dead-letter = 2
[sharding]
shards = {shards}
[[request_types]]
name = "update"
key = ["json:user.id"]
keyspace = "user"
forecast_by = "{forecast_by}"
[clock]
start = 1800000000.0
t0 = {t0}
time_scale = {scale}
[router]
group = "{prefix}router"
[web]
port = 0
"""


@dataclass
class Process:
    """A balancer process."""

    process: subprocess.Popen[str]
    errors: Path
    url: str = ""

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stderr(self) -> str:
        return self.errors.read_text()

    def get(self, path: str) -> str:
        """Returns what its web answers."""
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())

    def role(self) -> str:
        return str(json.loads(self.get("/api/state"))["role"])

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> float:
        """Ends it with SIGTERM, checks that it ended well and returns the seconds it took."""
        started = time.monotonic()
        self.process.terminate()
        status = self.process.wait(10)
        assert status == 0, f"exit status {status}: {self.stderr()}"
        return time.monotonic() - started


@dataclass
class BalancedSite(Site):
    """A site whose mapping balancers write; everything comes from one configuration file."""

    t0: float = field(default_factory=time.time)
    forecast_by: str = ""

    @property
    def path(self) -> Path:
        return self.folder / "foreshard.toml"

    @property
    def config(self) -> Config:
        return load(self.path, {})

    @property
    def now(self) -> float:
        """Model time."""
        return self.config.clock.now()

    def create_topics(self) -> None:
        """Writes the configuration and makes all topics."""
        values = {
            "bootstrap": self.bootstrap,
            "prefix": self.prefix,
            "partitions": CLUSTER_PARTITIONS,
            "t0": self.t0,
            "forecast_by": self.forecast_by,
        }
        self.path.write_text(CONFIG.format(**values, shards=SHARDS, scale=SCALE))
        found = topic_admin.create(self.config, ingest_partitions=INGEST_PARTITIONS)
        assert all(item.ok for item in found), found
        for name in self.clusters:
            topic_admin.create_cluster_topic(self.config, self.topic(name))

    def close(self) -> None:
        """Ends whatever still runs."""
        super().close()
        for process in self.running:
            if process.stdout is not None:
                process.stdout.close()

    # ------------------------------------------------------------------ processes

    def start(self, verb: str, *arguments: str, path: Path | None = None) -> Process:
        """Starts a process of the command line."""
        errors = self.folder / f"{verb}-{len(self.running)}.err"
        command = [sys.executable, "-m", "app.cli", verb, "-c", str(path or self.path), *arguments]
        with errors.open("w") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=out, text=True)
        self.running.append(process)
        return Process(process, errors)

    def balancer(self, *, lead: bool = True) -> Process:
        """Starts a balancer and returns it when it leads, or at once when its web listens."""
        started = self.start("balancer")
        started.url = self._url(started)
        if lead:
            self.wait_leading(started)
        return started

    def wait_leading(self, process: Process, timeout_s: float = 30.0) -> None:
        wait_for(f"the balancer leads; {process.stderr()}", lambda: process.role() == "leading", timeout_s)

    def cli_router(self, index: int = 0) -> RouterProcess:
        """Starts a router and returns it once its web listens."""
        started = self.start("router", "--index", str(index))
        return RouterProcess(started.process, self._url(started), started.errors)

    def _url(self, started: Process) -> str:
        stdout = started.process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], 30)
        line = stdout.readline() if readable else ""
        assert "http://" in line, f"no address within 30 s: {line!r} {started.stderr()}"
        return line.split()[-1]

    # ------------------------------------------------------------------ records

    def command(self, record: Command) -> None:
        """Stores a command and does not wait for its answer."""
        operators.send(self.config, topics.COMMANDS, None, record)

    def register(self, capacity: float = 100.0, names: Sequence[str] = ()) -> None:
        """Stores mode auto and the clusters, as an operator would before the first start."""
        self.command(SetMode(id="auto", at=self.now, mode=Mode.AUTO))
        for name in names or self.clusters:
            self.command(self.add(name, capacity))

    def add(self, name: str, capacity: float = 100.0, **more: str) -> ClusterAdd:
        return ClusterAdd(
            id=more.pop("id", f"add-{name}"),
            at=self.now,
            cluster=name,
            topic=more.pop("topic", self.topic(name)),
            group=more.pop("group", f"{self.prefix}{name}"),
            capacity_cps=capacity,
        )

    def put(self, topic: str, value: bytes | None, key: bytes | None = None, age_s: float = 0.0) -> None:
        """Stores a record as it is in one of our topics, as if it had been sent `age_s` ago."""
        producer = Producer(self.kafka | {"message.max.bytes": 2_000_000})
        sent_ms = int((time.time() - age_s) * 1000)
        producer.produce(self.prefix + topic, value, key, 0, timestamp=sent_ms)
        assert producer.flush(20) == 0

    def table(self, spec: topics.TopicSpec) -> list[Message]:
        return read_table(self.config.kafka, self.config.topic(spec))

    def decisions(self) -> list[tuple[int, Decision | Answer]]:
        """Returns (offset, record) of all decisions and answers."""
        return [(m.offset() or 0, decision_record(m.value())) for m in self.table(topics.DECISIONS)]

    def rounds(self) -> list[Decision]:
        return [record for _, record in self.decisions() if isinstance(record, Decision)]

    def answers(self) -> dict[str, Answer]:
        return {record.command: record for _, record in self.decisions() if isinstance(record, Answer)}

    def mapping(self) -> list[tuple[int, MappingRecord | MappingMeta]]:
        """Returns (offset, record) of all that is in the mapping topic."""
        return [(m.offset() or 0, mapping_record(m.value())) for m in self.table(topics.MAPPING)]

    def metas(self) -> list[MappingMeta]:
        return [record for _, record in self.mapping() if isinstance(record, MappingMeta)]

    def epochs(self) -> list[int]:
        """Returns the epoch of every decision, answer and mapping record, per topic in order."""
        return [r.epoch for _, r in self.decisions()] + [r.epoch for _, r in self.mapping()]

    def dead_letters(self) -> list[dict[str, str]]:
        """Returns error, reason and source of every dead letter."""
        names = {HEADER_ERROR: "error", HEADER_REASON: "reason", HEADER_SOURCE: "source"}
        found = []
        for message in self.table(topics.DEAD_LETTER):
            headers = {names[name]: (value or b"").decode() for name, value in message.headers() or []}
            found.append(headers | {"value": (message.value() or b"").decode("utf-8", "replace")})
        return found

    def report(self) -> LoadReport:
        """Returns a load report of an idle router that owns all ingest partitions."""
        window = self.now // 5.0 * 5.0
        parts = [
            PartitionLoad(
                partition=number,
                from_offset=0,
                to_offset=0,
                requests=0,
                bytes=0,
                lag=0,
                forwarded=Counts(),
            )
            for number in range(INGEST_PARTITIONS)
        ]
        return LoadReport(
            router="test",
            window_from=window - 5.0,
            window_to=window,
            epoch=1,
            version=1,
            series=["update"],
            partitions=parts,
        )


class Backends:
    """Consumer groups that are done with everything at once: they commit the end offsets twice a second."""

    def __init__(self, site: BalancedSite) -> None:
        self._site = site
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Backends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(20)

    def _run(self) -> None:
        consumers = {}
        for name in self._site.clusters:
            settings = {"enable.auto.commit": False, "group.id": f"{self._site.prefix}{name}"}
            consumers[name] = Consumer(self._site.kafka | settings)
        while not self._ended.wait(0.5):
            for name, consumer in consumers.items():
                self._commit(name, consumer)
        for consumer in consumers.values():
            consumer.close()

    def _commit(self, name: str, consumer: Consumer) -> None:
        places = []
        try:
            for number in range(CLUSTER_PARTITIONS):
                place = TopicPartition(self._site.topic(name), number)
                place.offset = consumer.get_watermark_offsets(place, timeout=5.0)[1]
                places.append(place)
            consumer.commit(offsets=places, asynchronous=False)
        except KafkaException:
            return  # the broker is away: next time


@contextmanager
def balanced_site(bootstrap: str, prefix: str, folder: Path, forecast_by: str = "") -> Iterator[BalancedSite]:
    """A site with its topics and without a mapping; its processes end with it."""
    site = BalancedSite(bootstrap, prefix + ".", folder, forecast_by=forecast_by)
    site.create_topics()
    try:
        yield site
    finally:
        site.close()
