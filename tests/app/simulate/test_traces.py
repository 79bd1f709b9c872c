"""Recorded traffic as a workload: what the files say is what the simulator gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.simulate.traces import LEAST_RPS, Wanted, read_trace
from schemas.errors import ConfigError
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.simulation.draft import minutes

WANTED = Wanted(rules=None, shards=64, capacities=4, peak=0.9, hours=1.0, seed=1)
HOURS = 4


def counts(path: Path, header: str = "time,series,requests") -> Path:
    """Writes four hours of two series by the minute: 600 and 1,200 requests a minute."""
    lines = [header]
    for minute in range(60 * HOURS):
        lines += [f"{1_000_000 + 60 * minute},orders,600", f"{1_000_000 + 60 * minute},search,1200"]
    path.write_text("\n".join(lines))
    return path


def log(path: Path) -> Path:
    """Writes four hours of requests, one in 2 s; every fourth is of one key."""
    lines = ["time,type,key"]
    for number in range(1_800 * HOURS):
        key = "hot" if number % 4 == 0 else f"k{number % 997}"
        lines.append(f"{1_000_000 + 2 * number},order,{key}")
    path.write_text("\n".join(lines))
    return path


def test_counts_become_rates_of_their_series(tmp_path: Path) -> None:
    """600 a minute are 10/s, spread over shards; the last hour is simulated, the rest learned."""
    work = read_trace(counts(tmp_path / "c.csv"), None, WANTED)
    assert work.rules.series == ("orders", "search", "*")
    for series, rate in ((0, 10.0), (1, 20.0)):
        own = work.rate[:, work.cells.series == series].sum(axis=1)
        assert own.mean() == pytest.approx(rate, rel=0.1)
    assert work.hours == pytest.approx(1.0)
    assert work.warm_bins == pytest.approx(3 * 360, abs=6)


def test_the_capacity_is_what_the_busiest_minute_leaves(tmp_path: Path) -> None:
    """With a number of clusters, the peak takes 90 %; named capacities are taken as they are."""
    path = counts(tmp_path / "c.csv")
    work = read_trace(path, None, WANTED)
    assert minutes(work.utilisation()).max() == pytest.approx(0.9)
    named = read_trace(path, None, replace(WANTED, capacities={"b": 30.0, "a": 20.0}))
    assert named.clusters == ("a", "b")
    assert named.capacity_cps.tolist() == [20.0, 30.0]


def test_columns_name_what_is_what(tmp_path: Path) -> None:
    """Other names need --columns; without a series column all is one series."""
    path = counts(tmp_path / "c.csv", header="at,what,requests")
    assert read_trace(path, "at,what,requests", WANTED).rules.series[:2] == ("orders", "search")
    with pytest.raises(ConfigError, match="no column"):
        read_trace(path, "time,what,requests", WANTED)


def test_a_log_keeps_its_keys_in_their_shards(tmp_path: Path) -> None:
    """The place of a key is that of the key rules; a hot one is followed on its slot."""
    work = read_trace(log(tmp_path / "l.csv"), None, WANTED)
    shard, slot = locate(work.rules, "order", ["hot"])
    hot = work.cells.on_slots()
    place = [number for number in hot if work.cells.shard[number] == shard]
    assert [int(work.cells.slot[number]) for number in place] == [slot % 256]
    part = work.rate[:, place].sum() / work.rate.sum()
    assert part == pytest.approx(0.25, abs=0.01)
    assert work.rate.sum(axis=1).mean() == pytest.approx(LEAST_RPS, rel=0.05), "many times what was recorded"


def test_the_rules_of_a_configuration_decide(tmp_path: Path) -> None:
    """Its shards, types and costs; a log with none of its types is refused."""
    key = (parse_field("key"),)
    rules = KeyRules(16, (parse_field("header:type"),), (RequestType("order", key, cost=3.0),))
    work = read_trace(log(tmp_path / "l.csv"), None, replace(WANTED, rules=rules, shards=16))
    assert work.rules is rules
    assert work.cell_costs().tolist() == [3.0] * len(work.cells)
    other = KeyRules(16, (parse_field("header:type"),), (RequestType("import", key),))
    with pytest.raises(ConfigError, match="no request of it fits"):
        read_trace(log(tmp_path / "l.csv"), None, replace(WANTED, rules=other, shards=16))


def test_too_little_is_refused(tmp_path: Path) -> None:
    """Less than an hour, or nothing at all, is no trace."""
    path = tmp_path / "short.csv"
    path.write_text("time,series,requests\n" + "\n".join(f"{60 * n},a,5" for n in range(10)))
    with pytest.raises(ConfigError, match="at least 1 h"):
        read_trace(path, None, WANTED)
    path.write_text("time,series,requests\n")
    with pytest.raises(ConfigError, match="no row"):
        read_trace(path, None, WANTED)


def test_rates_are_finite(tmp_path: Path) -> None:
    """Also at the ends of the file."""
    for path in (counts(tmp_path / "c.csv"), log(tmp_path / "l.csv")):
        assert np.isfinite(read_trace(path, None, WANTED).rate).all()
