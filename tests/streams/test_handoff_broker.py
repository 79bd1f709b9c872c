"""Handoffs on a real broker, by routers in processes of their own: one thing that must not fail per test.

The backends are these tests: they commit exactly as far as each one says.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer

from app.local_kafka import LocalKafka
from schemas.records import ClusterState
from tests.streams.broker import transactions
from tests.streams.router_kit import (
    INGEST_PARTITIONS,
    Reader,
    RouterProcess,
    Site,
    request,
    site_on,
    wait_for,
)

pytestmark = pytest.mark.broker

SHORT = {"first_wait_s": 0.2, "watch_s": 0.5}
"""A slot is held soon after the mapping has moved it."""
LIVELY = {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 300}
"""A router that is killed is missed soon."""


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[Site]:
    """Topics, a mapping of three clusters, no router yet."""
    with site_on(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


def started(site: Site, instance: str = "a", **given: Any) -> RouterProcess:
    """Returns a router that reads every ingest partition."""
    handoff = SHORT | given.pop("handoff", {})
    router = site.router(instance, handoff=handoff, **given)
    all_of_them = "it reads all ingest partitions"
    wait_for(all_of_them, lambda: router.metric("foreshard_router_ingest_partitions") == INGEST_PARTITIONS)
    return router


def holding(router: RouterProcess) -> float:
    """Returns how many slots are in hold, over all ingest partitions."""
    return router.metric("foreshard_router_handoff_slots", phase="hold")


def held(router: RouterProcess) -> float:
    """Returns how many requests are held."""
    return router.metric("foreshard_router_held_requests")


def moved(site: Site, router: RouterProcess, users: list[int], target: str = "c2") -> None:
    """Moves the slots of users that are busy, and waits until all of them are in hold."""
    site.move(users, target)
    wait_for("the slots are in hold", lambda: holding(router) >= len(users))


def committed(site: Site, cluster: str, messages: list[Message]) -> None:
    """The backend of a cluster has done these records, and commits behind the last one."""
    ends: dict[int, int] = {}
    for message in messages:
        if message.topic() == site.topic(cluster):
            ends[message.partition() or 0] = (message.offset() or 0) + 1
    site.commit_at(cluster, ends)


def topics(site: Site, reader: Reader) -> list[str]:
    """Returns the cluster of each forwarded request, in the order of their sequence numbers."""
    names = {site.topic(name): name for name in site.clusters}
    found = dict(
        zip(reader.sequences(), (names[message.topic() or ""] for message in reader.forwarded), strict=True)
    )
    return [found[sequence] for sequence in sorted(found)]


def check_order(reader: Reader, first: str) -> None:
    """Fails unless each user's requests are in order in each topic, those in `first` before all others."""
    seen: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for message in reader.forwarded:
        value = json.loads(message.value() or b"{}")
        seen[value["user"]["id"]][message.topic() or ""].append(value["seq"])
    for user, by_topic in seen.items():
        for topic, sequences in by_topic.items():
            assert sequences == sorted(sequences), f"{user} in {topic}"
        later = [sequence for topic, found in by_topic.items() if topic != first for sequence in found]
        assert max(by_topic.get(first, [-1])) < min(later, default=1 << 40), user


def test_two_records_of_one_transaction_are_both_waited_for(site: Site) -> None:
    """The backend stops between them: its group has committed the offset of the second, not past it."""
    (user,) = site.users_of("c1", 1)
    site.send(request(0, user), request(1, user))
    router = started(site)
    reader = site.reader()
    reader.until(2)
    first, second = reader.forwarded
    assert second.offset() == (first.offset() or 0) + 1, "no marker between them: one transaction"
    site.commit_at("c1", {second.partition() or 0: second.offset() or 0})
    moved(site, router, [user])
    site.send(request(2, user))
    wait_for("the third is held", lambda: held(router) == 1)
    committed(site, "c1", reader.forwarded)
    reader.until(3)
    assert topics(site, reader) == ["c1", "c1", "c2"]
    router.stop()


def test_a_settled_slot_that_moves_after_a_take_over_waits_for_what_was_sent_before(site: Site) -> None:
    """The second router has sent nothing of it: what it must wait for lies below the ends it found."""
    (user,) = site.users_of("c1", 1)
    site.send(request(0, user))
    reader = site.reader()
    first = started(site)
    reader.until(1)
    first.stop()
    second = started(site, "b")
    moved(site, second, [user])
    site.send(request(1, user))
    wait_for("it is held", lambda: held(second) == 1)
    committed(site, "c1", reader.forwarded)
    reader.until(2)
    assert topics(site, reader) == ["c1", "c2"]
    second.stop()


def test_an_idle_cluster_whose_offset_stays_below_its_end_holds_up_nothing(site: Site) -> None:
    """Its group has committed its last record; markers and an aborted record lie behind."""
    (user,) = site.users_of("c1", 1)
    site.send(request(0, user))
    reader = site.reader()
    first = started(site)
    reader.until(1)
    first.stop()
    committed(site, "c1", reader.forwarded)
    abort_one(site, "c1", reader.forwarded[0].partition() or 0)
    second = started(site, "b", handoff={"hold_timeout_s": 600.0})
    site.move([user], "c2")
    wait_for("settled", lambda: {note.settled for _, note in site.notes().values() if note} == {2})
    site.send(request(1, user))
    reader.until(2)
    assert topics(site, reader) == ["c1", "c2"]
    second.stop()


def abort_one(site: Site, cluster: str, partition: int) -> None:
    """Somebody's aborted transaction leaves a record and a marker."""
    producer: Producer = transactions(site.bootstrap, site.prefix + "somebody")
    producer.begin_transaction()
    producer.produce(site.topic(cluster), b"never", partition=partition)
    producer.flush(10)
    producer.abort_transaction(10)


def test_a_router_killed_while_it_holds_loses_and_repeats_nothing(site: Site) -> None:
    """Its successor reads what was held again, skips what was forwarded meanwhile, and keeps the order.

    Both movers use one ingest partition; the second one is forwarded after the first one was held.
    """
    first, second = site.users_of("c1", 2)
    others = site.users_of("c3", 8)
    numbers = count()

    def sent(*users: int) -> None:
        places = {user: {"partition": 1 if user in (first, second) else 0} for user in users}
        site.send(*(request(next(numbers), user) | places[user] for user in users))

    reader = site.reader()
    killed = started(site, kafka=LIVELY)
    sent(first, second, *others)
    reader.until(10)
    moved(site, killed, [first])
    sent(first, second, *others, second, first)
    reader.until(20)
    wait_for("two are held", lambda: held(killed) == 2)
    moved(site, killed, [first, second])
    sent(first, second, *others, second, first)
    reader.until(28)
    wait_for("six are held", lambda: held(killed) == 6)
    wait_for(
        "two holds are noted", lambda: 2 in [len(note.held) for _, note in site.notes().values() if note]
    )
    killed.kill()
    successor = started(site, "b", kafka=LIVELY)
    wait_for("six are held again", lambda: held(successor) == 6)
    sent(second, first, *others)
    wait_for("two more are held", lambda: held(successor) == 8)
    committed(site, "c1", reader.forwarded)
    reader.until(next(numbers))
    reader.check_exactly_once(len(reader.forwarded))
    check_order(reader, site.topic("c1"))
    successor.stop()


def test_what_was_held_is_forwarded_first_and_in_order(site: Site) -> None:
    """Twelve users, 20 requests each before the move, while they are held, and while they are released."""
    users = site.users_of("c1", 12)
    numbers = count()
    router = started(site)
    reader = site.reader()
    batch = [user for _ in range(20) for user in users]
    site.send(*(request(next(numbers), user) for user in batch))
    reader.until(240)
    moved(site, router, users)
    site.send(*(request(next(numbers), user) for user in batch))
    wait_for("all are held", lambda: held(router) == 240)
    committed(site, "c1", reader.forwarded)
    site.send(*(request(next(numbers), user) for user in batch))
    reader.until(720)
    reader.check_exactly_once(720)
    check_order(reader, site.topic("c1"))
    assert topics(site, reader) == ["c1"] * 240 + ["c2"] * 480
    assert router.metric("foreshard_router_hold_seconds_count") == 12
    router.stop()


def test_slots_leave_a_dead_cluster_after_its_grace_and_are_counted(site: Site) -> None:
    """Available: the order of what is sent from then on is unproven, until the group gets on."""
    (user,) = site.users_of("c1", 1)
    router = started(site, handoff={"dead_grace_s": 1.5})
    reader = site.reader()
    site.send(request(0, user))
    reader.until(1)
    moved(site, router, [user])
    site.send(request(1, user))
    wait_for("it is held", lambda: held(router) == 1)
    site.set_state("c1", ClusterState.DOWN)
    reader.until(2)
    site.send(request(2, user))
    reader.until(3)
    counted = "foreshard_router_order_unproven_requests_total"
    wait_for("both are counted", lambda: router.metric(counted) == 2)
    committed(site, "c1", reader.forwarded)
    wait_for("nothing is waited for", lambda: holding(router) == 0)
    assert topics(site, reader) == ["c1", "c2", "c2"]
    router.stop()


def test_slots_of_a_dead_cluster_wait_where_order_is_strict(site: Site) -> None:
    """Strict: what is held stays held beyond the grace, until the cluster has drained after all."""
    (user,) = site.users_of("c1", 1)
    router = started(site, handoff={"dead_grace_s": 0.2, "on_dead": "strict"})
    reader = site.reader()
    site.send(request(0, user))
    reader.until(1)
    moved(site, router, [user])
    site.send(request(1, user))
    wait_for("it is held", lambda: held(router) == 1)
    site.set_state("c1", ClusterState.DOWN)
    wait_for("the router knows", lambda: router.metric("foreshard_router_mapping_version") == 3)
    since = time.monotonic()
    wait_for("five times the grace is over", lambda: time.monotonic() > since + 1.0)
    assert (held(router), holding(router)) == (1, 1)
    committed(site, "c1", reader.forwarded)
    reader.until(2)
    assert topics(site, reader) == ["c1", "c2"]
    assert router.metric("foreshard_router_order_unproven_requests_total") == 0
    router.stop()


def test_a_partition_that_can_hold_no_more_pauses_and_goes_on(site: Site) -> None:
    """Five fit, thirty come: that partition waits, the others flow, nothing is dropped."""
    (mover,) = site.users_of("c1", 1)
    others = site.users_of("c3", 12)
    numbers = count()
    router = started(site, handoff={"held_requests": 5})
    reader = site.reader()
    site.send(request(next(numbers), mover))
    reader.until(1)
    moved(site, router, [mover])
    site.send(*(request(next(numbers), mover) for _ in range(30)))
    wait_for("it is full", lambda: router.metric("foreshard_router_full_partitions") == 1)
    assert held(router) == 5
    full = next(number for number, (_, note) in site.notes().items() if note and note.held)
    elsewhere = [number for number in range(INGEST_PARTITIONS) if number != full]
    site.send(*(request(next(numbers), user) | {"partition": elsewhere[user % 3]} for user in others))
    reader.until(13)
    committed(site, "c1", reader.forwarded)
    reader.until(43)
    reader.check_exactly_once(43)
    check_order(reader, site.topic("c1"))
    assert router.metric("foreshard_router_full_partitions") == 0
    router.stop()


def test_requests_without_order_pass_while_others_of_their_key_are_held(site: Site) -> None:
    """They go to the new cluster at once, and nobody waits for them later."""
    (user,) = site.users_of("c1", 1)
    router = started(site)
    reader = site.reader()
    site.send(request(0, user))
    reader.until(1)
    moved(site, router, [user])
    site.send(request(1, user), request(2, user, "view"))
    reader.until(2)
    assert (reader.sequences(), held(router)) == ([0, 2], 1)
    committed(site, "c1", reader.forwarded)
    reader.until(3)
    assert topics(site, reader) == ["c1", "c2", "c2"]
    router.stop()


def test_a_group_that_never_committed_is_waited_for_and_named(site: Site) -> None:
    """Slots wait, and the log says for whom, once."""
    (user,) = site.users_of("c1", 1)
    router = started(site, no_commit_s=0.5)
    reader = site.reader()
    site.send(request(0, user))
    reader.until(1)
    moved(site, router, [user])
    site.send(request(1, user))
    said = f"no-commit: slots wait for {site.topic('c1')}, but its group c1-group has no committed offset"
    wait_for("it says so", lambda: said in router.stderr())
    wait_for("it is held", lambda: held(router) == 1)
    committed(site, "c1", reader.forwarded)
    reader.until(2)
    assert (topics(site, reader), router.stderr().count("no-commit")) == (["c1", "c2"], 1)
    router.stop()
