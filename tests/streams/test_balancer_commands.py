"""What outlasts a command, on a real broker: a rescue whose leader is killed, a dead cluster, new rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from app.local_kafka import LocalKafka
from schemas.records import (
    AcceptRules,
    ClusterState,
    Decision,
    MappingRecord,
    Rescue,
    SetClusterState,
    Skip,
    WantedState,
)
from streams.core.offset_note import Held, OffsetNote, encode_note
from tests.streams.balancer_kit import SHARDS, Backends, BalancedSite, balanced_site
from tests.streams.router_kit import INGEST_PARTITIONS, wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[BalancedSite]:
    """Topics on the shared broker, no mapping yet."""
    with balanced_site(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


class IdleRouter:
    """What the balancer hears of a router that has nothing to do and settles every version at once."""

    def __init__(self, site: BalancedSite) -> None:
        self._site = site
        self._group = Consumer(site.config.kafka | {"group.id": site.config.file.router.group})

    def settle(self, *held: int) -> None:
        """Writes the notes of all partitions for the newest mapping, with these held slots."""
        config, version = self._site.config, self._site.metas()[-1].version
        groups = (Held(0, tuple(held)),) if held else ()
        note = encode_note(OffsetNote(version, version, 0, config.rules.rules_hash(), groups))
        places = [TopicPartition(config.ingest, number, 0, note) for number in range(INGEST_PARTITIONS)]
        self._group.commit(offsets=places, asynchronous=False)

    def wait(self, what: str, true: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Returns the first true answer; reports load and settles meanwhile."""

        def look() -> Any:
            self._site.put("load", self._site.report().to_json(), b"test")
            self.settle()
            return true()

        return wait_for(what, look, timeout_s)

    def close(self) -> None:
        self._group.close()


@pytest.fixture
def router(site: BalancedSite) -> Iterator[IdleRouter]:
    made = IdleRouter(site)
    yield made
    made.close()


def owned(site: BalancedSite, cluster: str) -> int:
    """Returns how many slots a cluster owns."""
    newest = {record.shard: record for _, record in site.mapping() if isinstance(record, MappingRecord)}
    return sum(stop - start for r in newest.values() for start, stop, owner in r.segments if owner == cluster)


def request(number: int) -> bytes:
    return json.dumps({"type": "update", "user": {"id": f"u{number % 50}"}, "seq": number}).encode()


def fill(site: BalancedSite, cluster: str, count: int, partition: int = -1) -> None:
    """Puts requests into a cluster's topic."""
    producer = Producer({"bootstrap.servers": site.bootstrap, "linger.ms": 5})
    for number in range(count):
        producer.produce(site.topic(cluster), request(number), b"u%d" % (number % 50), partition)
    assert producer.flush(30) == 0


def ended(site: BalancedSite, command: str) -> Decision | None:
    return next((decision for decision in site.rounds() if decision.command == command), None)


def test_a_rescue_whose_leader_is_killed_is_ended_by_the_next_one(
    site: BalancedSite, router: IdleRouter
) -> None:
    """Nobody asks again: the state says that it has begun. Every request is moved once."""
    count = 30_000
    site.register()
    leader, standby = site.balancer(), site.balancer(lead=False)
    wait_for("version 1", site.metas)
    fill(site, "c3", count)
    site.command(SetClusterState(id="d", at=site.now, cluster="c3", state=WantedState.DOWN))
    router.wait("c3 is empty", lambda: site.metas()[-1].version > 2 and owned(site, "c3") == 0)
    reader = site.reader()
    site.command(Rescue(id="save", at=site.now, cluster="c3"))
    wait_for("the rescue has begun", lambda: moved(reader, site) > 0)
    leader.kill()
    assert ended(site, "save") is None, "it was over before the leader could be killed"
    done = wait_for("the end of the rescue", lambda: ended(site, "save"), 45)
    assert done.epoch == 2
    assert done.skip is None
    assert done.detail.endswith(" requests of c3, the rest of what a leader before had begun")
    assert site.metas()[-1].clusters["c3"].rescues == 1
    own = int(done.detail.split()[1])
    assert f'foreshard_balancer_rescued_requests_total{{cluster="c3"}} {own}.0' in standby.get("/metrics")
    wait_for("all requests", lambda: moved(reader, site) >= count)
    reader.poll(0.5)
    rescued = [m for m in reader.forwarded if m.topic() != site.topic("c3")]
    assert sorted(json.loads(m.value() or b"")["seq"] for m in rescued) == list(range(count))
    standby.stop()


def moved(reader: Any, site: BalancedSite) -> int:
    """Returns how many requests are in the topics of other clusters than c3."""
    reader.poll(0.01)
    return sum(message.topic() != site.topic("c3") for message in reader.forwarded)


def test_a_cluster_that_commits_nothing_is_set_down_and_emptied(
    site: BalancedSite, router: IdleRouter
) -> None:
    """Its backend was never started. Those of the others run, and a marker alone kills nobody."""
    text = site.path.read_text().replace("[web]", "[balancer]\ndead_after_s = 4\n[web]")
    site.path.write_text(text)
    site.register()
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    site.clusters = ("c1", "c2")
    with Backends(site):
        fill(site, "c3", 5, partition=1)
        down = router.wait("c3 is down", lambda: site.metas()[-1].clusters["c3"].state is ClusterState.DOWN)
        assert down
        router.wait("it is empty", lambda: owned(site, "c3") == 0)
    (said,) = [d for d in site.rounds() if d.detail.startswith("c3 is down: for ")]
    assert said.version == 2
    assert {m.source for d in site.rounds() for m in d.moves} == {"c3"}
    balancer.stop()


def test_new_rules_end_the_leader_and_the_next_one_has_them(site: BalancedSite, router: IdleRouter) -> None:
    """Refused while a router runs or holds something; then written, and status 6 says what to start."""
    site.register()
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    new = site.folder / "new.toml"
    new.write_text(
        site.path.read_text().replace("[clock]", '[[request_types]]\nname = "other"\nkey = ["key"]\n[clock]')
    )
    wanted = load_rules(new)

    def accept(number: int) -> str:
        site.command(AcceptRules(id=f"a{number}", at=site.now, rules_hash=wanted, shards=SHARDS))
        answer = wait_for("the answer", lambda: site.answers().get(f"a{number}"))
        return f"{answer.accepted}: {answer.text}"

    router.settle(3, 4)
    assert accept(1).startswith("False: routers were stopped while they held requests of 2 slots")
    router.settle()
    with running_router(site):
        assert accept(2).startswith("False: 1 router of the group run; stop all routers")
    wait_for("the router has left", lambda: "True" in accept(int(site.now * 1000)))
    assert balancer.process.wait(20) == 6
    assert "this balancer has the old ones and ends; start balancers and routers" in balancer.stderr()
    assert site.metas()[-1].rules_hash == wanted
    heir = site.start("balancer", path=new)
    wait_for("the new leader", lambda: site.metas()[-1].epoch == 2)
    wait_for("its rounds", lambda: site.rounds()[-1].epoch == 2)
    assert site.rounds()[-1].skip is Skip.INCOMPLETE_METRICS
    heir.stop()


def load_rules(path: Path) -> str:
    from app.config import load

    return load(path, {}).rules.rules_hash()


@contextmanager
def running_router(site: BalancedSite) -> Iterator[None]:
    """A member of the routers' group."""
    config = site.config
    consumer = Consumer(config.kafka | {"group.id": config.file.router.group, "enable.auto.commit": False})
    assigned: list[object] = []
    consumer.subscribe([config.ingest], on_assign=lambda _consumer, places: assigned.extend(places))
    wait_for("it is a member", lambda: (consumer.poll(0.1), assigned)[1])
    try:
        yield
    finally:
        consumer.close()
