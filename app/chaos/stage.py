"""One run on a broker: its processes, its requests, its failures, and what is left when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.chaos.broker_log import markers_skipped
from app.chaos.crew import Crew
from app.chaos.evidence import Scene, wait_until_none
from app.chaos.failures import schedule
from app.chaos.judge import Evidence, judge
from app.chaos.report import Outcome
from app.chaos.scrape import Scraper, ready
from app.chaos.settings import CLUSTERS
from app.chaos.site import Site
from app.chaos.storm import Storm
from app.chaos.traffic import make_traffic
from app.local_kafka import LocalKafka
from schemas.errors import ForeshardError, NotReadyError

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


@dataclass(frozen=True)
class Rest:
    """What was left when nothing more was to be expected."""

    waiting: int
    """Requests that no router has forwarded."""
    behind: int
    """Partitions that their backends have not finished."""
    settled_s: float | None
    """Seconds until no slot was in motion any more."""


@dataclass
class Run:
    """Runs one chaos; `run` is its table of contents."""

    site: Site
    kafka: LocalKafka
    say: Callable[[str], None]
    scraper: Scraper = field(default_factory=Scraper)
    crew: Crew = field(init=False)
    scene: Scene = field(init=False)
    _told_at: float = 0.0

    def run(self) -> tuple[Outcome, Evidence]:
        """Topics first, then processes, requests and failures; when all is consumed, the verdict."""
        began = time.monotonic()
        deadline = began + self.site.chaos.duration_limit_s
        self.site.prepare()
        self.scene = Scene(self.site.config, {name: self.site.row_files(name) for name in CLUSTERS})
        with Crew(self.site.folder) as self.crew, self.scraper:
            self.site.start(self.crew)
            self._wait_ready()
            storm = self._send_and_fail(deadline)
            rest = self._consume_the_rest(deadline)
        self.say("judging")
        evidence = self.scene.gather(make_traffic(self.site.chaos.requests, self.site.chaos.seed))
        outcome = Outcome(
            chaos=self.site.chaos,
            verdict=judge(evidence),
            kills=storm.kills,
            mapping_changes=self.scene.mapping_changes(),
            seconds=time.monotonic() - began,
            waiting=rest.waiting,
            behind=rest.behind,
            settled_s=rest.settled_s,
            timeline=storm.rows(),
            broker=self.kafka.kind,
            markers_skipped=None if self.kafka.java is None else markers_skipped(self.kafka.java.folder),
        )
        return outcome, evidence

    def _wait_ready(self) -> None:
        """Waits until the first router routes: then there is a mapping too."""
        router = self.crew.members["router-0"]
        deadline = time.monotonic() + READY_S
        while not ready(router.log):
            for fallen in self.crew.fallen():
                raise NotReadyError(f"{fallen.name} ended before the run began: {fallen.last_words()}")
            if time.monotonic() > deadline:
                raise NotReadyError(f"no router routes after {READY_S:.0f} s; see {self.site.folder}")
            time.sleep(TICK_S)

    # ------------------------------------------------------------------ while it runs

    def _send_and_fail(self, deadline: float) -> Storm:
        """Returns when all requests are stored, and nothing fails or moves any more."""
        chaos = self.site.chaos
        begin = time.monotonic() + LEAD_S
        self.site.go(begin)
        failures = schedule(chaos.seed, chaos.seconds)
        storm = Storm(self.crew, failures, self.kafka, self._start_router, begin)
        while time.monotonic() < min(begin + chaos.seconds, deadline) or self._sending():
            storm.tick()
            self._look(begin, storm)
            if time.monotonic() > deadline:
                break
            time.sleep(TICK_S)
        storm.calm()
        self._dismiss("mapping", "operator")
        self.say("all requests are stored, nothing fails any more; waiting for routers and backends")
        return storm

    def _start_router(self, index: int) -> None:
        self.site.start_router(self.crew, index)

    def _sending(self) -> bool:
        """Returns whether a producer has requests left; raises where one has failed."""
        for producer in self.crew.of("producer", "up"):
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
            chaos = self.site.chaos
            self.say(
                f"{max(0.0, now - begin):4.0f} s of {chaos.seconds:.0f}: "
                f"processed {self.scene.processed():,} of {chaos.requests:,}, {storm.kills} kills"
            )

    # ------------------------------------------------------------------ after

    def _consume_the_rest(self, deadline: float) -> Rest:
        """Waits for the routers, ends them, reads what they wrote, waits for the backends, ends them."""
        waiting = wait_until_none(self.scene.waiting, self.scene.processed, STALL_S, deadline)
        forwarded_at = time.monotonic()
        moving = wait_until_none(self.scene.moving, self.scene.processed, STALL_S, deadline)
        settled_s = None if moving else time.monotonic() - forwarded_at
        self.scraper.watch(member.log for member in self.crew.of("router", "up"))
        self.scraper.read()
        self._dismiss("router")
        self.say("every request was forwarded" if not waiting else f"{waiting:,} requests wait for routers")
        self.scene.read_visible()
        behind = wait_until_none(self.scene.unprocessed, self.scene.processed, STALL_S, deadline)
        self._dismiss("backend")
        return Rest(waiting, behind, settled_s)

    def _dismiss(self, *roles: str) -> None:
        self.crew.dismiss([member for member in self.crew.members.values() if member.role in roles])
