"""The pure parts of the router's benchmark: requests, windows, rows, targets, percentiles, moves."""

from __future__ import annotations

import importlib.util
import json
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bench import peers
from app.bench.latency import Phase
from app.bench.movement import mean_in_handoff
from app.bench.mover import moves_of, rotation
from app.bench.percentiles import percentiles
from app.bench.report import Results, add_ratios, cautions, report, show, write
from app.bench.running import Used
from app.bench.stage import CLUSTER_PARTITIONS, MAPPING_HEADER, clusters
from app.bench.targets import LATENCY_MS, RATIOS, targets
from app.bench.throughput import Measure, Sample, measured
from app.bench.variants import VARIANTS, WARM_JIT, Variant, Window, chosen
from app.bench.workload import SENT_AT, TYPE_FIELD, TYPES, Workload, key_bytes, places_in_use, shard_and_slot
from schemas.errors import ConfigError, ForeshardError
from schemas.records import SLOTS
from streams.core.keys import KeyReader, KeyRules, RequestType, hash_key, parse_field, place, shard_table
from streams.core.mapping import Snapshot, advance
from streams.core.plans import apply_moves, first_mapping

PEERS = Path(__file__).parents[2] / "bench" / "peers"
SHARDS = 256


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """A first mapping of the bench's clusters."""
    names = clusters()
    records, meta = first_mapping(SHARDS, dict.fromkeys(names, 1.0), names, 1, "rules", "1.0")
    return advance(None, {record.shard: record for record in records}, meta)


# ---------------------------------------------------------------------------- requests


@pytest.mark.parametrize("size", [220, 1000])
def test_requests_have_the_size_and_are_the_same_each_time(size: int) -> None:
    """Two workloads make equal requests, about as long as asked, of all four types."""
    records = Workload(size).take(2000)
    again = [record for chunk in Workload(size).chunks(2000) for record in chunk]
    assert records == again
    assert all(abs(len(value) - size) < 25 for _, value in records)
    parsed = [orjson.loads(value) for _, value in records]
    assert {value[TYPE_FIELD] for value in parsed} == set(TYPES)
    assert [value["seq"] for value in parsed] == list(range(2000))


def test_the_send_time_is_where_the_reader_looks() -> None:
    """The last field of a value is the send time, 20 digits wide."""
    ((_, value),) = Workload(220).take(1, sent_ns=123_456_789)
    assert int(value[SENT_AT]) == 123_456_789
    assert orjson.loads(value)["sent"] == "00000000000123456789"


def test_the_expected_places_are_those_of_the_router() -> None:
    """The gate's own short way to a slot agrees with the router's reader."""
    types = tuple(
        RequestType(name, tuple(parse_field(f"json:{path}") for path in rule.key), rule.keyspace)
        for name, rule in TYPES.items()
    )
    reader = KeyReader(KeyRules(SHARDS, (parse_field(f"json:{TYPE_FIELD}"),), types))
    for key, value in Workload(220).take(500):
        hashed = reader.read(value, key, None)[1]
        parsed = orjson.loads(value)
        assert hash_key(key_bytes(parsed)) == hashed
        shard, slot = place(np.array([hashed], dtype=np.uint64), SHARDS)
        assert shard_and_slot(parsed, SHARDS) == (shard[0], slot[0])


def test_the_places_in_use_are_those_that_requests_come_to() -> None:
    """Every request is at one of them, and most of them get one of 100,000 requests."""
    seen = set()
    for key, value in Workload(220).take(100_000):
        seen.add((zlib.crc32(key) % 6, shard_and_slot(orjson.loads(value), SHARDS)[1]))
    assert 0.7 < len(seen) / places_in_use(SHARDS, 6) <= 1


def peers_routing() -> ModuleType:
    """The module that the peers in Python share; it is no package of ours."""
    spec = importlib.util.spec_from_file_location("peers_routing", PEERS / "routing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_peers_in_python_route_as_the_router_does(tmp_path: Path, snapshot: Snapshot) -> None:
    """Their shared module finds the same cluster, partition and headers."""
    assert sys.byteorder == "little"
    (tmp_path / "shards").write_bytes(shard_table(SHARDS).tobytes())
    (tmp_path / "owners").write_bytes(snapshot.owners.tobytes())
    given: dict[str, Any] = {
        "topics": [snapshot.clusters[name].topic for name in snapshot.names],
        "type_field": TYPE_FIELD,
        "types": {name: {"keyspace": rule.keyspace, "key": rule.key} for name, rule in TYPES.items()},
        "shard_table": str(tmp_path / "shards"),
        "owners": str(tmp_path / "owners"),
        "partitions": CLUSTER_PARTITIONS,
        "mapping": MAPPING_HEADER,
    }
    routing = peers_routing().Routing(given)
    for _, value in Workload(220).take(500):
        parsed = orjson.loads(value)
        shard, slot = shard_and_slot(parsed, SHARDS)
        owner, partition, headers = routing.place(value)
        assert (owner, partition) == (snapshot.owners[slot], slot % CLUSTER_PARTITIONS)
        assert dict(headers) == {
            "foreshard-shard": b"%d" % shard,
            "foreshard-type": parsed[TYPE_FIELD].encode(),
            "foreshard-mapping": MAPPING_HEADER.encode(),
        }


# ---------------------------------------------------------------------------- variants and windows


def test_variants_are_chosen_by_name_or_beginning_in_the_order_of_the_table() -> None:
    """`streams` is every variant of Kafka Streams, `bare-eos` is one."""
    names = [variant.name for variant in chosen("streams,bare-eos")]
    assert names == ["bare-eos", "streams-eos", "streams-alo", "streams-2-eos", "streams-2-alo"]
    assert chosen("") == list(VARIANTS)


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    """The error names what there is."""
    with pytest.raises(ConfigError, match="'flink' is none of bare-alo, foreshard-alo"):
        chosen("flink")


def test_targets_name_variants_that_exist() -> None:
    """A renamed variant would leave its target unmeasured for ever."""
    known = {variant.name for variant in VARIANTS}
    assert {name for ratio in RATIOS for name in (ratio.variant, ratio.against)} <= known


def test_a_short_topic_shortens_the_window() -> None:
    """95 % of it at most, a third of that skipped at most; a long one changes nothing."""
    assert WARM_JIT.within(4_000_000) == WARM_JIT
    assert WARM_JIT.within(300_000) == Window(95_000, 285_000)


def test_few_messages_and_a_busy_machine_are_said() -> None:
    """A cold JVM or a neighbour's load make figures that mean little."""
    java, python = chosen("streams-eos"), chosen("foreshard-eos")
    assert cautions(java, 4_000_000, 0.1) == cautions(python, 300_000, 0.1) == []
    assert "too few to warm up a JVM" in cautions(java, 300_000, 0.1)[0]
    assert "load average 3.0" in cautions(java, 4_000_000, 3.0)[0]


# ---------------------------------------------------------------------------- measures


def sample(at_s: float, committed: int, cpu_s: float, rss_mb: float = 100.0) -> Sample:
    return Sample(at_s, committed, Used(cpu_s, int(rss_mb * 1e6), 7))


def test_only_what_lies_in_the_window_counts() -> None:
    """From the first sample at or past the begin to the last: 800 requests, 2 s, 8 ms of CPU."""
    samples = [sample(0, 0, 1.0, 500), sample(1, 250, 1.5), sample(2, 600, 1.504), sample(3, 1050, 1.508)]
    found = measured(samples, Window(200, 1000))
    assert found.requests_per_s == pytest.approx(400)
    assert found.cpu_us == pytest.approx(10.0)
    assert (found.rss_mb, found.threads, found.seconds) == (500, 7, 2)


def test_a_window_passed_at_once_is_no_measure() -> None:
    """One sample cannot say how long anything took."""
    with pytest.raises(ForeshardError, match="too few to measure"):
        measured([sample(0, 0, 0), sample(1, 1000, 1)], Window(200, 1000))


def test_percentiles_are_nearest_ranks() -> None:
    """Of 1..1000: 500, 990, 999, in whatever order they come."""
    values = np.random.default_rng(1).permutation(np.arange(1.0, 1001.0))
    assert percentiles(values) == {"p50": 500.0, "p99": 990.0, "p999": 999.0}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_values_that_occurred_and_rise(values: list[float]) -> None:
    """Whatever was measured."""
    found = list(percentiles(np.array(values)).values())
    assert found == sorted(found)
    assert set(found) <= {round(value, 2) for value in values}


def test_no_values_have_no_percentiles() -> None:
    """An empty list is an error, not 0 ms."""
    with pytest.raises(ValueError, match="no request came"):
        percentiles(np.array([]))


# ---------------------------------------------------------------------------- rows and targets


def row(name: str, requests_per_s: float, cpu_us: float, **more: Any) -> dict[str, Any]:
    figures = {"requests_per_s": requests_per_s, "cpu_us_per_request": cpu_us, "ratio_to_bare": None}
    guarantee = "at-least-once" if name.endswith("alo") else "exactly-once"
    one = {"name": name, "guarantee": guarantee, "size_bytes": 220, "runs": [figures], **figures}
    return one | more


def test_a_target_is_met_at_its_limit() -> None:
    """0.55 of the throughput is enough, 1.5 times the CPU is not too much."""
    rows = [row("foreshard-eos", 55, 9.0), row("streams-eos", 100, 6.0), row("bare-eos", 100, 5.0)]
    found = {entry["measure"]: entry for entry in targets(rows)}
    throughput = found["throughput / Kafka Streams, exactly-once, 1 thread"]
    cpu = found["CPU / Kafka Streams, exactly-once, 1 thread"]
    assert (throughput["target"], throughput["measured"], throughput["met"]) == (">= 0.55", 0.55, True)
    assert (cpu["target"], cpu["measured"], cpu["met"]) == ("<= 1.5", 1.5, True)
    assert found["CPU / bare loop, exactly-once"]["met"] is False


def test_a_ratio_is_the_median_of_those_of_the_runs() -> None:
    """A machine that was half as fast in one run was so for both."""
    runs = {
        name: [{"requests_per_s": rate, "cpu_us_per_request": 1.0} for rate in rates]
        for name, rates in {"foreshard-eos": (60, 30, 66), "streams-eos": (100, 50, 100)}.items()
    }
    rows = [row(name, 1, 1.0, runs=of) for name, of in runs.items()]
    found = {entry["measure"]: entry["measured"] for entry in targets(rows)}
    assert found["throughput / Kafka Streams, exactly-once, 1 thread"] == 0.6


def test_a_target_that_was_not_measured_is_neither_met_nor_missed() -> None:
    """It stays in the list of the first size, and is left out of the second's."""
    rows = [row("foreshard-eos", 55, 9.0), row("foreshard-eos", 50, 9.0) | {"size_bytes": 1000}]
    found = targets(rows)
    assert {entry["size_bytes"] for entry in found} == {220}
    assert len(found) == len(RATIOS) + len(LATENCY_MS)
    assert all(entry["measured"] is None and entry["met"] is None for entry in found)


def test_a_jvm_that_is_not_warm_judges_nothing() -> None:
    """The ratio is shown, but a target is neither met nor missed by it."""
    rows = [row("foreshard-eos", 55, 9.0), row("streams-eos", 10, 30.0, jit_warm=False)]
    found = [entry for entry in targets(rows) if "Kafka Streams" in entry["measure"]]
    assert [(entry["measured"], entry["met"]) for entry in found] == [(5.5, None), (0.3, None)]


def test_latency_has_its_targets() -> None:
    """p50 and p99 of exactly-once at the low rate."""
    rows = [row("foreshard-eos", 1, 1, latency_ms={"p50": 14.0, "p99": 51.0, "p999": 99.0})]
    met = {entry["measure"][:11]: entry["met"] for entry in targets(rows) if "latency" in entry["measure"]}
    assert met == {"latency p50": True, "latency p99": False}


def test_a_ratio_is_to_the_bare_loop_of_the_same_guarantee() -> None:
    """Exactly-once against exactly-once; without its bare loop a row has no ratio."""
    rows = [row("bare-eos", 100, 5), row("foreshard-eos", 80, 8), row("foreshard-alo", 80, 8)]
    add_ratios(rows)
    assert [entry["ratio_to_bare"] for entry in rows] == [1.0, 0.8, None]


def test_a_report_holds_medians_latencies_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is valid JSON without a gap, and its tables name every variant and what failed."""
    variant: Variant = chosen("foreshard-eos")[0]
    results = Results()
    for rate in (100.0, 300.0, 200.0):
        results.add(variant, 220, Measure(rate, rate / 10, rss_mb=rate, threads=9, seconds=5, skipped=50))
    results.latency[variant.name] = [
        Phase(2000.0, {"p50": 1.0, "p99": 2.0, "p999": 3.0}, 40_000, kept_up=True),
        Phase(150.0, {"p50": 4.0, "p99": 5.0, "p999": 6.0}, 100, kept_up=False),
    ]
    results.missing["quix-eos"] = "no network"
    whole = report(results, chosen("foreshard-eos,quix-eos"), [220]) | {"cautions": []}
    (only,) = whole["rows"]
    assert (only["requests_per_s"], only["cpu_us_per_request"], only["rss_mb"]) == (200, 20.0, 300)
    assert only["latency_ms"]["p99"] == 2.0
    assert only["latency_at_70_percent"]["kept_up"] is False
    write(tmp_path / "deep" / "rows.json", whole)
    assert json.loads((tmp_path / "deep" / "rows.json").read_text())["rows"] == whole["rows"]
    show(whole)
    shown = capsys.readouterr().out
    assert "4.0 / 5.0 / 6.0 *" in shown
    assert "missing: quix-eos: no network" in shown


# ---------------------------------------------------------------------------- slots that move


def test_the_mover_gives_whole_shards_to_the_next_cluster(snapshot: Snapshot) -> None:
    """Its moves are a valid plan, and change the owner of exactly these shards."""
    shards = next(rotation(SHARDS, 13))
    records, meta = apply_moves(
        snapshot, list(moves_of(snapshot, shards)), epoch=2, plan="2.1", clusters=snapshot.clusters
    )
    moved = advance(snapshot, {record.shard: record for record in records}, meta)
    changed = np.flatnonzero(moved.owners != snapshot.owners) // SLOTS
    assert sorted(set(changed.tolist())) == shards
    assert len(changed) == 13 * SLOTS


def test_the_rotation_comes_to_every_shard() -> None:
    """20 plans of 13 shards go once through 256, and on."""
    plans = rotation(SHARDS, 13)
    seen = [next(plans) for _ in range(20)]
    assert {shard for plan in seen for shard in plan} == set(range(SHARDS))
    assert all(len(plan) == 13 for plan in seen)


def test_the_share_in_handoff_is_the_mean_of_the_reports_in_time() -> None:
    """Reports outside the time and those without the field do not count; none at all is None."""
    reports = [
        {"window_to": 5.0, "handoffs": {"watch": 100, "hold": 0}},
        {"window_to": 10.0, "handoffs": {"watch": 4, "hold": 2}},
        {"window_to": 15.0, "handoffs": {"watch": 0, "hold": 4}},
        {"window_to": 12.0},
        {"step": 3},
    ]
    assert mean_in_handoff(reports, 8.0, 16.0) == pytest.approx(5)
    assert mean_in_handoff(reports, 20.0, 30.0) is None


# ---------------------------------------------------------------------------- peers' environments


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work folder instead of the real one."""
    monkeypatch.setattr(peers, "WORK", tmp_path / "work")
    return tmp_path / "work"


def test_an_environment_is_made_once(work: Path) -> None:
    """The second time nothing runs: the command would fail."""
    assert peers.make(work / "one", [["mkdir", str(work / "one")]]) is None
    assert peers.make(work / "one", [["false"]]) is None


def test_an_environment_that_cannot_be_made_is_missing_with_the_reason(work: Path) -> None:
    """And it is tried again the next time, from the beginning."""
    failing = ["sh", "-c", f"mkdir {work}/one; echo the registry is away; exit 3"]
    for _ in range(2):
        missing = peers.make(work / "one", [failing, ["true"]])
        assert missing == peers.Missing("sh failed: the registry is away")
    missing = peers.make(work / "two", [["no-such-program"]])
    assert missing is not None
    assert "No such file" in missing.reason


def test_a_changed_pin_makes_another_environment() -> None:
    """The folder's name follows the content of the pins, or of all of a Java peer's sources."""
    quix, faust = (peers.fingerprint(PEERS / name / "requirements.txt") for name in ("quix", "faust"))
    assert quix != faust
    assert peers.fingerprint(PEERS / "kafka_streams") == peers.fingerprint(PEERS / "kafka_streams")
