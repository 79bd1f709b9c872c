"""What a run is made of: the same from the same seed, and within its bounds."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.chaos.failures import BROKER_AT, QUIET_S, SCALES, schedule
from app.chaos.moves import Mover
from app.chaos.plan_writer import mapped_clusters
from app.chaos.scrape import HOLD, UNPROVEN, Scraper, quantile, samples
from app.chaos.settings import CLUSTERS, Chaos, write_config
from app.chaos.traffic import (
    BAD,
    FIRST_BAD,
    FIRST_LOG,
    IDENTITY,
    KINDS,
    PRODUCERS,
    coded,
    identity,
    make_traffic,
    record,
    sequence,
)
from schemas.errors import BadRequestError
from schemas.records import Move
from streams.core.keys import KeyReader
from streams.core.mapping import Snapshot, advance
from streams.core.plans import apply_moves, first_mapping, unsettled

# ---------------------------------------------------------------------------- requests


def test_every_request_has_an_identity_of_its_own() -> None:
    traffic = make_traffic(20_000, 1)
    assert len(np.unique(coded(traffic.id, traffic.seq))) == len(traffic) == 20_000


def test_the_same_seed_asks_for_the_same() -> None:
    one, same, other = make_traffic(1_000, 1), make_traffic(1_000, 1), make_traffic(1_000, 2)
    assert [record(one, n) for n in range(1_000)] == [record(same, n) for n in range(1_000)]
    assert (one.id != other.id).any()


def test_a_sequence_counts_the_equal_ones_before() -> None:
    assert sequence(np.array([7, 3, 7, 7, 3], dtype=np.uint32)).tolist() == [0, 0, 1, 2, 1]


def test_a_user_has_one_record_key_one_producer_and_rising_numbers() -> None:
    """So a user's requests are in one ingest partition, in the order of their sequence."""
    traffic = make_traffic(5_000, 1)
    producers: dict[int, set[int]] = {}
    for producer in range(PRODUCERS):
        last: dict[int, int] = {}
        for index in traffic.of_producer(producer).tolist():
            number, seq = int(traffic.id[index]), int(traffic.seq[index])
            assert seq > last.get(number, -1)
            last[number] = seq
            producers.setdefault(int(traffic.user[index]), set()).add(producer)
    assert all(len(found) == 1 for found in producers.values())
    keys = {(int(traffic.user[n]), record(traffic, n)[0]) for n in range(5_000) if traffic.kind[n] != BAD}
    assert len(keys) == len({user for user, _ in keys}) == len({key for _, key in keys})


def test_some_users_are_very_busy_and_every_kind_is_asked_for() -> None:
    traffic = make_traffic(50_000, 1)
    assert set(traffic.kind.tolist()) == set(range(len(KINDS)))
    busiest = max(Counter(traffic.user[: 50_000 // 6].tolist()).values())
    assert busiest > 50_000 / 6 * 0.1


def test_ids_say_what_is_promised() -> None:
    traffic = make_traffic(20_000, 1)
    kinds = np.array(KINDS)[traffic.kind]
    assert set(kinds[traffic.id < FIRST_LOG]) == {"update", "read", "visit"}
    assert set(kinds[(traffic.id >= FIRST_LOG) & (traffic.id < FIRST_BAD)]) == {"log"}
    assert set(kinds[traffic.id >= FIRST_BAD]) == {"bad"}


def test_an_identity_is_read_back_from_the_headers() -> None:
    traffic = make_traffic(100, 1)
    for index in range(100):
        _, _, headers = record(traffic, index)
        assert identity(headers) == (int(traffic.id[index]), int(traffic.seq[index]))


def test_a_record_of_somebody_else_is_no_request_of_the_run() -> None:
    with pytest.raises(ValueError, match=IDENTITY):
        identity([("type", b"update")])


def test_the_rules_route_good_requests_of_a_user_together_and_refuse_bad_ones(tmp_path: Path) -> None:
    """All types of a user have one hash, so one slot: order is promised across types."""
    rules = write_config(tmp_path / "f.toml", "127.0.0.1:1", Chaos(1_000, 1), 0.0).rules
    reader, traffic = KeyReader(rules), make_traffic(20_000, 1)
    hashes: dict[int, set[int]] = {}
    refused = set()
    for index in range(20_000):
        key, value, headers = record(traffic, index)
        try:
            _, hashed, name = reader.read(value, key, headers)
        except BadRequestError as error:
            assert traffic.kind[index] == BAD
            refused.add(error.code)
        else:
            assert name == KINDS[traffic.kind[index]]
            hashes.setdefault(int(traffic.user[index]), set()).add(hashed)
    assert all(len(found) == 1 for found in hashes.values())
    assert refused == {"not-json", "key-missing", "type-unknown", "key-not-scalar"}


# ---------------------------------------------------------------------------- moves


def first_snapshot(shards: int = 16) -> Snapshot:
    records, meta = first_mapping(shards, dict.fromkeys(CLUSTERS, 1.0), mapped_clusters(), 1, "rules", "1.0")
    return advance(None, {record.shard: record for record in records}, meta)


def follow(mover: Mover, rounds: int, settled_behind: int | None) -> list[tuple[Snapshot, list[Move], int]]:
    """Applies a mover's choices; settled is so many versions behind, or never rises."""
    snapshot, found = first_snapshot(), []
    for _ in range(rounds):
        settled = 0 if settled_behind is None else max(0, snapshot.version - settled_behind)
        moves = mover.choose(snapshot, settled)
        found.append((snapshot, moves, settled))
        if moves:
            records, meta = apply_moves(
                snapshot, moves, epoch=1, plan="1.1", clusters=mapped_clusters(), settled=settled
            )
            snapshot = advance(snapshot, {record.shard: record for record in records}, meta)
    return found


def test_chosen_moves_always_fit_the_mapping() -> None:
    """`apply_moves` takes 300 rounds of them; some rounds move nothing, some a quarter of all shards."""
    sizes = [
        len({move.shard for move in moves})
        for _, moves, _ in follow(Mover(1, list(CLUSTERS), keep_rule=False), 300, 1)
    ]
    assert min(sizes) == 0
    assert max(sizes) >= 4


def test_a_mover_that_keeps_the_rule_leaves_unsettled_shards_alone() -> None:
    for snapshot, moves, settled in follow(Mover(1, list(CLUSTERS), keep_rule=True), 200, 5):
        for move in moves:
            assert not unsettled(snapshot.records[move.shard], settled)


def test_a_mover_that_keeps_the_rule_stops_when_nothing_settles() -> None:
    assert not follow(Mover(1, list(CLUSTERS), keep_rule=True), 200, None)[-1][1]


def test_a_mover_that_breaks_the_rule_moves_slots_there_and_back_and_on() -> None:
    """Whole there-and-backs and a third cluster, while nothing is ever settled."""
    last: dict[int, Move] = {}
    back = on = 0
    for _, moves, _ in follow(Mover(1, list(CLUSTERS), keep_rule=False), 200, None):
        for move in moves:
            before = last.get(move.shard)
            if before is not None and move.source == before.target:
                back += move.target == before.source
                on += move.target != before.source
            last[move.shard] = move
    assert back > 20
    assert on > 20


# ---------------------------------------------------------------------------- failures


def test_the_same_seed_fails_in_the_same_way() -> None:
    assert schedule(1, 300.0) == schedule(1, 300.0) != schedule(2, 300.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_long_run_has_failures_enough_of_every_kind(seed: int) -> None:
    """Over 300 s: the official run wants 20 kills."""
    failures = schedule(seed, 300.0)
    kinds = Counter((failure.what, failure.role) for failure in failures)
    assert sum(kinds[what, role] for what, role in kinds if what != "routers") >= 40
    assert kinds["kill", "broker"] == 1
    assert kinds["routers", "router"] == len(SCALES)
    assert kinds["kill", "router"] >= 5
    assert kinds["kill", "backend"] >= 3
    assert kinds["freeze", "router"] >= 2
    assert any(failure.for_s > 8 for failure in failures if failure.what == "freeze")


def test_failures_come_in_order_after_a_quiet_beginning() -> None:
    failures = schedule(7, 60.0)
    times = [failure.at_s for failure in failures]
    assert times == sorted(times)
    assert times[0] >= QUIET_S
    assert times[-1] < 60.0
    (broker,) = [failure.at_s for failure in failures if failure.role == "broker"]
    assert BROKER_AT[0] * 60 <= broker <= BROKER_AT[1] * 60


# ---------------------------------------------------------------------------- metrics

PAGE = """\
# TYPE foreshard_router_hold_seconds histogram
foreshard_router_hold_seconds_bucket{le="0.1"} 0.0
foreshard_router_hold_seconds_bucket{le="0.25"} 10.0
foreshard_router_hold_seconds_bucket{le="+Inf"} 10.0
foreshard_router_hold_seconds_count 10.0
foreshard_router_hold_seconds_sum 1.7
# TYPE foreshard_router_order_unproven_requests_total counter
foreshard_router_order_unproven_requests_total 3.0
"""


def test_hold_times_and_counters_are_added_up_over_all_processes_that_ever_ran() -> None:
    scraper = Scraper()
    scraper.last = {Path("router-0.1.log"): samples(PAGE), Path("router-0.2.log"): samples(PAGE)}
    assert scraper.buckets(HOLD) == {0.1: 0.0, 0.25: 20.0, math.inf: 20.0}
    assert scraper.total(UNPROVEN) == 6.0
    assert scraper.total("no_such_counter") is None


@pytest.mark.parametrize(
    ("buckets", "part", "expected"),
    [
        ({}, 0.5, None),
        ({0.1: 0.0, math.inf: 0.0}, 0.5, None),
        ({0.1: 0.0, 0.25: 10.0, math.inf: 10.0}, 0.5, 0.175),
        ({0.1: 10.0, 0.25: 10.0, math.inf: 10.0}, 1.0, 0.1),
        ({0.1: 5.0, 1.0: 10.0, math.inf: 10.0}, 0.99, 0.982),
        ({0.1: 5.0, 1.0: 5.0, math.inf: 10.0}, 0.99, 1.0),
    ],
    ids=[
        "no histogram",
        "no observation",
        "within a bucket",
        "first bucket",
        "last bucket",
        "over all bounds",
    ],
)
def test_a_quantile_is_interpolated(buckets: dict[float, float], part: float, expected: float | None) -> None:
    assert quantile(buckets, part) == (expected if expected is None else pytest.approx(expected))
