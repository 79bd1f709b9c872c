"""The router on a real broker, in processes of its own."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from app.local_kafka import LocalKafka
from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE, RulesMismatchError, TopicError
from schemas.records import LoadHistory, LoadReport, Move, Reason, load_record
from streams.core.keys import KeyReader, locate
from streams.core.mapping import ranges, slots_of
from streams.core.offset_note import decode_note
from tests.streams.router_kit import (
    CLUSTER_PARTITIONS,
    INGEST_PARTITIONS,
    Site,
    headers_of,
    listed,
    request,
    site_on,
    wait_for,
)
from tests.streams.router_process import rules

LIMIT = 20_000
"""max.message.bytes of a cluster topic in the tests of size limits."""


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[Site]:
    """Topics, a mapping of three clusters, no router yet."""
    with site_on(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


@pytest.fixture
def empty_site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[Site]:
    """Topics, no mapping."""
    with site_on(kafka.bootstrap, prefix, tmp_path, mapping=False) as made:
        yield made


def test_value_key_headers_and_timestamp_pass_byte_for_byte(site: Site) -> None:
    """A forwarded record is the ingest record with three headers more, at its slot's owner and partition."""
    router = site.router()
    value = b'{"type": "update",\t"user":{"id":"\xc3\xa4"}, "seq":1.50}'
    headers: Headers = [("trace", b"\x00\xff"), ("trace", b"2"), ("nothing", None), ("type", b"update")]
    producer = site.producer()
    producer.produce(site.ingest, value, b"\x00key", timestamp=1_700_000_000_123, headers=headers)
    producer.produce(site.ingest, value, None, timestamp=1_700_000_000_124)
    producer.produce(site.ingest, None, b"k", headers=[("type", b"read"), ("tenant", b"t1")])
    producer.flush()
    reader = site.reader()
    reader.until(3)
    first, second, third = sorted(reader.forwarded, key=lambda message: message.timestamp()[1])
    assert (first.value(), first.key(), first.timestamp()[1]) == (value, b"\x00key", 1_700_000_000_123)
    assert listed(first)[:4] == headers
    assert (second.key(), third.value(), third.key()) == (None, None, b"k")
    assert site.snapshot is not None
    shard, slot = locate(rules(), "update", ["\u00e4"])
    added = [
        ("foreshard-shard", b"%d" % shard),
        ("foreshard-type", b"update"),
        ("foreshard-mapping", b"1.1"),
    ]
    assert (listed(first)[4:], listed(second)) == (added, added)
    assert first.topic() == site.topic(site.snapshot.owner(slot))
    assert first.partition() == slot % CLUSTER_PARTITIONS
    assert router.stop() < 5


BAD = {
    "not-json": b"{",
    "empty-value": b"",
    "type-not-text": b'{"type": 3, "user": {"id": 1}}',
    "key-not-scalar": b'{"type": "update", "user": {"id": [1]}}',
    "key-missing": b'{"type": "update", "user": 1}',
    "type-unknown": b'{"type": "delete", "user": {"id": 1}}',
    "type-missing": b'{"user": {"id": 1}}',
    "nested-too-deep": b'{"type": "update", "user": {"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "not-utf8": b'{"type": "update", "user": {"id": "\xff"}}',
}


def test_each_bad_request_becomes_a_dead_letter_while_good_ones_flow(site: Site) -> None:
    """Dead letters keep value, key and headers, and say code, reason and source."""
    router = site.router()
    producer = site.producer()
    for number, value in enumerate(BAD.values()):
        producer.produce(site.ingest, **request(number))
        producer.produce(site.ingest, value, b"bad", 1, headers=[("own", b"1")])
    producer.flush()
    reader = site.reader()
    reader.until(2 * len(BAD))
    reader.check_exactly_once(len(BAD))
    found = {headers_of(message)[HEADER_ERROR].decode(): message for message in reader.dead}
    assert sorted(found) == sorted(BAD)
    for code, message in found.items():
        headers = headers_of(message)
        assert (message.value(), message.key(), headers["own"]) == (BAD[code], b"bad", b"1")
        assert headers[HEADER_REASON]
        assert headers[HEADER_SOURCE].startswith(f"{site.ingest}[1]@".encode())
    router.stop()


Headers = list[tuple[str, str | bytes | None]]


def varint(number: int) -> int:
    """Returns the bytes of a signed varint (zigzag) in a record."""
    return max(1, -(-(2 * number).bit_length() // 7))


def batch_bytes(key: bytes, value: bytes, headers: Headers) -> int:
    """Returns the bytes of a record batch (format 2) with this one record."""
    body = 1 + 1 + 1 + varint(len(key)) + len(key) + varint(len(value)) + len(value) + varint(len(headers))
    body += sum(varint(len(n)) + len(n) + varint(len(v)) + len(v) for n, v in headers if v is not None)
    return 61 + varint(body) + body


def limit_size(site: Site, topic: str, limit: int) -> None:
    """Sets max.message.bytes of a topic."""
    entry = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = site.admin
    admin.incremental_alter_configs([resource])[resource].result(10)


def sized(site: Site, size: int, number: int) -> tuple[bytes, bytes, Headers]:
    """Returns (value, key, headers) of a request that makes a batch of `size` bytes when forwarded."""
    key = b"k%d" % number
    headers: Headers = [("type", b"read"), ("tenant", b"t")]
    shard, _ = locate(rules(), "read", ["t", key.decode()])
    added: Headers = [
        ("foreshard-shard", b"%d" % shard),
        ("foreshard-type", b"read"),
        ("foreshard-mapping", b"1.1"),
    ]
    noise = base64.b64encode(random.Random(number).randbytes(size))  # lz4 finds nothing to shorten
    head = b'{"seq": %d, "noise": "' % number
    fill = size - 200
    while True:
        value = head + noise[:fill] + b'"}'
        short = size - batch_bytes(key, value, headers + added)
        if short == 0:
            return value, key, headers
        fill += short


def test_one_record_over_a_topics_limit_is_found_and_stops_nothing(site: Site) -> None:
    """The limit is lowered behind the router's back: what is at it goes through, what is over it does not."""
    router = site.router()
    router.wait_ready()
    for name in site.clusters:
        limit_size(site, site.topic(name), LIMIT)
    producer = site.producer()
    for number in range(600):
        if number in (250, 400):
            value, key, headers = sized(site, LIMIT + (number == 400), number)
            producer.produce(site.ingest, value, key, headers=headers)
        else:
            producer.produce(site.ingest, **request(number))
    producer.flush()
    reader = site.reader()
    reader.until(600, 60)
    seen = reader.sequences()
    assert sorted(seen) == [number for number in range(600) if number != 400]
    (letter,) = reader.dead
    assert (letter.key(), headers_of(letter)[HEADER_ERROR]) == (b"k400", b"too-large")
    assert letter.value() == sized(site, LIMIT + 1, 400)[0]
    assert router.ready() == (True, "ok")
    router.stop()


def test_value_that_fits_nowhere_leaves_a_dead_letter_without_it(site: Site) -> None:
    """When the dead-letter topic refuses the value too, key and headers are kept."""
    router = site.router()
    router.wait_ready()
    for topic in [site.dead_letter, *map(site.topic, site.clusters)]:
        limit_size(site, topic, LIMIT)
    producer = site.producer()
    value, key, headers = sized(site, 2 * LIMIT, 7)
    producer.produce(site.ingest, value, key, headers=headers)
    producer.produce(site.ingest, **request(8))
    producer.flush()
    reader = site.reader()
    reader.until(2, 60)
    (letter,) = reader.dead
    assert (letter.value(), letter.key(), headers_of(letter)["tenant"]) == (None, key, b"t")
    assert reader.sequences() == [8]
    router.stop()


@pytest.mark.slow
@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
def test_consumer_that_stays_out_of_its_group_is_replaced(site: Site, guarantee: str) -> None:
    """The router says that it is no member; then it routes on where it was, with another consumer."""
    router = site.router(guarantee=guarantee)
    router.wait_ready()
    producer, reader = site.producer(), site.reader()
    for number in range(100):
        producer.produce(site.ingest, **request(number))
    producer.flush()
    reader.until(100)
    router.send(signal.SIGUSR1)
    reason = f"not a member of the group {site.prefix}router"
    wait_for("says so", lambda: router.ready() == (False, reason))
    for number in range(100, 200):
        producer.produce(site.ingest, **request(number))
    producer.flush()
    reader.until(200, 40)
    assert sorted(reader.sequences()) == list(range(200))
    wait_for("ready again", lambda: router.ready() == (True, "ok"))
    assert "going on with a new consumer" in router.stderr()
    router.stop()


def test_first_start_waits_for_a_mapping(empty_site: Site) -> None:
    """Without a mapping nothing is read; with the first one routing begins, from the first request."""
    router = empty_site.router()
    producer = empty_site.producer()
    for number in range(100):
        producer.produce(empty_site.ingest, **request(number))
    producer.flush()
    wait_for("says mapping-empty", lambda: router.ready() == (False, "mapping-empty"))
    reader = empty_site.reader()
    reader.poll(1.0)
    assert not reader.forwarded
    empty_site.write_mapping()
    reader.until(100)
    reader.check_exactly_once(100)
    assert router.ready()[0]
    router.stop()


def test_mapping_of_other_key_rules_ends_the_router_with_the_reason(empty_site: Site) -> None:
    """A router whose rules differ from the mapping's must not route one request by them."""
    empty_site.write_mapping(rules_hash="0" * 64)
    producer = empty_site.producer()
    producer.produce(empty_site.ingest, **request(0))
    producer.flush()
    process, errors = empty_site.launch()
    assert process.wait(30) == RulesMismatchError.exit_status
    text = errors.read_text()
    assert "rules-mismatch: the mapping 1.1 was made with 32 shards and rules hash 000000000000" in text
    assert not empty_site.reader().forwarded


def test_missing_ingest_topic_and_a_small_dead_letter_topic_end_the_router_at_its_start(site: Site) -> None:
    """Both say what to do."""
    limit_size(site, site.dead_letter, 1_000_000)
    process, errors = site.launch("small")
    assert process.wait(30) == TopicError.exit_status
    assert f"--entity-name {site.dead_letter} --add-config max.message.bytes=1114124" in errors.read_text()
    admin = site.admin
    admin.delete_topics([site.ingest])[site.ingest].result(10)
    process, errors = site.launch("none")
    assert process.wait(30) == TopicError.exit_status
    assert f"the ingest topic {site.ingest} does not exist" in errors.read_text()


def test_missing_cluster_topic_stops_reading_until_it_is_back(site: Site) -> None:
    """Nothing is dead-lettered for a topic that vanished; requests wait and are routed afterwards."""
    router = site.router()
    router.wait_ready()
    gone = site.topic("c2")
    admin = site.admin
    admin.delete_topics([gone])[gone].result(10)
    wait_for("says what is missing", lambda: router.ready() == (False, f"topic-missing: {gone}"))
    producer = site.producer()
    for number in range(300):
        producer.produce(site.ingest, **request(number))
    producer.flush()
    time.sleep(1)  # long enough to see that nothing comes
    site.create(gone, CLUSTER_PARTITIONS)
    reader = site.reader()
    reader.until(300, 40)
    reader.check_exactly_once(300)
    assert not reader.dead
    assert router.stderr().count("topic-missing") == 1
    router.stop()


def test_sigterm_in_mid_stream_loses_and_repeats_nothing_within_five_seconds(site: Site) -> None:
    """Two routers stopped and started in turn under load; offsets and reports join up."""
    routers = {name: site.router(name) for name in ("a", "b")}
    producer = site.producer()
    for number in range(6_000):
        producer.produce(site.ingest, **request(number))
        if number % 20 == 19:
            producer.poll(0.005)
        if number in (1_500, 3_000, 4_500):
            name = "a" if number != 3_000 else "b"
            assert routers[name].stop() < 5
            routers[name] = site.router(name)
    producer.flush()
    reader = site.reader()
    reader.until(6_000, 60)
    reader.check_exactly_once(6_000)
    for router in routers.values():
        assert router.stop() < 5
        assert router.stderr() == ""
    check_reports_join_up(site, 6_000)


def check_reports_join_up(site: Site, count: int) -> None:
    """Fails unless reports and history each cover every committed offset once and count every request."""
    records = [load_record(value) for value in site.values(site.prefix + "load")]
    spans: dict[str, dict[int, list[tuple[int, int]]]] = {k: defaultdict(list) for k in ("report", "history")}
    counts = {"report": 0, "history": 0}
    for record in records:
        if isinstance(record, LoadReport):
            parts = [(part.partition, part.from_offset, part.to_offset) for part in record.partitions]
            counts["report"] += sum(sum(part.forwarded.count) for part in record.partitions)
            assert sum(map(sum, record.clusters.values())) == sum(part.requests for part in record.partitions)
        else:
            assert isinstance(record, LoadHistory)
            parts = [(span.partition, span.from_offset, span.to_offset) for span in record.ranges]
            counts["history"] += sum(record.arrivals.count)
        for partition, start, stop in parts:
            if stop > start:
                spans[record.kind][partition].append((start, stop))
    assert counts == {"report": count, "history": count}
    for by_partition in spans.values():
        for ordered in map(sorted, by_partition.values()):
            assert ordered[0][0] == 0
            assert all(before[1] == after[0] for before, after in itertools.pairwise(ordered))


def test_new_mapping_takes_effect_and_the_note_says_so(site: Site) -> None:
    """Slots that move go to their new cluster; the committed notes name the new version, idle or not."""
    router = site.router()
    assert site.snapshot is not None
    shard, _ = locate(rules(), "update", ["u5"])
    record = site.snapshot.records[shard]
    target = next(name for name in site.clusters if name != record.home)
    slots = ranges(slots_of(record.segments, record.home))
    move = Move(
        shard=shard, source=record.home, target=target, slots=slots, load_cps=1.0, reason=Reason.DRAIN
    )
    producer = site.producer()
    producer.produce(site.ingest, **request(0, user=5))
    producer.flush()
    reader = site.reader()
    reader.until(1)
    site.write_moves([move])
    watcher = site.group_consumer("router")
    places = [TopicPartition(site.ingest, partition) for partition in range(INGEST_PARTITIONS)]

    def versions() -> list[tuple[int, int]]:
        notes = [decode_note(place.metadata) for place in watcher.committed(places, 5)]
        return [(note.settled, note.newest) for note in notes if note is not None]

    wait_for("notes name version 2", lambda: [newest for _, newest in versions()] == [2] * INGEST_PARTITIONS)
    assert (1, 2) in versions()  # the old cluster has not committed what it got
    site.commit_group(record.home)
    wait_for("version 2 is settled", lambda: versions() == [(2, 2)] * INGEST_PARTITIONS)
    producer.produce(site.ingest, **request(1, user=5))
    producer.flush()
    reader.until(2)
    assert [message.topic() for message in reader.forwarded] == [site.topic(record.home), site.topic(target)]
    assert headers_of(reader.forwarded[1])["foreshard-mapping"] == b"1.2"
    router.stop()


def test_a_cluster_topic_made_again_holds_no_slot_for_ever(site: Site) -> None:
    """Offsets start anew: fences of the old topic, which no group would ever pass, are forgotten."""
    router = site.router()
    assert site.snapshot is not None
    shard, slot = locate(rules(), "update", ["u5"])
    home = site.snapshot.owner(slot)
    target = next(name for name in site.clusters if name != home)
    producer = site.producer()
    for number in range(50):
        producer.produce(site.ingest, **request(number, user=5))
    producer.flush()
    reader = site.reader()
    reader.until(50)
    reader.consumer.close()
    admin, gone = site.admin, site.topic(home)
    admin.delete_topics([gone])[gone].result(10)
    wait_for("says what is missing", lambda: router.ready() == (False, f"topic-missing: {gone}"))
    site.create(gone, CLUSTER_PARTITIONS)
    wait_for("goes on", lambda: router.ready()[0])
    slots = ranges(slots_of(site.snapshot.records[shard].segments, home))
    site.write_moves(
        [Move(shard=shard, source=home, target=target, slots=slots, load_cps=1.0, reason=Reason.DRAIN)]
    )
    watcher = site.group_consumer("router")
    places = [TopicPartition(site.ingest, partition) for partition in range(INGEST_PARTITIONS)]

    def settled() -> list[int]:
        notes = [decode_note(place.metadata) for place in watcher.committed(places, 5)]
        return [note.settled for note in notes if note is not None]

    wait_for("the move is settled", lambda: settled() == [2] * INGEST_PARTITIONS, 40)
    router.stop()


def test_router_reads_what_the_tests_reader_reads() -> None:
    """The kit's rules read the kit's requests: a change of one without the other shows here."""
    arguments = request(3)
    series, _, name = KeyReader(rules()).read(arguments["value"], arguments["key"], None)
    assert (series, name, json.loads(arguments["value"])["seq"]) == (0, "update", 3)
    assert os.path.exists(Path(__file__).with_name("router_process.py"))


def test_at_least_once_loses_nothing_when_routers_are_killed_and_stopped(site: Site) -> None:
    """A killed router's work is done again, an orderly stop repeats nothing; notes and reports as ever."""
    routers = {name: site.router(name, guarantee="at-least-once") for name in ("a", "b")}
    producer = site.producer()
    for number in range(4_000):
        producer.produce(site.ingest, **request(number))
        if number % 20 == 19:
            producer.poll(0.005)
        if number == 1_500:
            routers["a"].send(signal.SIGKILL)
            routers["a"] = site.router("a", guarantee="at-least-once")
    producer.flush()
    reader = site.reader()
    wait_for("all came", lambda: reader.poll(0.05) or len(set(reader.sequences())) == 4_000, 40)
    assert routers["a"].stop() < 5
    before = len(reader.forwarded)
    for number in range(4_000, 4_500):
        producer.produce(site.ingest, **request(number))
    producer.flush()
    wait_for("the other goes on", lambda: reader.poll(0.05) or len(set(reader.sequences())) == 4_500, 40)
    assert len(reader.forwarded) == before + 500
    routers["b"].stop()


def test_static_member_restarts_without_a_rebalance(site: Site) -> None:
    """Its partitions wait for it: the other router keeps its own and gets no more."""
    routers = {name: site.router(name, instance_id=name) for name in ("a", "b")}
    admin, group = site.admin, site.prefix + "router"
    members = {"a": set[int](), "b": set[int]()}

    def assigned() -> bool:
        found = admin.describe_consumer_groups([group])[group].result(10)
        for member in found.members:
            parts = {place.partition for place in member.assignment.topic_partitions}
            members[member.group_instance_id or ""] = parts
        return all(len(parts) == INGEST_PARTITIONS // 2 for parts in members.values())

    wait_for("both have their part", assigned)
    before = {name: set(parts) for name, parts in members.items()}
    routers["a"].stop()
    routers["a"] = site.router("a", instance_id="a")
    wait_for("both have their part again", assigned)
    assert members == before
    for router in routers.values():
        router.stop()
