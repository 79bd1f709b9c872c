"""One run on a broker: its processes, its requests, its failures, and what is left when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app import topic_admin
from app.chaos.crew import Crew
from app.chaos.evidence import Scene, wait_until_none
from app.chaos.failures import schedule
from app.chaos.judge import Evidence, judge
from app.chaos.report import Outcome
from app.chaos.scrape import Scraper, ready
from app.chaos.settings import (
    CLUSTERS,
    INGEST_PARTITIONS,
    Chaos,
    group_of,
    service_rate_rps,
    topic_of,
    write_config,
)
from app.chaos.storm import Storm
from app.chaos.traffic import PRODUCERS, make_traffic
from app.config import Config
from app.local_kafka import LocalKafka
from schemas.errors import ForeshardError, NotReadyError, TopicError

READY_S = 90.0
"""Wall seconds until the first router must route: a dozen processes start at once."""
LEAD_S = 0.5
TICK_S = 0.05
TELL_S = 10.0
STALL_S = 60.0
"""Seconds without any progress after which the rest is not waited for."""


class ProducerFailedError(ForeshardError):
    """A producer of the run could not send its requests."""

    code = "producer-failed"


@dataclass
class Run:
    """Runs one chaos in `folder`; `run` is its table of contents."""

    chaos: Chaos
    kafka: LocalKafka
    folder: Path
    say: Callable[[str], None]
    scraper: Scraper = field(default_factory=Scraper)
    config: Config = field(init=False)
    scene: Scene = field(init=False)
    crew: Crew = field(init=False)
    _told_at: float = 0.0

    def run(self) -> tuple[Outcome, Evidence]:
        """Topics first, then processes, requests and failures; when all is consumed, the verdict."""
        began = time.monotonic()
        deadline = began + self.chaos.duration_limit_s
        self.config = write_config(
            self.folder / "foreshard.toml", self.kafka.bootstrap, self.chaos, time.time()
        )
        self._make_topics()
        self.scene = Scene(self.config, {name: list(self._row_files(name)) for name in CLUSTERS})
        with Crew(self.folder) as self.crew, self.scraper:
            self._start()
            storm = self._send_and_fail(deadline)
            waiting, behind = self._consume_the_rest(deadline)
        self.say("judging")
        evidence = self.scene.gather(make_traffic(self.chaos.requests, self.chaos.seed))
        outcome = Outcome(
            chaos=self.chaos,
            verdict=judge(evidence),
            kills=storm.kills,
            mapping_changes=self.scene.mapping_changes(),
            seconds=time.monotonic() - began,
            waiting=waiting,
            behind=behind,
            timeline=storm.rows(),
            broker=self.kafka.kind,
        )
        return outcome, evidence

    # ------------------------------------------------------------------ before

    def _make_topics(self) -> None:
        findings = topic_admin.create(self.config, ingest_partitions=INGEST_PARTITIONS)
        for cluster in CLUSTERS:
            findings += topic_admin.create_cluster_topic(self.config, topic_of(cluster))
        wrong = [finding for finding in findings if not finding.ok]
        if wrong:
            raise TopicError(f"topic {wrong[0].topic} was not made: {wrong[0].text}")

    def _start(self) -> None:
        """Starts everything but the second and third router, and waits until the first one routes."""
        chaos, bootstrap = self.chaos, ("--bootstrap", self.kafka.bootstrap)
        self.crew.start(
            "plan",
            "mapping",
            "app.chaos.plan_writer",
            *("--config", str(self.config.path), "--seed", str(chaos.seed), "--rule", chaos.rule),
            *("--out", str(self.folder / "plans.jsonl")),
        )
        self._start_router(0)
        for name, backend in CLUSTERS.items():
            for number, rows in enumerate(self._row_files(name)):
                self.crew.start(
                    f"{name}-{number}",
                    "backend",
                    "app.chaos.backend",
                    *(*bootstrap, "--topic", topic_of(name), "--group", group_of(name)),
                    *("--rate", repr(service_rate_rps(chaos, name)), "--commit-s", repr(backend.commit_s)),
                    *("--out", str(rows)),
                )
        for number in range(PRODUCERS):
            self.crew.start(
                f"producer-{number}",
                "producer",
                "app.chaos.producer",
                *(*bootstrap, "--topic", self.config.ingest, "--start-file", str(self._start_file)),
                *("--seed", str(chaos.seed), "--requests", str(chaos.requests)),
                *("--producer", str(number), "--rate", repr(chaos.rate_rps)),
            )
        self._wait_ready()

    def _start_router(self, index: int) -> None:
        """Starts a router, or the next process of one that was ended."""
        name = f"router-{index}"
        known = self.crew.members.get(name)
        if known is not None:
            self.crew.restart(known)
            return
        command = ("app.cli", "router", "--config", str(self.config.path), "--index", str(index))
        self.crew.start(name, "router", *command)

    def _wait_ready(self) -> None:
        router = self.crew.members["router-0"]
        deadline = time.monotonic() + READY_S
        while not ready(router.log):
            for fallen in self.crew.fallen():
                raise NotReadyError(f"{fallen.name} ended before the run began: {fallen.last_words()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"no router routes after {READY_S:.0f} s; see {self.folder}")
            time.sleep(TICK_S)

    # ------------------------------------------------------------------ while it runs

    def _send_and_fail(self, deadline: float) -> Storm:
        """Returns when all requests are stored, and nothing fails or moves any more."""
        begin = self._go()
        failures = schedule(self.chaos.seed, self.chaos.seconds)
        storm = Storm(self.crew, failures, self.kafka, self._start_router, begin)
        end = begin + self.chaos.seconds
        while time.monotonic() < min(end, deadline) or self._sending():
            storm.tick()
            self._look(begin, storm)
            if time.monotonic() > deadline:
                break
            time.sleep(TICK_S)
        storm.calm()
        self.crew.dismiss([member for member in self.crew.members.values() if member.role == "mapping"])
        self.say("all requests are stored, nothing fails any more; waiting for routers and backends")
        return storm

    def _go(self) -> float:
        """Tells the producers when to begin; returns that monotonic time."""
        begin = time.monotonic() + LEAD_S
        fresh = self._start_file.with_suffix(".new")
        fresh.write_text(repr(begin))
        fresh.replace(self._start_file)
        return begin

    def _sending(self) -> bool:
        producers = self.crew.of("producer", "up")
        for producer in producers:
            status = producer.process.poll()
            if status == 0:
                producer.state = "ended"
            elif status is not None:
                raise ProducerFailedError(f"{producer.name}: {producer.last_words()}")
        return bool(self.crew.of("producer", "up"))

    def _look(self, begin: float, storm: Storm) -> None:
        """Keeps the scraper up to date, and tells how things are."""
        self.scraper.watch(member.log for member in self.crew.of("router", "up"))
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self.say(
                f"{max(0.0, now - begin):4.0f} s of {self.chaos.seconds:.0f}: "
                f"processed {self.scene.processed():,} of {self.chaos.requests:,}, {storm.kills} kills"
            )

    # ------------------------------------------------------------------ after

    def _consume_the_rest(self, deadline: float) -> tuple[int, int]:
        """Waits for the routers, ends them, reads what they wrote, waits for the backends, ends them."""
        waiting = wait_until_none(self.scene.waiting, self.scene.processed, STALL_S, deadline)
        self.scraper.read()
        self.crew.dismiss([member for member in self.crew.members.values() if member.role == "router"])
        self.say("every request was forwarded" if not waiting else f"{waiting:,} requests wait for routers")
        self.scene.read_visible()
        behind = wait_until_none(self.scene.unprocessed, self.scene.processed, STALL_S, deadline)
        self.crew.dismiss([member for member in self.crew.members.values() if member.role == "backend"])
        return waiting, behind

    def _row_files(self, cluster: str) -> Iterator[Path]:
        for number in range(CLUSTERS[cluster].processes):
            yield self.folder / f"{cluster}-{number}.rows"

    @property
    def _start_file(self) -> Path:
        return self.folder / "start"
