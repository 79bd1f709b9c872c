"""A leader is killed in the middle of a campaign; its successor forecasts as it would have."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from app.local_kafka import LocalKafka
from schemas.records import Counts, Decision, Event, LoadHistory, load_record
from schemas.topics import LOAD, STATE
from streams.core.events import EventBook
from streams.core.outlook import COLUMNS, Outlook
from streams.core.steps import STEP_S, StepBook
from tests.streams.balancer_kit import SHARDS, BalancedSite, balanced_site
from tests.streams.router_kit import INGEST_PARTITIONS, wait_for

pytestmark = pytest.mark.broker

LEARNED = 300
"""Steps of history before the test: two and a half hours, so that forecasts are trusted."""


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[BalancedSite]:
    """Topics on the shared broker, no mapping yet."""
    with balanced_site(kafka.bootstrap, prefix, tmp_path, forecast_by="json:tenant") as made:
        yield made


class Traffic(threading.Thread):
    """Load reports and history as a router writes them: a wave, half as much again from `event_at` on.

    Half of it has a tenant, acme, and a series of its own.
    """

    def __init__(self, site: BalancedSite) -> None:
        super().__init__(daemon=True)
        self._site, self.ended = site, threading.Event()
        self._producer = Producer(site.kafka)
        self.next = int(site.now // STEP_S)
        self.event_at = site.now - 600.0

    def history(self, step: int, age_s: float) -> None:
        wave = 200.0 * (1.5 + np.sin(step / 40)) * (1.5 if step * STEP_S >= self.event_at else 1.0)
        chance = np.random.default_rng(step)
        counts = chance.poisson(wave / SHARDS / 2, (2, SHARDS))
        series, shards = np.nonzero(counts)
        arrivals = Counts(
            series=series.tolist(), shard=shards.tolist(), count=counts[series, shards].tolist()
        )
        names = ["update", "update/acme"]
        record = LoadHistory(router="r", step=step, step_s=STEP_S, series=names, arrivals=arrivals)
        self._put(record.to_json(), age_s)

    def _put(self, value: bytes, age_s: float) -> None:
        at_ms = int((time.time() - age_s) * 1000)
        self._producer.produce(self._site.prefix + LOAD.name, value, b"r", 0, timestamp=at_ms)

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self._put(self._site.report().to_json(), 0.0)
            while (self.next + 1) * STEP_S <= self._site.now:
                self.history(self.next, 0.0)
                self.next += 1
            self._producer.flush(10)


def saved(site: BalancedSite) -> list[bytes | None]:
    """Returns the keys of what was saved as learned."""
    return [m.key() for m in site.table(STATE) if (m.key() or b"").startswith(b"learned:")]


def told(site: BalancedSite, epoch: int) -> list[Decision]:
    """Returns the rounds of an epoch that had trusted forecasts."""
    return [d for d in site.rounds() if d.epoch == epoch and d.series and all(s.trusted for s in d.series)]


def worked_out(site: BalancedSite, event: Event, upto: float) -> Iterator[tuple[float, Outlook, EventBook]]:
    """Yields (time of the next step, outlook, events) after every step, learned from everything stored."""
    rules = site.config.rules
    outlook = Outlook(rules)
    events = EventBook(rules, (), outlook.series)
    events.add(event)
    steps = StepBook(outlook.series, rules.shards, INGEST_PARTITIONS, STEP_S)
    for message in site.table(LOAD):
        record = load_record(message.value())
        if isinstance(record, LoadHistory):
            steps.add(record)
    for step in steps.close(upto + 60.0, most=10_000):
        outlook.learn(step, events)
        yield (step.index + 1) * STEP_S, outlook, events


def test_a_successor_forecasts_as_the_killed_leader_would_have(site: BalancedSite) -> None:
    """Every forecast of both is the one that all the history gives; the successor has only read its end."""
    site.register(capacity=10_000.0)
    traffic = Traffic(site)
    for step in range(traffic.next - LEARNED, traffic.next):
        traffic.history(step, age_s=3600.0)
    event = Event(
        id="e",
        kind="campaign",
        start=traffic.event_at,
        end=site.now + 6000.0,
        types=["update"],
        uplift=1.8,
    )
    site.put("events", event.to_json(), b"e")
    traffic.start()
    leader = site.balancer()
    wait_for("forecasts are trusted", lambda: len(told(site, 1)) > 3, 60)
    wait_for("what was learned is saved", lambda: saved(site))
    leader.kill()
    heir = site.balancer()
    wait_for("the successor forecasts", lambda: len(told(site, 2)) > 6, 60)
    heir.stop()
    traffic.ended.set()
    traffic.join(10)
    rounds = told(site, 1) + told(site, 2)
    off = {decision.id: np.inf for decision in rounds}
    for _, outlook, events in worked_out(site, event, rounds[-1].at):
        for decision in rounds:
            times = decision.at + STEP_S * np.arange(COLUMNS, dtype=np.float64)
            paths = outlook.forecaster.forecast()
            errors = []
            for row, view in enumerate(decision.series):
                path = outlook._rps(paths[row], times) * events.uplift("update", times)
                errors.append(abs(path[-1] - view.forecast_rps))
            off[decision.id] = min(off[decision.id], max(errors))
    assert max(off.values()) < 1e-6, off
    assert {tuple(view.name for view in d.series) for d in rounds} == {("update", "update/acme")}
    assert len({d.series[0].forecast_rps for d in rounds}) >= 4
