"""Records: what is refused, and how plainly."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import generate
from schemas.errors import InvalidRecordError
from schemas.records import (
    MAX_SHARDS,
    SLOTS,
    Answer,
    Cluster,
    ClusterAdd,
    ClusterMetrics,
    ClusterState,
    Decision,
    Event,
    MappingMeta,
    MappingRecord,
    check_tiles,
    command_record,
    decision_record,
    load_record,
    mapping_record,
    state_record,
)
from tests.schemas.samples import SAMPLES

Read = Callable[[bytes | None], Any]
READERS: dict[str, Read] = {
    "load": load_record,
    "metrics": ClusterMetrics.from_json,
    "events": Event.from_json,
    "commands": command_record,
    "clusters": Cluster.from_json,
    "mapping": mapping_record,
    "decisions": decision_record,
    "state": state_record,
}


def refusal(topic: str, data: bytes | str | None) -> str:
    """Returns the text of the error with which the value is refused."""
    raw = data.encode() if isinstance(data, str) else data
    with pytest.raises(InvalidRecordError) as caught:
        READERS[topic](raw)
    return str(caught.value)


def changed(topic: str, number: int = 0, **changes: Any) -> str:
    return json.dumps(SAMPLES[topic][number] | changes)


@pytest.mark.parametrize("topic", READERS)
def test_samples_are_read_and_written_alike(topic: str) -> None:
    """What is written is read back as the same record, with its schema number."""
    for sample in SAMPLES[topic]:
        record = READERS[topic](json.dumps(sample).encode())
        assert READERS[topic](record.to_json()) == record
        assert json.loads(record.to_json())["schema"] == 1


@pytest.mark.parametrize("topic", READERS)
@pytest.mark.parametrize("data", [None, b"", b"{", b"nonsense", b"[]", b"7", b'"x"', b"null", b"\xff", b"{}"])
def test_what_is_no_record_is_refused(topic: str, data: bytes | None) -> None:
    """Empty, not JSON, not UTF-8, not an object, an empty object: refused on every topic."""
    text = refusal(topic, data)
    if not data:
        assert "empty" in text


@pytest.mark.parametrize("topic", READERS)
def test_deep_nesting_is_refused(topic: str) -> None:
    """A value nested 100,000 deep is refused like any other bad one."""
    refusal(topic, b"[" * 100_000)


@pytest.mark.parametrize("topic", READERS)
def test_unknown_field_is_refused_by_name(topic: str) -> None:
    """A field that the record does not have is named, with its value."""
    text = refusal(topic, changed(topic, surprise="boo"))
    assert "surprise" in text
    assert "'boo'" in text


@pytest.mark.parametrize("topic", READERS)
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_schema_version_is_refused(topic: str, version: Any) -> None:
    """Only schema 1 is read; the error says schema and what was given."""
    text = refusal(topic, changed(topic, schema=version))
    assert "schema" in text
    assert f"given: {version!r}" in text


@pytest.mark.parametrize(
    ("topic", "changes", "says"),
    [
        ("metrics", {"capacity_cps": -5.0}, ["capacity_cps", "-5.0"]),
        ("metrics", {"capacity_cps": 0}, ["capacity_cps", "0"]),
        ("metrics", {"memory": 1.5}, ["memory", "1.5"]),
        ("metrics", {"cpu": -0.1}, ["cpu", "-0.1"]),
        ("metrics", {"queue_depth": -1}, ["queue_depth", "-1"]),
        ("metrics", {"queue_depth": 1.5}, ["queue_depth", "1.5"]),
        ("metrics", {"interval_s": 0}, ["interval_s", "0"]),
        ("metrics", {"at": "now"}, ["at", "'now'"]),
        ("metrics", {"cluster": "no such/name"}, ["cluster", "no such/name"]),
        ("events", {"end": 99.0}, ["e1", "99.0", "100.0"]),
        ("events", {"end": 100.0}, ["e1", "100.0"]),
        ("events", {"cluster": "c1"}, ["e1", "types", "cluster"]),
        ("events", {"types": []}, ["e1", "exactly one of types, keys, cluster"]),
        ("events", {"requests_per_s": 5.0}, ["e1", "uplift", "requests_per_s"]),
        ("events", {"uplift": None}, ["e1", "exactly one of"]),
        ("events", {"uplift": None, "capacity_factor": 0.5}, ["e1", "types", "capacity_factor"]),
        ("events", {"uplift": -1}, ["uplift", "-1"]),
        ("commands", {"capacity_cps": -1.0}, ["capacity_cps", "-1.0"]),
        ("commands", {"kind": "explode"}, ["explode"]),
        ("clusters", {"partitions": 0}, ["partitions", "0"]),
        ("clusters", {"state": "removed"}, ["state", "removed"]),
        ("mapping", {"segments": [[0, 64, "c5"], [65, 256, "c3"]]}, ["shard 17", "[65, 256) of c3", "64"]),
        ("mapping", {"segments": [[0, 64, "c5"], [63, 256, "c3"]]}, ["shard 17", "[63, 256) of c3", "64"]),
        ("mapping", {"segments": [[0, 64, "c5"], [64, 64, "c3"], [64, 256, "c3"]]}, ["[64, 64)"]),
        ("mapping", {"segments": [[1, 256, "c5"]]}, ["shard 17", "[1, 256)"]),
        ("mapping", {"segments": [[0, 255, "c5"]]}, ["shard 17", "255", "256"]),
        ("mapping", {"segments": [[0, 257, "c5"]]}, ["shard 17", "257"]),
        ("mapping", {"segments": []}, ["shard 17", "0"]),
        ("mapping", {"segments": [[0, "256", "c5"]]}, ["segments", "'256'"]),
        ("mapping", {"previous": [{"version": 1, "segments": [[0, 5, "c1"]]}]}, ["shard 17", "5"]),
        ("mapping", {"shard": MAX_SHARDS}, ["shard", "4096"]),
        ("mapping", {"version": -1}, ["version", "-1"]),
        ("load", {"window_to": 10.0}, ["10.0"]),
        ("load", {"series": []}, ["series index 0"]),
        ("decisions", {"skip": "because"}, ["skip", "because"]),
        ("state", {"mode": "manual"}, ["mode", "manual"]),
    ],
)
def test_wrong_value_is_refused_with_field_and_value(topic: str, changes: Any, says: list[str]) -> None:
    """The error names what is wrong and the value that was given."""
    text = refusal(topic, changed(topic, **changes))
    assert all(part in text for part in says), text


@pytest.mark.parametrize("field", ["cpu", "memory", "throughput_rps", "latency_s", "capacity_cps", "at"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"NaN"'])
def test_nan_and_infinity_are_refused(field: str, value: str) -> None:
    """No metric may be NaN or infinite, as a number or as text."""
    data = changed("metrics", **{field: "@"}).replace('"@"', value)
    assert field in refusal("metrics", data)


def test_values_made_in_the_program_are_checked_too() -> None:
    """A record built with a bad value dies at construction, not at its reader."""
    with pytest.raises(ValueError, match="finite number"):
        ClusterMetrics(cluster="c1", instance="i", at=float("nan"), interval_s=10.0)
    with pytest.raises(ValueError, match="do not tile"):
        MappingRecord(
            shard=1, version=1, epoch=1, home="c", segments=[(1, 2, "c")], plan="1.1", reason="event"
        )


def test_all_mistakes_are_named_at_once() -> None:
    """A record with three wrong fields is refused once, with all three."""
    text = refusal("metrics", changed("metrics", interval_s=-1, memory=7, cluster=""))
    assert all(field in text for field in ("interval_s", "memory", "cluster"))


def test_long_values_are_cut_in_the_message() -> None:
    """A huge wrong value does not fill the log."""
    assert len(refusal("metrics", changed("metrics", cluster="x" * 10_000))) < 300


def test_columns_of_counts_must_match() -> None:
    """Counts with columns of different length are refused with the lengths."""
    sample = json.loads(changed("load"))
    sample["partitions"][0]["forwarded"]["count"] = []
    assert "count 0" in refusal("load", json.dumps(sample))


def test_offsets_must_not_go_back() -> None:
    """A range that ends before it starts is refused."""
    sample = json.loads(changed("load"))
    sample["partitions"][0]["to_offset"] = 9
    assert "9 is before from_offset 10" in refusal("load", json.dumps(sample))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_order(data: bytes) -> None:
    """Random bytes raise InvalidRecordError and nothing else."""
    for read in READERS.values():
        with pytest.raises(InvalidRecordError):
            read(data)


@given(st.lists(st.integers(1, SLOTS - 1), max_size=6, unique=True), st.data())
def test_tiles_are_accepted_and_any_hole_is_not(borders: list[int], data: Any) -> None:
    """Any partition of 0..256 tiles; shifting any border of one side alone does not."""
    edges = [0, *sorted(borders), SLOTS]
    segments = [(start, stop, "c") for start, stop in itertools.pairwise(edges)]
    check_tiles(segments, 0)
    at = data.draw(st.integers(0, len(segments) - 1))
    start, stop, name = segments[at]
    for wrong in ((start + 1, stop, name), (start, stop + 1, name), (start - 1, stop, name)):
        with pytest.raises(ValueError, match="segments of shard 0"):
            check_tiles([*segments[:at], wrong, *segments[at + 1 :]], 0)


def test_readers_return_the_kind_that_is_in_the_record() -> None:
    """One topic, several records: each is read as what it says it is."""
    assert isinstance(mapping_record(changed("mapping", 1).encode()), MappingMeta)
    assert isinstance(decision_record(changed("decisions", 2).encode()), Answer)
    decision = decision_record(changed("decisions").encode())
    assert isinstance(decision, Decision)
    assert decision.id == "7.311"
    command = command_record(changed("commands").encode())
    assert isinstance(command, ClusterAdd)
    cluster = Cluster.from_json(changed("clusters"))
    assert cluster.state is ClusterState.DRAINING


def test_every_topic_with_records_is_tested_here() -> None:
    """A new topic needs samples and a reader in this file."""
    assert {topic.name for topic in generate.RECORDS} == set(READERS) == set(SAMPLES)
