"""The benchmark's gate finds every way in which a variant can do less than the router's work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.bench.gate import Delivered, differences, expected
from app.bench.stage import clusters
from app.bench.variants import Variant, chosen
from app.bench.workload import Workload
from streams.core.mapping import Snapshot, advance
from streams.core.plans import first_mapping

SHARDS = 256
ROUTER, BARE = chosen("foreshard-eos")[0], chosen("bare-eos")[0]
REPEATING = chosen("foreshard-alo")[0]

Sources = dict[int, Delivered]


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """A first mapping of the bench's clusters."""
    names = clusters()
    records, meta = first_mapping(SHARDS, dict.fromkeys(names, 1.0), names, 1, "rules", "1.0")
    return advance(None, {record.shard: record for record in records}, meta)


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Three hundred requests as the ingest topic has them."""
    records = Workload(220).take(300)
    return {
        number: Delivered("ingest", 0, key, value, 1_700_000_000_000 + number, {})
        for number, (key, value) in enumerate(records)
    }


@pytest.fixture
def written(sources: Sources, snapshot: Snapshot) -> list[Delivered]:
    """What a perfect variant writes."""
    routed = []
    for source in sources.values():
        wanted = expected(source.value, snapshot)
        routed.append(replace(source, topic=wanted.topic, partition=wanted.partition, headers=wanted.headers))
    return routed


def test_perfect_work_has_no_differences(
    sources: Sources, written: list[Delivered], snapshot: Snapshot
) -> None:
    """Everything in its place passes, for a router and for the bare loop."""
    assert differences(ROUTER, sources, written, snapshot) == []
    assert differences(BARE, sources, written, snapshot) == []


FAULTS = [
    ({"partition": 99}, "[99], not in"),
    ({"topic": "elsewhere"}, "is in elsewhere"),
    ({"headers": {}}, "has the headers"),
    ({"timestamp_ms": 1}, "has the timestamp_ms 1, not"),
    ({"key": None}, "has the key None"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_a_changed_record_is_found(
    sources: Sources, written: list[Delivered], snapshot: Snapshot, change: dict[str, object], said: str
) -> None:
    """One record of three hundred, whatever of it is wrong."""
    written[7] = replace(written[7], **change)  # type: ignore[arg-type]
    found = differences(ROUTER, sources, written, snapshot)
    assert any(said in text and text.startswith("request 7 ") for text in found)


def test_a_changed_value_is_found(sources: Sources, written: list[Delivered], snapshot: Snapshot) -> None:
    """A value must pass through byte for byte."""
    written[7] = replace(written[7], value=written[7].value.replace(b'"region"', b'"REGION"'))
    (found,) = differences(ROUTER, sources, written, snapshot)
    assert found.startswith("request 7 has the value")


def test_a_missing_request_is_found(sources: Sources, written: list[Delivered], snapshot: Snapshot) -> None:
    """Whatever the guarantee."""
    del written[7]
    for variant in (ROUTER, REPEATING, BARE):
        assert differences(variant, sources, written, snapshot) == ["request 7 is missing"]


def test_a_request_twice_is_a_fault_of_exactly_once_only(
    sources: Sources, written: list[Delivered], snapshot: Snapshot
) -> None:
    """At-least-once may repeat."""
    written.append(written[7])
    assert differences(ROUTER, sources, written, snapshot) == ["request 7 is there 2 times"]
    assert differences(REPEATING, sources, written, snapshot) == []


def test_a_user_out_of_order_is_found(sources: Sources, written: list[Delivered], snapshot: Snapshot) -> None:
    """Two requests of one user that share a partition change places."""
    by_lane: dict[tuple[str, int, bytes | None], int] = {}
    for number, record in enumerate(written):
        lane = (record.topic, record.partition, record.key)
        if lane in by_lane:
            first = by_lane[lane]
            break
        by_lane[lane] = number
    written[first], written[number] = written[number], written[first]
    (found,) = differences(ROUTER, sources, written, snapshot)
    assert f"request {first} comes after {number}" in found


@pytest.mark.parametrize("variant", [BARE])
def test_the_bare_loop_needs_no_place_but_its_three_headers(
    sources: Sources, written: list[Delivered], snapshot: Snapshot, variant: Variant
) -> None:
    """It hashes the record key only; what it writes has the same bytes around it."""
    moved = [replace(record, topic="any", partition=3) for record in written]
    assert differences(variant, sources, moved, snapshot) == []
    moved[7] = replace(moved[7], headers={"foreshard-shard": b"1"})
    (found,) = differences(variant, sources, moved, snapshot)
    assert found.startswith("request 7 has the headers")
