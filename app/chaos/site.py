"""Where a run takes place: its folder, its topics, and how each of its processes is started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app import topic_admin
from app.chaos import operator
from app.chaos.crew import Crew
from app.chaos.settings import (
    BALANCERS,
    CLUSTERS,
    INGEST_PARTITIONS,
    Chaos,
    group_of,
    service_rate_rps,
    topic_of,
    write_config,
)
from app.chaos.traffic import PRODUCERS
from app.config import Config
from schemas.errors import TopicError


@dataclass
class Site:
    """The files and topics of a run on a broker."""

    chaos: Chaos
    bootstrap: str
    folder: Path
    config: Config = field(init=False)

    def prepare(self) -> None:
        """Writes the configuration and makes the topics; a balancer finds its first commands there."""
        path = self.folder / "foreshard.toml"
        self.config = write_config(path, self.bootstrap, self.chaos, time.time())
        findings = topic_admin.create(self.config, ingest_partitions=INGEST_PARTITIONS)
        for cluster in CLUSTERS:
            findings += topic_admin.create_cluster_topic(self.config, topic_of(cluster))
        wrong = [finding for finding in findings if not finding.ok]
        if wrong:
            raise TopicError(f"topic {wrong[0].topic} was not made: {wrong[0].text}")
        if self.chaos.mapping == "balancer":
            operator.register(self.config, self.chaos)

    def row_files(self, cluster: str) -> list[Path]:
        """Returns the files in which the cluster's backends write down what they process."""
        return [self.folder / f"{cluster}-{number}.rows" for number in range(CLUSTERS[cluster].processes)]

    def go(self, begin: float) -> None:
        """Tells the producers at which monotonic time to begin."""
        fresh = self._start_file.with_suffix(".new")
        fresh.write_text(repr(begin))
        fresh.replace(self._start_file)

    # ------------------------------------------------------------------ processes

    def start(self, crew: Crew) -> None:
        """Starts everything, and one router."""
        if self.chaos.mapping == "balancer":
            self._start_balancers(crew)
        else:
            self._start_plan_writer(crew)
        self.start_router(crew, 0)
        for cluster in CLUSTERS:
            self._start_backends(crew, cluster)
        for number in range(PRODUCERS):
            self._start_producer(crew, number)

    def start_router(self, crew: Crew, index: int) -> None:
        """Starts a router, or the next process of one that was ended."""
        name = f"router-{index}"
        known = crew.members.get(name)
        if known is not None:
            crew.restart(known)
            return
        crew.start(name, "router", "app.cli", "router", *self._configured, "--index", str(index))

    @property
    def _configured(self) -> Iterator[str]:
        yield from ("--config", str(self.config.path))

    @property
    def _start_file(self) -> Path:
        return self.folder / "start"

    def _start_balancers(self, crew: Crew) -> None:
        for index in range(BALANCERS):
            command = ("app.cli", "balancer", *self._configured, "--index", str(index))
            crew.start(f"balancer-{index}", "mapping", *command)
        seed = ("--seed", str(self.chaos.seed))
        crew.start("operator", "operator", "app.chaos.operator", *self._configured, *seed)

    def _start_plan_writer(self, crew: Crew) -> None:
        given = ("--seed", str(self.chaos.seed), "--rule", self.chaos.rule)
        out = ("--out", str(self.folder / "plans.jsonl"))
        crew.start("plan", "mapping", "app.chaos.plan_writer", *self._configured, *given, *out)

    def _start_backends(self, crew: Crew, cluster: str) -> None:
        rate = ("--rate", repr(service_rate_rps(self.chaos, cluster)))
        commit = ("--commit-s", repr(CLUSTERS[cluster].commit_s))
        place = ("--bootstrap", self.bootstrap, "--topic", topic_of(cluster), "--group", group_of(cluster))
        for number, rows in enumerate(self.row_files(cluster)):
            out = ("--out", str(rows))
            command = ("app.chaos.backend", *place, *rate, *commit, *out)
            crew.start(f"{cluster}-{number}", "backend", *command)

    def _start_producer(self, crew: Crew, number: int) -> None:
        place = ("--bootstrap", self.bootstrap, "--topic", self.config.ingest)
        what = ("--seed", str(self.chaos.seed), "--requests", str(self.chaos.requests))
        which = ("--producer", str(number), "--rate", repr(self.chaos.rate_rps))
        start = ("--start-file", str(self._start_file))
        crew.start(f"producer-{number}", "producer", "app.chaos.producer", *place, *what, *which, *start)
