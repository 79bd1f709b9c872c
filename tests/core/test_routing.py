"""Routing one batch: every request is forwarded or dead-lettered, in order, by the mapping alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import HEADER_ERROR, HEADER_SOURCE, BadRequest
from schemas.records import SLOTS, ClusterState, MappedCluster
from streams.core.fences import ClusterNumbers
from streams.core.handoff import Base, HandoffSettings
from streams.core.handoffs import Handoffs, aim_of
from streams.core.keys import KeyReader, KeyRules, RequestType, locate, parse_field
from streams.core.mapping import Snapshot, SnapshotBuilder
from streams.core.plans import first_mapping
from streams.core.poison import Condemned, Keep, Place
from streams.core.routing import Header, Routed, Routes, route
from streams.core.tally import Tally, arrival_times

RULES = KeyRules(
    shards=16,
    type_from=(parse_field("header:type"), parse_field("json:type")),
    types=(
        RequestType("update", (parse_field("json:id"),), keyspace="user"),
        RequestType("*", (parse_field("key"),), missing="empty"),
    ),
)
PARTITIONS = {"c1": 3, "c2": 5, "c3": 12}


def snapshot() -> Snapshot:
    """A first mapping of three clusters."""
    clusters = {
        name: MappedCluster(topic=f"t.{name}", group=name, partitions=count, state=ClusterState.ACTIVE)
        for name, count in PARTITIONS.items()
    }
    records, meta = first_mapping(16, dict.fromkeys(clusters, 1.0), clusters, 3, RULES.rules_hash(), "3.0")
    builder = SnapshotBuilder()
    for record in records:
        builder.apply(record)
    builder.apply(meta)
    assert builder.snapshot is not None
    return builder.snapshot


SNAPSHOT = snapshot()
NUMBERS = ClusterNumbers()
ROUTES = Routes(aim_of(SNAPSHOT, NUMBERS), NUMBERS, "dead", 10_000, "in")
READER = KeyReader(RULES)


def settled_handoffs() -> Handoffs:
    """Partitions 0 to 2, in which nothing is on its way."""
    handoffs = Handoffs(HandoffSettings(), NUMBERS)
    handoffs.change(ROUTES.aim, 0.0)
    for partition in range(3):
        handoffs.begin(partition, 0, None, Base(), 0.0)
    return handoffs


def routed_of(batch: list[Record], condemned: dict[Place, Condemned] | None = None) -> Routed:
    """The batch routed under a mapping that stands still."""
    return route(batch, ROUTES, READER, settled_handoffs(), condemned or {})


@dataclass(frozen=True)
class Record:
    """An ingest record, as a consumer gives it."""

    number: int
    body: bytes | None
    record_key: bytes | None = None
    own: list[Header] = field(default_factory=list)
    place: int = 0
    stamp: int = 1_000

    def value(self) -> bytes | None:
        return self.body

    def key(self) -> bytes | None:
        return self.record_key

    def headers(self) -> list[Header] | None:
        return self.own or None

    def timestamp(self) -> tuple[int, int]:
        return 1, self.stamp

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.number


bodies = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.builds(lambda i: json.dumps({"type": "update", "id": i}).encode(), st.integers() | st.text()),
    st.builds(lambda t: json.dumps({"type": t}).encode(), st.text(max_size=5)),
)
small = st.none() | st.binary(max_size=8)
header_lists = st.lists(st.tuples(st.sampled_from(["a", "type", "b"]), small), max_size=3)
batches = st.lists(
    st.tuples(bodies, small, header_lists, st.integers(0, 2), st.integers(-1, 10**13)), max_size=30
).map(lambda rows: [Record(number, *row) for number, row in enumerate(rows)])


@given(batches)
def test_every_request_is_forwarded_or_dead_lettered_once_and_unchanged(batch: list[Record]) -> None:
    """Value, key and headers are kept; forwarded ones in ingest order; offsets are the next to read."""
    routed = routed_of(batch)
    dead = {letter.offset for letter in routed.dead}
    expected = [r for r in batch if r.number not in dead] + [r for r in batch if r.number in dead]
    assert len(routed.outgoing) == len(batch)
    for record, (topic, value, key, _, _, headers) in zip(expected, routed.outgoing, strict=True):
        assert (topic == "dead") == (record.number in dead)
        assert (value, key) == (record.body, record.record_key)
        assert headers[: len(record.own)] == record.own
        assert len(headers) == len(record.own) + 3
    assert routed.positions == {record.place: record.number + 1 for record in batch}
    assert routed.records == len(batch)
    assert routed.origins == [(record.place, record.number) for record in expected]
    columns = [getattr(part, field.name) for part in (routed.taken, routed.sent) for field in fields(part)]
    assert {len(column) for column in columns} == {len(batch) - len(dead)}


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10), max_size=20))
def test_a_key_goes_to_its_slots_owner_and_partition(keys: list[int | str]) -> None:
    """The same place that `locate` names for `foreshard key shard`."""
    batch = [Record(n, json.dumps({"type": "update", "id": key}).encode()) for n, key in enumerate(keys)]
    routed = routed_of(batch)
    for key, outgoing, slot in zip(keys, routed.outgoing, routed.sent.slot.tolist(), strict=True):
        shard, expected = locate(RULES, "update", [key])
        owner = SNAPSHOT.owner(expected)
        assert (slot, slot // SLOTS) == (expected, shard)
        assert outgoing[:1] + outgoing[3:4] == (f"t.{owner}", slot % PARTITIONS[owner])
        added = dict(outgoing[5])
        assert added == {
            "foreshard-shard": b"%d" % shard,
            "foreshard-type": b"update",
            "foreshard-mapping": b"3.1",
        }


def test_a_bad_request_says_what_and_where() -> None:
    """Code, reason and source are headers of the dead letter."""
    routed = routed_of([Record(41, b"{", b"k", [("a", b"1")], place=2)])
    (letter,) = routed.dead
    headers = dict(routed.outgoing[0][5])
    assert (letter.bad, letter.partition, letter.offset) == (BadRequest.NOT_JSON, 2, 41)
    assert (headers[HEADER_ERROR], headers[HEADER_SOURCE], headers["a"]) == (b"not-json", b"in[2]@41", b"1")


def test_a_letter_keeps_its_value_only_where_it_fits() -> None:
    """By the topic's limit, or when the broker has refused it before."""
    large, small = Record(0, b"{" * 10_000), Record(1, b"{")
    condemned = {(0, 1): Condemned(BadRequest.TOO_LARGE, "why", Keep.NO_VALUE)}
    routed = routed_of([large, small], condemned)
    assert [outgoing[1] for outgoing in routed.outgoing] == [None, None]
    least = routed_of([small], {(0, 1): Condemned(BadRequest.TOO_LARGE, "why", Keep.OUR_HEADERS)})
    assert (least.outgoing[0][1:3], len(least.outgoing[0][5])) == ((None, None), 3)


def test_a_condemned_request_is_dead_lettered_although_it_could_be_read() -> None:
    """The broker refused it: what it refused is the reason."""
    good = Record(5, b'{"type": "update", "id": 1}')
    routed = routed_of([good], {(0, 5): Condemned(BadRequest.TOO_LARGE, "5 MB")})
    assert [(letter.bad, letter.reason) for letter in routed.dead] == [(BadRequest.TOO_LARGE, "5 MB")]
    assert routed.outgoing[0][1] == good.body


def tallied(batches_of: list[list[Record]]) -> tuple[Tally, list[Routed]]:
    """A tally of these batches of partition 0, counted at model time 1,000 s."""
    tally = Tally("r", RULES.series, RULES.shards, 30.0)
    tally.begin(0, 0)
    routed = [routed_of(batch) for batch in batches_of]
    for one in routed:
        times = arrival_times(one.taken.timestamp_ms, 0.0, 1.0, 1_000.0)
        tally.add(one, one.positions, NUMBERS, times)
    return tally, routed


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(0, 60))
def test_reports_count_every_request_once_and_their_ranges_join_up(users: list[int], cut: int) -> None:
    """Two windows and one history together hold what was forwarded, by series, shard, cluster, partition."""
    batch = [Record(n, b'{"type": "update", "id": %d}' % u, stamp=940_000 + n) for n, u in enumerate(users)]
    parts = [part for part in (batch[:cut], batch[cut:]) if part]
    tally = Tally("r", RULES.series, RULES.shards, 30.0)
    tally.begin(0, 0)
    reports = []
    shards: Counter[int] = Counter()
    targets: Counter[tuple[str, int]] = Counter()
    for number, part in enumerate(parts):
        routed = routed_of(part)
        times = arrival_times(routed.taken.timestamp_ms, 0.0, 1.0, 1_000.0)
        tally.add(routed, routed.positions, NUMBERS, times)
        reports.append(tally.report((number * 5.0, number * 5.0 + 5.0), (3, 1), lambda _p, _o: 7))
        shards.update((routed.taken.slot // SLOTS).tolist())
        pairs = zip(routed.sent.owner.tolist(), routed.sent.target.tolist(), strict=True)
        targets.update((NUMBERS.names[owner], target) for owner, target in pairs)
    spans = [(report.partitions[0].from_offset, report.partitions[0].to_offset) for report in reports]
    assert [span[0] for span in spans] == [0, *(span[1] for span in spans[:-1])]
    assert spans[-1][1] == len(users)
    found: Counter[int] = Counter()
    reached: Counter[tuple[str, int]] = Counter()
    for report in reports:
        forwarded = report.partitions[0].forwarded
        found.update(dict(zip(forwarded.shard, forwarded.count, strict=True)))
        for name, counts in report.clusters.items():
            reached.update({(name, target): count for target, count in enumerate(counts) if count})
        assert report.partitions[0].lag == 7
    assert (found, reached) == (shards, targets)
    (history,) = [record for record in tally.history(31) if record.arrivals.count]
    assert (history.step, sum(history.arrivals.count)) == (31, len(users))


def test_history_separates_steps_and_gives_the_ranges_once() -> None:
    """A late request becomes a further record of its own step."""
    stamps = [965_000, 995_000, 996_000]
    tally, _ = tallied([[Record(n, b'{"type": "update", "id": 1}', stamp=s) for n, s in enumerate(stamps)]])
    records = tally.history(33)
    assert [(r.step, sum(r.arrivals.count), len(r.ranges)) for r in records] == [(33, 2, 1), (32, 1, 0)]
    spans = [(r.step, r.ranges[0].from_offset, r.ranges[0].to_offset) for r in tally.history(34)]
    assert spans == [(34, 3, 3)]


def test_timestamps_far_from_now_count_at_most_a_minute_off() -> None:
    """Catching up after an outage is no surge of the past; no timestamp means now."""
    stamps = np.array([0, 1, 999_000, 5_000_000], dtype=np.int64)
    assert arrival_times(stamps, 0.0, 1.0, 1_000.0).tolist() == [1_000.0, 940.0, 999.0, 1_060.0]


def test_a_partition_that_leaves_is_told_to_its_end_and_then_no_more() -> None:
    """Its next owner goes on from there."""
    tally, _ = tallied([[Record(n, b'{"type": "update", "id": 1}') for n in range(3)]])
    tally.end([0])
    report = tally.report((0.0, 5.0), (3, 1), lambda _p, _o: 7)
    assert [(p.from_offset, p.to_offset, p.lag) for p in report.partitions] == [(0, 3, 0)]
    assert len(tally.history(33)[0].ranges) == 1
    assert tally.report((5.0, 10.0), (3, 1), lambda _p, _o: 7).partitions == []
    assert tally.history(34)[0].ranges == []


def test_the_busiest_slots_are_named() -> None:
    """Busiest first."""
    users = [1] * 5 + [2] * 3 + [3]
    tally, routed = tallied([[Record(n, b'{"type": "update", "id": %d}' % u) for n, u in enumerate(users)]])
    report = tally.report((0.0, 5.0), (3, 1), lambda _p, _o: 0)
    assert report.hot_slots[:2] == [(int(routed[0].taken.slot[0]), 5), (int(routed[0].taken.slot[5]), 3)]
