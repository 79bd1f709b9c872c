"""The generator's and the replay's traffic: real statistics, same seed same traffic, a load that fits."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from app.demo import backends, generator
from app.demo.generator import generate
from app.demo.request_log import RequestLog, busiest, overlap, read_log, replay
from app.demo.traffic import DEFAULT_SEED, FULL_PASS_REQUESTS, STEP_S, Campaign, Traffic, poisson_times
from schemas.errors import ConfigError
from streams.core.mapping import homes

LATE_MODEL_S = 10.0
"""1 s on the wall at the demo's time scale of 10."""


@pytest.fixture(scope="module")
def default() -> Traffic:
    """The demo's own traffic: a full pass with the default seed."""
    return generate(seconds=120, time_scale=10, seed=DEFAULT_SEED)


def late_with_fixed_homes(traffic: Traffic, utilisation: float) -> float:
    """Percent of requests that wait longer than the objective when nothing ever moves: one queue each."""
    capacity = backends.capacities(traffic.mean_cps, utilisation)
    home = np.array(homes(traffic.shards, capacity))
    cluster = home[traffic.keys.shards(traffic.shards)][traffic.key]
    late = 0
    for name, size in capacity.items():
        mine = cluster == name
        at, work = traffic.at[mine], traffic.costs()[mine] / size
        idle_begin = np.cumsum(work) - work
        begin = np.maximum.accumulate(at - idle_begin) + idle_begin
        late += int((begin - at > LATE_MODEL_S).sum())
    return 100 * late / len(traffic)


def test_a_full_pass_has_the_requests_it_promises(default: Traffic) -> None:
    """At least 210,000 requests, sorted, inside the window."""
    assert len(default) >= FULL_PASS_REQUESTS
    assert (np.diff(default.at) >= 0).all()
    assert default.at[0] >= 0
    assert default.at[-1] < default.length_s == 1200


def test_same_seed_gives_the_same_traffic() -> None:
    """Both passes and every run get the same requests."""
    one, two = (generate(seconds=10, time_scale=10, seed=3) for _ in range(2))
    assert np.array_equal(one.at, two.at)
    assert np.array_equal(one.key, two.key)
    assert np.array_equal(one.history, two.history)
    assert not np.array_equal(one.at[:100], generate(seconds=10, time_scale=10, seed=4).at[:100])


def test_popularity_has_the_measured_skew() -> None:
    """The items' curve gives the log's 6.7 % for the top key and 43 % for the top ten."""
    share = generator._popularity(generator.ITEMS, *generator.ITEM_SKEW)
    assert share[0] == pytest.approx(0.067, abs=0.002)
    assert share[:10].sum() == pytest.approx(0.43, abs=0.01)


def test_types_have_their_shares(default: Traffic) -> None:
    """Without the campaign's requests the mix of types is the configured one, give or take the noise."""
    ordinary = ~np.isin(default.key, default.campaign.keys)
    share = np.bincount(default.type_index[ordinary], minlength=4) / ordinary.sum()
    assert share == pytest.approx([kind.share for kind in generator.KINDS], abs=0.08)


def test_fixed_homes_are_late_and_moving_could_help(default: Traffic) -> None:
    """1 to 20 % late with fixed homes, also a little off the planned utilisation; capacity is there."""
    for utilisation in (0.62, backends.UTILISATION, 0.70):
        assert 3 < late_with_fixed_homes(default, utilisation) < 16
    total = sum(backends.capacities(default.mean_cps).values())
    load = np.bincount((default.at // 100).astype(int), default.costs()) / 100
    assert load.max() < 0.9 * total
    hottest = np.bincount(default.key, default.costs()).max() / default.length_s
    assert hottest < 0.7 * min(backends.capacities(default.mean_cps).values())


def test_history_ends_where_the_window_begins(default: Traffic) -> None:
    """Three days of steps, with about the load that the pass has at the same time of day."""
    assert default.history.shape == (3 * 86400 / STEP_S, 4, 256)
    assert default.start % STEP_S == 0
    day = round(86400 / STEP_S)
    yesterday = int(default.history[-day : -day + 40].sum())
    assert yesterday == pytest.approx(len(default), rel=0.25)


def test_campaign_lasts_as_long_as_announced() -> None:
    """Extra requests only within the event, at its rate, equally over its keys."""
    campaign = Campaign(0, (5, 9), start=100.0, end=700.0, requests_per_s=50.0)
    times, keys = campaign.sample(np.random.default_rng(1))
    assert times.min() >= 100
    assert times.max() <= 700
    plateau = (times > 160) & (times < 640)
    assert plateau.sum() / 480 == pytest.approx(50, rel=0.05)
    assert np.bincount(keys)[[5, 9]] / len(keys) == pytest.approx([0.5, 0.5], abs=0.02)


def test_poisson_times_follow_the_rate() -> None:
    """A rate rising from 0 to 2 gives a quarter of its requests in the first half."""
    times = poisson_times(np.array([0.0, 10_000.0]), np.array([0.0, 2.0]), np.random.default_rng(1))
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert (times < 5_000).mean() == pytest.approx(0.25, abs=0.02)


# ---------------------------------------------------------------------------- request log


def write_log(path: Path, rows: list[str], header: str = "host\ttime\tmethod\turl") -> Path:
    path.write_bytes(gzip.compress("\n".join([header, *rows]).encode()))
    return path


@pytest.fixture
def log(tmp_path: Path) -> RequestLog:
    """Two hours, a request every 10 s; ten times as many in 2400..3600; one HEAD in ten."""
    times = sorted([*range(0, 7200, 10), *(t for t in range(2400, 3600) if t % 10)])
    rows = [f"h\t{t}\t{'HEAD' if i % 10 == 0 else 'GET'}\t/page{i % 50}\t\t" for i, t in enumerate(times)]
    return read_log(write_log(tmp_path / "log.tsv.gz", [*rows, "broken", "h\tx\tGET\t/"]), None)


def test_log_is_read_with_its_types_and_keys(log: RequestLog) -> None:
    """Broken lines are left out, the commonest type comes first."""
    assert log.type_names == ("GET", "HEAD")
    assert len(log.time) == 720 + 1080
    assert {kind for kind, _ in log.key_names} == {0, 1}


def test_replay_takes_the_busiest_window_k_times(log: RequestLog) -> None:
    """The window lies over the busy 20 minutes; each request is replayed k times."""
    assert busiest(log.time, 1200) == 2400
    traffic = replay(log, seconds=120, time_scale=10, seed=1)
    assert traffic.start == 2400
    assert len(traffic) >= FULL_PASS_REQUESTS
    assert traffic.notes["k"] == pytest.approx(FULL_PASS_REQUESTS / 1200, rel=0.1)
    ordinary = traffic.key[~np.isin(traffic.key, traffic.campaign.keys)]
    assert len(np.unique(ordinary)) <= len(log.key_names)


def test_replay_begins_where_it_is_told(log: RequestLog) -> None:
    """--from takes seconds or an ISO date; a time outside the log is an error that names it."""
    assert replay(log, seconds=10, time_scale=10, seed=1, window_from="600").start == 600
    assert replay(log, seconds=10, time_scale=10, seed=1, window_from="1970-01-01T00:10").start == 600
    with pytest.raises(ConfigError, match="99999"):
        replay(log, seconds=10, time_scale=10, seed=1, window_from="99999")
    with pytest.raises(ConfigError, match="noon"):
        replay(log, seconds=10, time_scale=10, seed=1, window_from="noon")


def test_log_history_is_what_precedes_the_window(log: RequestLog) -> None:
    """Expected counts of the steps before: k requests for each recorded one."""
    traffic = replay(log, seconds=120, time_scale=10, seed=1)
    assert len(traffic.history) == 2400 / STEP_S
    k = int(traffic.notes["k"])
    assert int(traffic.history[10:70].sum()) == pytest.approx(k * 60 * 3, rel=0.03)


def test_spread_requests_are_shared_by_the_window() -> None:
    """A request at the window's edge has half of its copies inside, one 2 min outside none."""
    part = overlap(np.array([0.0, 500.0, -120.0, 940.0]), 0.0, 1000.0)
    assert part == pytest.approx([0.5, 1.0, 0.0, 0.75])


@pytest.mark.parametrize(
    ("columns", "text"), [("time,method", "three columns"), ("when,method,url", "when"), (",,", "three")]
)
def test_wrong_columns_are_named(tmp_path: Path, columns: str, text: str) -> None:
    """The error says which column is missing, and how to name it."""
    path = write_log(tmp_path / "log.tsv.gz", ["h\t1\tGET\t/"])
    with pytest.raises(ConfigError, match=text):
        read_log(path, columns)


def test_plain_csv_with_named_columns_is_read(tmp_path: Path) -> None:
    """Comma separated, not compressed, ISO dates, quoted keys."""
    path = tmp_path / "log.csv"
    path.write_text('ts,kind,page\n2020-01-01T00:00:00,a,"/x,y"\n2020-01-01T00:00:01,b,/z\n')
    log = read_log(path, "ts,kind,page")
    assert log.time[1] - log.time[0] == 1
    assert dict(log.key_names) == {0: "/x,y", 1: "/z"}
