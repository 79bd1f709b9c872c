"""Balancers that die, sleep, or lose their broker, while a router routes by the mapping they change.

Judged by an independent read_committed reader of every cluster topic, and by what the topics hold.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.local_kafka import LocalKafka, local_kafka
from schemas.records import MappingMeta
from tests.acceptance.test_router_failures import RATE, Traffic, read_all, read_more
from tests.streams.balancer_kit import Backends, BalancedSite, Process, balanced_site
from tests.streams.router_kit import wait_for

pytestmark = pytest.mark.broker

CAPACITY = 90.0
"""Cost units per model second of each of three clusters: 150 requests per model second use a good half."""


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[BalancedSite]:
    """Topics on the shared broker, no mapping yet."""
    with balanced_site(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


def newest(site: BalancedSite) -> MappingMeta:
    return site.metas()[-1]


def rounds_of(site: BalancedSite, epoch: int) -> bool:
    """Returns whether a leader of this epoch has decided on whole metrics."""
    return any(d.epoch == epoch and d.clusters for d in site.rounds())


def check_epochs_only_rise(site: BalancedSite) -> None:
    """Fails where a record of an old epoch follows one of a newer epoch in a topic; versions only rise."""
    for records in (site.decisions(), site.mapping()):
        epochs = [record.epoch for _, record in records]
        assert epochs == sorted(epochs)
    versions = [meta.version for meta in site.metas()]
    assert versions == sorted(versions)


def test_killed_leader_is_followed_and_without_any_routing_goes_on(site: BalancedSite) -> None:
    """SIGKILL: a standby leads with the next epoch and goes on with the mapping; then none is left."""
    site.register(CAPACITY, ["c1", "c2"])
    first = site.balancer()
    wait_for("version 1", site.metas)
    second = site.balancer(lead=False)
    router = site.cli_router()
    router.wait_ready()
    reader = site.reader()
    with Backends(site), Traffic(site) as traffic:
        wait_for("a round on whole metrics", lambda: rounds_of(site, 1))
        read_more(reader, RATE)
        before = newest(site)
        first.kill()
        site.wait_leading(second)
        after = wait_for("the new epoch", lambda: newest(site).epoch == 2 and newest(site))
        assert after.version >= before.version
        site.command(site.add("c3", CAPACITY))
        wait_for("c3 joins", lambda: "c3" in newest(site).clusters)
        wait_for("c3 gets slots", lambda: any(m.target == "c3" for d in site.rounds() for m in d.moves))
        read_more(reader, RATE)
        second.kill()
        read_more(reader, 5 * RATE)
        third = site.balancer()
        wait_for("a round of the third", lambda: rounds_of(site, 3))
        read_more(reader, RATE)
    read_all(reader, traffic)
    assert {m.topic() for m in reader.forwarded} == {site.topic(name) for name in ("c1", "c2", "c3")}
    check_epochs_only_rise(site)
    assert [meta.epoch for meta in site.metas()][-1] == 3
    third.stop()
    router.stop()


def test_leader_that_sleeps_for_30_s_never_writes_with_its_old_epoch(site: BalancedSite) -> None:
    """SIGSTOP past its session: another leads. Awake, it stands by or ends with status 8."""
    site.register(CAPACITY, ["c1", "c2", "c3"])
    sleeper = site.balancer()
    other = site.balancer(lead=False)
    router = site.cli_router()
    router.wait_ready()
    reader = site.reader()
    with Backends(site), Traffic(site) as traffic:
        wait_for("a round on whole metrics", lambda: rounds_of(site, 1))
        asleep = time.monotonic()
        sleeper.send(signal.SIGSTOP)
        site.wait_leading(other)
        wait_for("a round of the new leader", lambda: rounds_of(site, 2))
        while time.monotonic() < asleep + 30:
            reader.poll()
        sleeper.send(signal.SIGCONT)
        wait_for("the sleeper gives up", lambda: gave_up(sleeper), 15)
        seen = len(site.rounds())
        wait_for("the new leader goes on", lambda: len(site.rounds()) > seen + 2)
        read_more(reader, RATE)
    read_all(reader, traffic)
    check_epochs_only_rise(site)
    assert newest(site).epoch == 2
    assert other.role() == "leading"
    other.stop()
    router.stop()


def gave_up(balancer: Process) -> bool:
    """Returns whether the process stands by, or has ended as one that was fenced."""
    status = balancer.process.poll()
    if status is None:
        return balancer.role() == "standby"
    assert status == 8, balancer.stderr()
    assert balancer.stderr().startswith("fenced: ")
    return True


def test_broker_that_stops_for_20_s_ends_neither_leader_nor_rounds(tmp_path: Path, prefix: str) -> None:
    """Rounds resume by themselves in the same process, or in its successor; routing too."""
    with local_kafka() as own, balanced_site(own.bootstrap, prefix, tmp_path) as site:
        if own.pid is None:
            pytest.skip("the broker is not a process of ours to stop")
        site.register(CAPACITY)
        balancers = [site.balancer(), site.balancer(lead=False)]
        router = site.cli_router()
        router.wait_ready()
        reader = site.reader()
        with Backends(site), Traffic(site) as traffic:
            wait_for("a round on whole metrics", lambda: rounds_of(site, 1))
            os.kill(own.pid, signal.SIGSTOP)
            time.sleep(20)  # the outage itself
            woken = site.now
            os.kill(own.pid, signal.SIGCONT)
            try:
                read_more(reader, RATE, 30)
            except AssertionError:
                raise AssertionError(f"{router.ready()} {router.stderr()}") from None
            wait_for(
                "rounds on whole metrics again",
                lambda: any(d.at > woken and d.clusters for d in site.rounds()),
                45,
            )
        read_all(reader, traffic)
        check_epochs_only_rise(site)
        times = [d.at for d in site.rounds() if d.skip is not None or d.moves]
        assert all(later - earlier > 5.0 for earlier, later in pairwise(times)), "rounds were made up for"
        for balancer in balancers:
            assert balancer.process.poll() in (None, 8), balancer.stderr()
        assert sum(b.process.poll() is None and b.role() == "leading" for b in balancers) == 1
        router.stop()
