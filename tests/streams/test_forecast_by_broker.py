"""Two tenants of one type on a real broker: each has a forecast series of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.local_kafka import LocalKafka
from schemas.records import Decision, LoadReport, SeriesView, load_record
from schemas.topics import LOAD
from streams.core.load import LoadBook
from streams.core.series import SeriesRows
from tests.streams.balancer_kit import SHARDS, Backends, BalancedSite, balanced_site
from tests.streams.router_kit import INGEST_PARTITIONS, wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[BalancedSite]:
    """Topics on the shared broker, no mapping yet; requests are forecast by tenant."""
    with balanced_site(kafka.bootstrap, prefix, tmp_path, forecast_by="json:tenant") as made:
        yield made


class Tenants(threading.Thread):
    """Sends requests in bursts: of acme ever more, of bolt as ever, and a few of nobody."""

    def __init__(self, site: BalancedSite) -> None:
        super().__init__(daemon=True)
        self._site, self.ended = site, threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self.ended.wait(0.1):
            acme = 2 + int(2 * (time.monotonic() - started))
            tenants = [*acme * ["acme"], *20 * ["bolt"], None, None]
            self._site.send(*(request(number, tenant) for number, tenant in enumerate(tenants)))


def request(number: int, tenant: str | None) -> dict[str, Any]:
    value = json.dumps({"type": "update", "tenant": tenant, "user": {"id": f"u{number}-{tenant}"}})
    return {"value": value.encode(), "key": None}


def views(decision: Decision) -> dict[str, SeriesView]:
    return {view.name: view for view in decision.series}


def told(site: BalancedSite) -> list[Decision]:
    """The decisions in which both tenants have a series."""
    return [d for d in site.rounds() if set(views(d)) == {"update", "update/acme", "update/bolt"}]


def acme_by_bolt(decision: Decision) -> float:
    """How many requests of acme come with one of bolt, whose bursts are of one size."""
    found = views(decision)
    return found["update/acme"].now_rps / found["update/bolt"].now_rps


def whole_rps(site: BalancedSite, decision: Decision) -> float:
    """The rate of all requests, from the reports that the decision was made from, whatever their series."""
    read = dict(decision.offsets[site.config.topic(LOAD)])
    load = LoadBook(SeriesRows(["update"]), SHARDS, INGEST_PARTITIONS)
    for message in site.table(LOAD):
        record = load_record(message.value())
        if isinstance(record, LoadReport) and (message.offset() or 0) < read.get(message.partition() or 0, 0):
            load.add(record)
    rates = load.rates(decision.at)
    assert rates is not None
    return float(rates.sum())


def test_tenants_have_series_of_their_own(site: BalancedSite) -> None:
    """The growing one grows, the steady one does not, and together with the rest they are the type's."""
    site.register(capacity=10_000.0)
    balancer = site.balancer()
    router = site.cli_router()
    router.wait_ready()
    tenants = Tenants(site)
    tenants.start()
    with Backends(site):
        (first, *_) = wait_for("both tenants have a series", lambda: told(site), 25.0)
        last = wait_for(
            "the growing one has grown",
            lambda: next((d for d in told(site) if acme_by_bolt(d) > 1.2 * acme_by_bolt(first)), None),
        )
    tenants.ended.set()
    tenants.join(10)
    text = balancer.get("/metrics")
    assert views(last)["update"].now_rps < views(last)["update/bolt"].now_rps
    for decision in (first, last):
        total = sum(view.now_rps for view in decision.series)
        assert total == pytest.approx(whole_rps(site, decision))
        assert [view.of_type for view in decision.series] == ["", "update", "update"]
    assert "acme" not in text
    assert router.stop() < 5.0
    assert balancer.stop() < 5.0
