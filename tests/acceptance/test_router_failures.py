"""Routers that are killed, a broker that stops, a router that sleeps: nothing lost, nothing twice.

Judged by an independent read_committed reader of every cluster topic, by the producer's sequence.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local_kafka import LocalKafka, local_kafka
from tests.streams.router_kit import Reader, Site, request, site_on, wait_for

RATE = 1_500
"""Requests/s while routers are killed: enough that every kill hits an open transaction or nearly so."""


class Traffic:
    """A producer that sends requests 0, 1, 2, ... at RATE in a thread."""

    def __init__(self, site: Site) -> None:
        self.sent = 0
        self._site = site
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        producer = self._site.producer(**{"queue.buffering.max.messages": 1_000_000})
        started = time.monotonic()
        while not self._ended.is_set():
            due = int((time.monotonic() - started) * RATE)
            while self.sent < due:
                producer.produce(self._site.ingest, **request(self.sent))
                self.sent += 1
            producer.poll(0.01)
        assert producer.flush(60) == 0


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[Site]:
    """Topics and a mapping on the shared broker."""
    with site_on(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


def read_more(reader: Reader, count: int, timeout_s: float = 30.0) -> None:
    """Reads until `count` requests more have come through."""
    aim = len(reader.forwarded) + count

    def enough() -> bool:
        reader.poll(0.05)
        return len(reader.forwarded) >= aim

    wait_for(f"{count} requests more come through", enough, timeout_s)


def read_all(reader: Reader, traffic: Traffic) -> None:
    """Reads everything that was sent, and checks that it was seen exactly once."""
    reader.until(traffic.sent, 60)
    reader.check_exactly_once(traffic.sent)
    assert not reader.dead


def test_a_router_killed_five_times_in_mid_stream_loses_and_repeats_nothing(site: Site) -> None:
    """Two routers; one is killed and started again, five times, at any point of a transaction."""
    routers = {name: site.router(name) for name in ("a", "b")}
    reader = site.reader()
    with Traffic(site) as traffic:
        for kill in range(5):
            read_more(reader, RATE)
            name = "ab"[kill % 2]
            routers[name].send(signal.SIGKILL)
            routers[name].process.wait(10)
            routers[name] = site.router(name)
        read_more(reader, RATE)
    read_all(reader, traffic)
    for router in routers.values():
        router.stop()


def test_a_broker_that_stops_for_20_s_is_survived_in_the_same_process(tmp_path: Path, prefix: str) -> None:
    """Transactions time out meanwhile and are fenced; routing resumes within 30 s of the broker's return."""
    with local_kafka() as own, site_on(own.bootstrap, prefix, tmp_path) as site:
        if own.pid is None:
            pytest.skip("the broker is not a process of ours to stop")
        routers = [site.router(name) for name in ("a", "b")]
        reader = site.reader()
        with Traffic(site) as traffic:
            read_more(reader, RATE)
            os.kill(own.pid, signal.SIGSTOP)
            time.sleep(20)
            os.kill(own.pid, signal.SIGCONT)
            read_more(reader, RATE, 30)
        read_all(reader, traffic)
        for router in routers:
            assert router.process.poll() is None, router.stderr()
            router.stop()


def test_a_router_that_sleeps_past_its_session_is_fenced_and_comes_back(site: Site) -> None:
    """Its partitions go to the other router; what it had in hand when it wakes is not written twice."""
    routers = {name: site.router(name) for name in ("a", "b")}
    reader = site.reader()
    with Traffic(site) as traffic:
        read_more(reader, 2 * RATE)
        routers["a"].send(signal.SIGSTOP)
        deadline = time.monotonic() + 25  # 8 s session, 10 s transaction, 1 s for the broker to abort it
        while time.monotonic() < deadline:
            reader.poll()
        read_more(reader, RATE)
        routers["a"].send(signal.SIGCONT)
        read_more(reader, 3 * RATE)
    read_all(reader, traffic)
    for router in routers.values():
        router.stop()
