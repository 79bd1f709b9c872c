"""Requests and history as they go on the wire: a router reads from them what the demo meant."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from app.demo.generator import generate
from app.demo.history import AGAIN, History, history_records, standing_for
from app.demo.producer import Progress, Requests, prepare, read_progress
from app.demo.request_log import read_log, replay
from app.demo.settings import DWELL_S, PassClock, PassNames, write_config
from app.demo.traffic import STEP_S, Traffic
from schemas.records import LoadHistory, load_record
from streams.core.keys import KeyReader, place


@pytest.fixture(params=["generator", "log"])
def traffic(request: pytest.FixtureRequest, tmp_path: Path) -> Traffic:
    """A short pass of either source."""
    if request.param == "generator":
        return generate(seconds=10, time_scale=1, seed=1)
    lines = [f'{t},{("GET", "GET", "PUT", "HEAD")[t % 4]},/ä?"q={t % 7}' for t in range(600)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["time,method,url", *(line.replace('"', "") for line in lines)]))
    return replay(read_log(path, None), seconds=10, time_scale=1, seed=1, window_from="60")


def test_router_places_requests_as_the_demo_does(traffic: Traffic, tmp_path: Path) -> None:
    """Through JSON, headers and record key, each request gets the shard that the demo counts on."""
    names = PassNames("x.")
    kafka = {"bootstrap.servers": "127.0.0.1:1"}
    config = write_config(tmp_path / "f.toml", traffic, names, kafka, PassClock(traffic.start, 0.0, 10.0))
    reader = KeyReader(config.rules)
    prepare(traffic, tmp_path)
    requests = Requests(tmp_path)
    expected = traffic.keys.shards(traffic.shards)
    for seq in range(0, len(traffic), max(1, len(traffic) // 300)):
        key, value, headers = requests.record(seq)
        series, hashed, name = reader.read(value, key, list(headers))
        shard, _slot = place(np.array([hashed], dtype=np.uint64), traffic.shards)
        assert shard[0] == expected[traffic.key[seq]]
        assert name == traffic.type_names[traffic.type_index[seq]]
        assert config.rules.costs()[series] == traffic.costs()[seq]
        assert orjson.loads(value)["seq"] == int(dict(headers)["seq"]) == seq
        assert len(requests.at) == len(traffic)


def test_configuration_is_the_shipped_one_but_for_dwell(traffic: Traffic, tmp_path: Path) -> None:
    """Clock and topics are the pass's own; of the balancer's settings only dwell differs."""
    clock = PassClock(traffic.start, 5.0, 10.0)
    config = write_config(tmp_path / "f.toml", traffic, PassNames("x."), {"bootstrap.servers": "h:1"}, clock)
    assert (config.clock.start, config.clock.t0, config.clock.time_scale) == (traffic.start, 5.0, 10.0)
    assert config.file.balancer.model_fields_set == {"dwell_s"}
    assert config.file.balancer.dwell_s == DWELL_S
    assert config.rules.types == traffic.rules


def test_history_records_are_stored_history(traffic: Traffic) -> None:
    """Each parses as a LoadHistory; their sum is the history, their steps end at the window."""
    last = round(traffic.start / STEP_S)
    counts = traffic.history[-20:]
    series = tuple(rule.name for rule in traffic.rules)
    records = [load_record(data) for data in history_records(counts, last - len(counts), series)]
    total = np.zeros_like(counts)
    for index, record in enumerate(records):
        assert isinstance(record, LoadHistory)
        assert record.step == last - len(counts) + index
        total[index, record.arrivals.series, record.arrivals.shard] = record.arrivals.count
    assert np.array_equal(total, counts)


def test_a_history_goes_on_with_its_newest_steps() -> None:
    """Known steps stand for themselves, later ones are the newest backwards; a short history has fewer."""
    assert [standing_for(step, 100) for step in (0, 99, 100, 101)] == [0, 99, 99, 98]
    assert {standing_for(step, 100) for step in range(100, 200)} == set(range(100 - AGAIN, 100))
    assert [standing_for(step, 3) for step in range(7)] == [0, 1, 2, 2, 1, 0, 2]


def test_a_traffic_without_a_past_has_no_history(traffic: Traffic) -> None:
    """As a request log whose window begins with it: there is nothing to go on with, and no error."""
    history = History(
        {"bootstrap.servers": "127.0.0.1:1"}, "x.", replace(traffic, history=traffic.history[:0])
    )
    history.write_until(traffic.start + 300.0)
    assert history.written == 0


def test_progress_is_empty_before_the_producer_begins(tmp_path: Path) -> None:
    """No file yet: nothing sent."""
    assert read_progress(tmp_path) == Progress()
