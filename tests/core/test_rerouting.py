"""What a rescue writes: the same requests, where the mapping says now."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import HEADER_ERROR, HEADER_REASON, HEADER_SOURCE
from schemas.records import SLOTS, ClusterState, MappedCluster
from streams.core.keys import KeyReader, KeyRules, RequestType, locate, parse_field
from streams.core.mapping import Snapshot, advance
from streams.core.plans import first_mapping
from streams.core.rerouting import Rerouting
from streams.core.routing import HEADER_MAPPING, HEADER_SHARD, HEADER_TYPE, Header

RULES = KeyRules(
    shards=8,
    type_from=(parse_field("header:type"), parse_field("json:type")),
    types=(RequestType("order", (parse_field("json:user"),)), RequestType("ping", (parse_field("key"),))),
)
OURS = (HEADER_SHARD, HEADER_TYPE, HEADER_MAPPING)


@dataclass
class Record:
    """A request as it lies in the dead cluster's topic."""

    body: bytes | None
    name: bytes | None = None
    stamp: tuple[int, int] = (1, 1_700_000_000_123)
    given: list[Header] = field(default_factory=list)

    def value(self) -> bytes | None:
        return self.body

    def key(self) -> bytes | None:
        return self.name

    def headers(self) -> list[Header] | None:
        return self.given or None

    def timestamp(self) -> tuple[int, int]:
        return self.stamp

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return 40


def snapshot() -> Snapshot:
    clusters = {
        name: MappedCluster(topic=f"to.{name}", group=name, partitions=count, state=ClusterState.ACTIVE)
        for name, count in (("c1", 3), ("c2", 5))
    }
    records, meta = first_mapping(8, dict.fromkeys(clusters, 1.0), clusters, 7, RULES.rules_hash(), "7.1")
    return advance(None, {record.shard: record for record in records}, meta)


MAPPING = snapshot()


def rerouting() -> Rerouting:
    return Rerouting(MAPPING, KeyReader(RULES), "to.c3", "dead")


headers = st.lists(
    st.tuples(st.sampled_from(["trace", "x", HEADER_TYPE, HEADER_SHARD]), st.none() | st.binary(max_size=4)),
    max_size=5,
)


@given(st.text(min_size=1, max_size=8), st.none() | st.binary(max_size=4), headers, st.integers(0, 2**40))
def test_everything_of_the_user_is_kept_and_what_is_ours_is_new(
    user: str, key: bytes | None, users: list[Header], stamp: int
) -> None:
    """Value, key, timestamp and headers as the router got them, of whatever names; ours once, at the end."""
    body = json.dumps({"type": "order", "user": user}).encode()
    stale: list[Header] = [(HEADER_SHARD, b"99"), (HEADER_TYPE, b"order"), (HEADER_MAPPING, b"1.1")]
    record = Record(body, key, (1, stamp), [*users, *stale])
    ((topic, value, kept_key, partition, kept_stamp, written),), letters = rerouting().outgoing([record])
    shard, slot = locate(RULES, "order", [user])
    owner = MAPPING.owner(slot)
    assert (value, kept_key, kept_stamp, letters) == (body, key, stamp, 0)
    assert (topic, partition) == (f"to.{owner}", slot % MAPPING.clusters[owner].partitions)
    assert written == [
        *users,
        (HEADER_SHARD, b"%d" % shard),
        (HEADER_TYPE, b"order"),
        (HEADER_MAPPING, b"7.1"),
    ]
    assert slot // SLOTS == shard


def test_the_batch_keeps_its_order() -> None:
    """So requests of one slot, which lie in one partition there and here, keep theirs."""
    batch = [Record(json.dumps({"type": "order", "user": "u1", "n": n}).encode()) for n in range(50)]
    made, _ = rerouting().outgoing(batch)
    assert [value for _, value, *_ in made] == [record.body for record in batch]
    assert len({(topic, partition) for topic, _, _, partition, *_ in made}) == 1


def test_a_request_without_a_key_becomes_a_dead_letter_in_its_place() -> None:
    """Rules that were accepted since may not know it; its source is the place in the dead topic."""
    good = Record(b"x", b"u1", given=[("type", b"ping")])
    bad = Record(b'{"type": "order"}', b"k", given=[("trace", b"1"), (HEADER_SHARD, b"3")])
    made, letters = rerouting().outgoing([good, bad, good])
    assert [topic for topic, *_ in made][1] == "dead"
    assert letters == 1
    _, value, key, partition, stamp, written = made[1]
    assert (value, key, partition, stamp) == (bad.body, b"k", -1, bad.stamp[1])
    assert [name for name, _ in written] == ["trace", HEADER_ERROR, HEADER_REASON, HEADER_SOURCE]
    assert dict(written)[HEADER_ERROR] == b"key-missing"
    assert dict(written)[HEADER_SOURCE] == b"to.c3[2]@40"


def test_a_record_without_a_time_gets_that_of_now() -> None:
    """As a producer would give it one."""
    made, _ = rerouting().outgoing([Record(b"x", b"u1", (0, -1), [("type", b"ping")])])
    assert made[0][4] == 0
