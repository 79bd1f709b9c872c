"""One pass of the demo: fresh topics, all processes, the load, and what is left when it is over."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from app import operators, topic_admin
from app.config import Config
from app.demo.backend import RECORD, read_rows
from app.demo.history import History
from app.demo.processes import Children
from app.demo.producer import prepare, read_progress
from app.demo.report import Outcome
from app.demo.settings import INGEST_PARTITIONS, ROUTERS, PassClock, PassNames, write_config
from app.demo.traffic import STEP_S, Traffic
from app.demo.warmup import WarmUp
from schemas.errors import HEADER_SOURCE, NotReadyError, TopicError
from schemas.records import ClusterAdd, Decision, Mode, SetMode, decision_record
from schemas.topics import COMMANDS, DEAD_LETTER, DECISIONS, EVENTS
from streams.tables import read_table

READY_S = 180.0
"""Wall seconds until every process must be ready; on a machine busy with other work, 60 were too few."""
LEAD_S = 0.5
"""Wall seconds between the go and the first request."""
DRAIN_S = 60.0
"""Wall seconds that backends get to finish what waits when the last request was sent."""
SETTLE_S = 1.0
"""Wall seconds of quiet after the last expected request: a repeat would show up here."""
TELL_S = 5.0
POLL_S = 0.25

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks our own processes without any proxy that the environment names."""


@dataclass
class OnePass:
    """Runs one pass in `folder`; `run` is its table of contents."""

    kafka: dict[str, str]
    traffic: Traffic
    capacity_cps: dict[str, float]
    """Cost units per model second."""
    time_scale: float
    mode: Mode
    folder: Path
    say: Callable[[str], None]
    announced: bool = True
    """Whether the campaign is announced."""
    policy: str = "predictive"
    names: PassNames = field(init=False)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = PassNames(f"demo-{self.mode.value}-{uuid.uuid4().hex[:6]}.")

    @property
    def seconds(self) -> float:
        return self.traffic.length_s / self.time_scale

    def run(self) -> Outcome:
        """Topics and history first, processes next, the load when all are ready, then the count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prepare(self.traffic, self.folder)
        config = self._configure()
        self._make_topics(config)
        history = History(dict(self.kafka), self.names.prefix, self.traffic)
        history.write_until(self.traffic.start)
        days = history.written * STEP_S / 86400
        self.say(f"{history.written:,} steps of stored history ({days:.1f} days) written")
        with WarmUp(dict(self.kafka), self.names.prefix + "warm-up") as warm_up:
            config = self._configure()
            self._give_commands(config)
            begin = self._run_processes(config, warm_up, history)
        (self.folder / "decisions.jsonl").write_bytes(b"\n".join(d.to_json() for d in self.decisions))
        return self._outcome(config, begin)

    def _run_processes(self, config: Config, warm_up: WarmUp, history: History) -> float:
        """Starts, watches and stops all processes; returns the wall time of the first request."""
        with Children(self.folder) as children, _Decisions(config) as decisions:
            with history.going_on(config.clock):
                self._start(children, config)
                self.say("the processes start, and the balancer learns that history: most of a minute")
                self._wait_until_ready(children, config)
                warm_up.stop()
            self.say(f"all processes are ready; the broker is warm ({warm_up.transactions:,} transactions)")
            begin = self._go(config, history)
            self._watch(children, decisions, begin)
            children.stop([f"router-{index}" for index in range(ROUTERS)])
            time.sleep(SETTLE_S)
            children.stop(self.capacity_cps)
            children.stop([*(f"reporter-{name}" for name in self.capacity_cps), "balancer", "producer"])
            self.decisions += decisions.read()
        return begin

    # ------------------------------------------------------------------ before

    def _configure(self) -> Config:
        """The clock starts now, at the window's time of day."""
        clock = PassClock(self.traffic.start, time.time(), self.time_scale)
        path = self.folder / "foreshard.toml"
        return write_config(path, self.traffic, self.names, self.kafka, clock, self.policy)

    def _make_topics(self, config: Config) -> None:
        findings = topic_admin.create(config, ingest_partitions=INGEST_PARTITIONS)
        for cluster in self.capacity_cps:
            findings += topic_admin.create_cluster_topic(config, self.names.topic(cluster))
        wrong = [finding for finding in findings if not finding.ok]
        if wrong:
            raise TopicError(f"topic {wrong[0].topic} is not usable: {wrong[0].text}")

    def _give_commands(self, config: Config) -> None:
        now = config.clock.now()
        for name, capacity in self.capacity_cps.items():
            record = ClusterAdd(
                id=operators.new_id("cluster-add"),
                by="demo",
                at=now,
                cluster=name,
                topic=self.names.topic(name),
                group=self.names.group(name),
                capacity_cps=capacity,
            )
            operators.send(config, COMMANDS, None, record)
        mode = SetMode(id=operators.new_id("mode"), by="demo", at=now, mode=self.mode)
        operators.send(config, COMMANDS, None, mode)

    def _start(self, children: Children, config: Config) -> None:
        file = ("--config", str(config.path))
        bootstrap = ("--bootstrap", self.kafka["bootstrap.servers"])
        children.start("balancer", "app.cli", "balancer", *file)
        for index in range(ROUTERS):
            children.start(f"router-{index}", "app.cli", "router", "--index", str(index), *file)
        costs = {rule.name: rule.cost for rule in self.traffic.rules}
        for name, capacity in self.capacity_cps.items():
            backend = children.start(
                name,
                "app.demo.backend",
                *bootstrap,
                *("--topic", self.names.topic(name), "--group", self.names.group(name)),
                *("--rate", repr(capacity * self.time_scale), "--costs", orjson.dumps(costs).decode()),
                *("--out", str(self._rows_file(name))),
            )
            watched = ("--pid", str(backend.process.pid), "--capacity", repr(capacity))
            named = ("--cluster", name, "--instance", f"{name}-0")
            children.start(f"reporter-{name}", "app.cli", "reporter", *named, *watched, *file)
        children.start(
            "producer",
            "app.demo.producer",
            *bootstrap,
            *("--topic", self.names.ingest, "--folder", str(self.folder)),
            *("--start-file", str(self._start_file), "--time-scale", repr(self.time_scale)),
        )

    def _wait_until_ready(self, children: Children, config: Config) -> None:
        base = config.file.web.port
        waiting = {"balancer": base} | {f"router-{i}": base + 1 + i for i in range(ROUTERS)}
        deadline = time.monotonic() + READY_S
        why = "no answer"
        while waiting:
            children.check()
            for name, port in list(waiting.items()):
                ready, why = _ready(port)
                if ready:
                    del waiting[name]
                elif time.monotonic() > deadline:
                    raise NotReadyError(
                        f"{name} was not ready within {READY_S:.0f} s: {why}; see {self.folder}/{name}.log"
                    )
            time.sleep(POLL_S)

    def _go(self, config: Config, history: History) -> float:
        """Posts the campaign, tells the producer when to begin; returns that wall time.

        The load begins with a step of the balancer's forecast, so that no step is half empty.
        """
        soon = config.clock.model(time.time() + LEAD_S)
        model_begin = -(-soon // STEP_S) * STEP_S
        history.write_until(model_begin)
        if self.announced:
            event = self.traffic.campaign.event(self.traffic.keys, self.traffic.rules, model_begin)
            operators.send(config, EVENTS, event.id, event)
        begin = config.clock.wall(model_begin)
        fresh = self._start_file.with_suffix(".new")
        fresh.write_text(repr(begin))
        fresh.replace(self._start_file)
        return begin

    # ------------------------------------------------------------------ while it runs

    def _watch(self, children: Children, decisions: _Decisions, begin: float) -> None:
        """Returns when every request that was stored was consumed, or nothing moves any more."""
        told = 0.0
        moved_at, before = time.monotonic(), -1
        while True:
            children.check()
            self.decisions += decisions.read()
            progress, consumed = read_progress(self.folder), self._consumed()
            if consumed != before:
                moved_at, before = time.monotonic(), consumed
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                sent = max(progress.sent, consumed)  # the producer says it twice a second, backends at once
                self._tell(time.time() - begin, sent, consumed)
            if progress.done and consumed >= progress.delivered:
                return
            if progress.done and time.monotonic() - moved_at > DRAIN_S / 4:
                return
            if time.time() > begin + self.seconds + 2 * DRAIN_S:
                return
            time.sleep(POLL_S)

    def _tell(self, elapsed_s: float, sent: int, consumed: int) -> None:
        version = self.decisions[-1].version if self.decisions else 0
        applied = [d for d in self.decisions if d.skip is None]
        moves = sum(len(d.moves) for d in applied)
        self.say(
            f"{max(0.0, elapsed_s):5.0f} s of {self.seconds:.0f}: sent {sent:,}, consumed {consumed:,}, "
            f"mapping version {version}, moves {moves}"
        )

    def _consumed(self) -> int:
        files = (self._rows_file(name) for name in self.capacity_cps)
        return sum(file.stat().st_size for file in files if file.exists()) // RECORD.itemsize

    # ------------------------------------------------------------------ after

    def _outcome(self, config: Config, begin: float) -> Outcome:
        progress = read_progress(self.folder)
        return Outcome(
            rows={name: read_rows(self._rows_file(name)) for name in self.capacity_cps},
            decisions=self.decisions,
            dead_letters=self._dead_letters(config),
            begin=begin,
            seconds=self.seconds,
            capacity={name: value * self.time_scale for name, value in self.capacity_cps.items()},
            model_begin=config.clock.model(begin),
            time_scale=self.time_scale,
            late_max_s=progress.late_max_s,
            not_delivered=len(self.traffic) - progress.delivered,
        )

    def _dead_letters(self, config: Config) -> int:
        """Returns how many requests are dead letters; control records may be there too."""
        source = f"{self.names.ingest}[".encode()
        found = read_table(config.kafka, config.topic(DEAD_LETTER))
        headers: list[dict[str, Any]] = [dict(message.headers() or []) for message in found]
        return sum((items.get(HEADER_SOURCE) or b"").startswith(source) for items in headers)

    def _rows_file(self, cluster: str) -> Path:
        return self.folder / f"{cluster}.rows"

    @property
    def _start_file(self) -> Path:
        return self.folder / "start"


class _Decisions:
    """Reads the decisions of the pass while it runs."""

    def __init__(self, config: Config) -> None:
        settings: dict[str, Any] = {
            "group.id": operators.new_id("demo"),
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
        self._consumer = Consumer(config.kafka | settings)
        self._consumer.assign([TopicPartition(config.topic(DECISIONS), 0, 0)])

    def __enter__(self) -> _Decisions:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self) -> list[Decision]:
        """Returns the decisions written since the last call."""
        found = []
        while messages := self._consumer.consume(500, 0.05):
            records = [decision_record(m.value()) for m in messages if m.error() is None]
            found += [record for record in records if isinstance(record, Decision)]
        return found


def _ready(port: int) -> tuple[bool, str]:
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200, ""
    except urllib.error.HTTPError as error:
        return False, error.read().decode(errors="replace")[:200]
    except OSError as error:
        return False, str(error)
