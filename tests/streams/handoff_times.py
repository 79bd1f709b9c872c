"""How long slots are held, on a real broker: `python -m tests.streams.handoff_times`.

    idle      slots that nobody uses: never held
    0.1 s     busy slots, the backend commits every 0.1 s
    1 s       busy slots, the backend commits every second
    backlog   the old cluster has 10 s of work waiting

Seconds in hold come from the router's own histogram, the switch from the notes beside its committed
offsets, order and what a request waited from the backends. It fails where a promised figure is missed.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from app.local_kafka import local_kafka
from tests.streams.handoff_backend import Backend, out_of_order
from tests.streams.router_kit import INGEST_PARTITIONS, RouterProcess, Site, request, site_on, wait_for

USERS = 60
"""Slots that move at a time."""
MOVES = 4
"""Times that they move: 240 slot moves, each user having one ingest partition."""
RATE_RPS = 900.0
"""15 requests/s of each user: few slots fall idle by themselves between two commits."""
BACKLOG_S = 10.0
SLOW_RPS = 100.0
"""What the cluster with the backlog works off, and gets meanwhile."""
PROMISED_S = {"0.1 s": 0.3, "1 s": 1.3}
"""p99 of the seconds in hold."""
SWITCHED_S = 12.0


@dataclass
class Held:
    """The router's histogram of seconds in hold: upper bound -> slots at most that long."""

    buckets: dict[float, float]

    @classmethod
    def of(cls, router: RouterProcess) -> Held:
        with urllib.request.urlopen(router.url + "/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        name = "foreshard_router_hold_seconds_bucket"
        return cls({float(s.labels["le"]): s.value for s in samples if s.name == name})

    def since(self, before: Held) -> Held:
        """Returns what came after `before`."""
        return Held({bound: count - before.buckets.get(bound, 0) for bound, count in self.buckets.items()})

    @property
    def count(self) -> int:
        """Returns how many slots held something."""
        return int(self.buckets.get(float("inf"), 0))

    def quantile(self, part: float) -> float:
        """Returns the upper bound of the bucket in which that part of all slots lies."""
        return next((b for b, count in sorted(self.buckets.items()) if count >= part * self.count), 0.0)


@dataclass
class Traffic:
    """Requests of users in turn, at a rate, from a thread."""

    site: Site
    users: list[int]
    numbers: Iterator[int]
    rate_rps: float
    sent: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        producer = self.site.producer(**{"linger.ms": 2})
        started = time.monotonic()
        for user in itertools.cycle(self.users):
            if self._stopped.is_set():
                break
            producer.produce(self.site.ingest, **request(next(self.numbers), user))
            self.sent += 1
            ahead = started + self.sent / self.rate_rps - time.monotonic()
            producer.poll(max(0.0, ahead))
        assert producer.flush(20) == 0

    def stop(self) -> None:
        self._stopped.set()


@contextmanager
def traffic(site: Site, users: list[int], numbers: Iterator[int], rate_rps: float) -> Iterator[Traffic]:
    """Requests of these users while the block runs."""
    made = Traffic(site, users, numbers, rate_rps)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield made
    made.stop()
    thread.join(30)


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def settled(site: Site, timeout_s: float = 60.0) -> float:
    """Waits until the newest mapping is settled everywhere; returns the seconds."""
    assert site.snapshot is not None
    version, started = site.snapshot.version, time.monotonic()
    wait_for(
        f"version {version} is settled",
        lambda: all(note is not None and note.settled == version for _, note in site.notes().values()),
        timeout_s,
    )
    return time.monotonic() - started


def idle(site: Site, router: RouterProcess) -> bool:
    """Moves slots that nobody uses, then uses them."""
    before = Held.of(router)
    backends = [Backend(site, name, 0.1) for name in ("c1", "c2")]
    users = site.users_of("c1", USERS)
    site.move(users, "c2")
    seconds = settled(site)
    site.send(*(request(number, user) for number, user in enumerate(users)))
    wait_for("all are processed", lambda: sum(len(backend.done) for backend in backends) == USERS)
    for backend in backends:
        backend.stop()
    held = Held.of(router).since(before)
    say(f"idle: {USERS} slots moved, {held.count} held; settled everywhere after {seconds:.2f} s")
    site.move(users, "c1")
    settled(site)
    return held.count == 0


def busy(site: Site, router: RouterProcess, name: str, commit_s: float) -> bool:
    """Moves busy slots to and fro."""
    users = site.users_of("c1", USERS)
    backends = [Backend(site, cluster, commit_s) for cluster in ("c1", "c2")]
    before, times = Held.of(router), []
    with traffic(site, users, itertools.count(1_000_000), RATE_RPS) as sent:
        wait_for("it flows", lambda: len(backends[0].done) > USERS)
        for target in itertools.islice(itertools.cycle(("c2", "c1")), MOVES):
            site.move(users, target)
            times.append(settled(site))
    wait_for("all are processed", lambda: sum(len(backend.done) for backend in backends) >= sent.sent, 30)
    for backend in backends:
        backend.stop()
    held, wrong = Held.of(router).since(before), out_of_order(*backends)
    waits = sorted(done.waited_s for backend in backends for done in backend.done)
    quantiles = ", ".join(f"p{part:.0%}"[:-1] + f" <= {held.quantile(part):g} s" for part in (0.5, 0.9, 0.99))
    say(
        f"{name}: {USERS * MOVES} slot moves, {held.count} held something, {quantiles}; "
        f"settled everywhere after {max(times):.1f} s at most; requests waited "
        f"{waits[len(waits) // 2]:.3f} s (p50), {waits[len(waits) * 99 // 100]:.3f} s (p99), "
        f"{waits[-1]:.3f} s (most); {wrong} of {len(waits)} out of order"
    )
    return held.count >= 100 and held.quantile(0.99) <= PROMISED_S[name] and wrong == 0


def backlog(site: Site, router: RouterProcess) -> bool:
    """Moves slots whose cluster has 10 s of work waiting."""
    users = site.users_of("c1", 20)
    numbers = itertools.count(2_000_000)
    waiting = int(BACKLOG_S * SLOW_RPS)
    producer = site.producer(**{"linger.ms": 20})
    for number in range(waiting):
        producer.produce(site.ingest, **request(next(numbers), users[number % len(users)]))
    assert producer.flush(20) == 0
    before = Held.of(router)
    slow, fast = Backend(site, "c1", 1.0, SLOW_RPS), Backend(site, "c2", 1.0)
    wait_for("the slow one has begun", lambda: slow.done)
    site.move(users, "c2")
    started = time.monotonic()
    with traffic(site, users, numbers, SLOW_RPS) as sent:
        seconds = settled(site)
    wait_for("all are processed", lambda: len(slow.done) + len(fast.done) >= waiting + sent.sent, 30)
    slow.stop()
    fast.stop()
    held, wrong = Held.of(router).since(before), out_of_order(slow, fast)
    last = max(done.at for done in slow.done) - started
    say(
        f"backlog: {len(users)} slots of a cluster with {BACKLOG_S:.0f} s of work; its last request was done "
        f"after {last:.1f} s, switched everywhere after {seconds:.1f} s; held up to {held.quantile(1):g} s; "
        f"{wrong} of {len(slow.done) + len(fast.done)} out of order"
    )
    return seconds <= SWITCHED_S and wrong == 0


def measure(name: str, bootstrap: str, folder: Path) -> bool:
    """Runs one case on topics of its own; returns whether its figures are met."""
    with site_on(bootstrap, f"times{name[0]}", folder) as site:
        router = site.router()
        ready = "it reads all ingest partitions"
        wait_for(ready, lambda: router.metric("foreshard_router_ingest_partitions") == INGEST_PARTITIONS)
        if name == "idle":
            return idle(site, router)
        if name == "backlog":
            return backlog(site, router)
        return busy(site, router, name, float(name.split(maxsplit=1)[0]))


def main() -> None:
    """Prints the figures of all cases, or of those named; exits with 1 where one is missed."""
    cases = sys.argv[1:] or ["idle", "0.1 s", "1 s", "backlog"]
    with local_kafka() as kafka, tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, kafka.bootstrap, Path(folder)) for name in cases}
    missed = [name for name, well in results.items() if not well]
    say(f"missed: {', '.join(missed)}" if missed else "every promised figure is met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
