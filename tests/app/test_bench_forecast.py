"""The forecast bench: what is scored against what, which steps count, and that nothing is seen in advance."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bench.forecast import campaigns, peers
from app.bench.forecast.baselines import ewma, seasonal_naive
from app.bench.forecast.campaigns import CANCELLED, run_campaigns, world
from app.bench.forecast.chart import draw
from app.bench.forecast.groups import WEEK_S, Group, grouped, usable
from app.bench.forecast.ours import HORIZON, Run, run_ours
from app.bench.forecast.peers import Sample, run_peers
from app.bench.forecast.report import Results, report
from app.bench.forecast.scores import errors, geometric, model_of, ours, relative
from app.bench.forecast.targets import Measured, targets
from app.bench.peers import Environment, Missing
from app.bench.series_files import Series
from app.cli import main
from streams.core.forecast import Evaluation
from streams.core.forecast.profile import Floats

PEERS = Path(__file__).parents[2] / "bench" / "peers"
MONDAY = 1_700_438_400.0
DAY_S = 86_400


def daily(step_s: float, days: float, seed: int = 1, mean: float = 600.0) -> Floats:
    """A daily shape with noise, requests per step."""
    steps = np.arange(round(days * DAY_S / step_s))
    shape = 1.2 + np.sin(2 * np.pi * steps * step_s / DAY_S)
    return np.random.default_rng(seed).poisson(mean * shape).astype(np.float64)


def series(name: str = "a/one", days: float = 4.0, step_s: float = 600.0, start_s: float = MONDAY) -> Series:
    return Series(name, start_s, step_s, daily(step_s, days))


@pytest.fixture(scope="module")
def run() -> Run:
    """Ours on two series of ten-minute steps, one with gaps."""
    one, other = series(), series("a/two", 3.5, start_s=MONDAY + 3 * WEEK_S + 7200.0)
    other.values[100:105] = np.nan
    other.values[400] = np.nan
    (group,) = grouped([one, other])
    return run_ours(group)


# ---------------------------------------------------------------------------- groups


def test_series_of_a_group_keep_their_time_of_day_and_weekday() -> None:
    """Years apart, they are shifted by whole weeks, onto the week of the earliest."""
    later = MONDAY + 52 * WEEK_S + 2 * DAY_S + 3600.0
    (group,) = grouped([series(start_s=later), series("a/two", start_s=MONDAY)])
    assert group.names == ("a/one", "a/two")
    assert group.first == round(MONDAY / 600.0)
    begins = [int(np.flatnonzero(np.isfinite(column))[0]) for column in group.values.T]
    assert begins == [round((2 * DAY_S + 3600) / 600), 0]


def test_the_first_three_days_or_35_percent_are_not_scored() -> None:
    """Whichever is less, counted from where the series begins."""
    (group,) = grouped([series(days=20.0), series("a/two", 4.0, start_s=MONDAY + DAY_S)])
    assert group.skip.tolist() == [3 * 144, 144 + round(0.35 * 4 * 144)]


def test_folders_and_steps_make_groups() -> None:
    """What differs in either is forecast on its own."""
    given_ = [series("a/one"), series("b/one"), series("a/two", step_s=300.0), series("a/three")]
    assert [group.names for group in grouped(given_)] == [("a/one", "a/three"), ("b/one",), ("a/two",)]


def test_what_cannot_be_a_load_is_left_out() -> None:
    """Negative values, and steps above an hour."""
    slow, cold = series("slow", 300.0, 7200.0), series("cold")
    cold.values[5] = -3.0
    good, skipped = usable([slow, cold, series("good")])
    assert [one.name for one in good] == ["good"]
    assert [one.why for one in skipped] == [
        "steps of 7200 s, 3600 are the most",
        "a value of -3: a load is not negative",
    ]


# ---------------------------------------------------------------------------- scores


def test_errors_by_hand() -> None:
    """Two forecasts of a ramp: each is checked by the value so many steps after its origin."""
    values = np.arange(30.0)
    paths = np.stack([np.full(HORIZON, 7.0), np.full(HORIZON, np.nan)])
    mae, naive = errors(values, np.array([5, 6]), paths)
    assert mae[1:].tolist() == [1, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert naive[1:].tolist() == list(range(1, 11))
    found = relative(mae, naive)
    assert found is not None
    assert (found["h1"], found["h5"], found["h10"]) == (1.0, 0.6, 0.8)
    assert found["mean"] == pytest.approx(np.mean(mae[1:] / naive[1:]))


def test_a_constant_series_is_not_judged() -> None:
    """The last value makes no error; nothing can be divided by it."""
    assert relative(np.ones(HORIZON + 1), np.zeros(HORIZON + 1)) is None


def test_the_evaluator_and_the_kept_forecasts_say_the_same(run: Run) -> None:
    """The prequential evaluator against forecasts that are looked up afterwards: no step is off by one."""
    for column in range(2):
        rows = run.origins(column)
        mae, naive = errors(run.group.values[:, column], rows, run.made[rows, column, 1:])
        np.testing.assert_allclose(mae, run.evaluation.mae[column])
        np.testing.assert_allclose(naive, run.evaluation.naive_mae[column])


def test_nothing_that_comes_later_is_in_a_forecast(run: Run) -> None:
    """Other values from some step on: every forecast before it is the same."""
    changed = run.group.values.copy()
    changed[450:] = 5.0
    again = run_ours(Group(run.group.names, 600.0, run.group.first, changed, run.group.skip))
    np.testing.assert_array_equal(again.made[:450], run.made[:450])
    assert not np.array_equal(again.made[450:], run.made[450:])


def test_ours_beats_the_last_value_and_means_are_geometric(run: Run) -> None:
    """A daily shape with counting noise; the mean of two ratios is the root of their product."""
    found = ours([run])
    one, other = found[0, 0], found[0, 1]
    assert one is not None
    assert other is not None
    assert one["mean"] < 1.0
    means = geometric(found, [run])
    assert means["h5"] == pytest.approx((one["h5"] * other["h5"]) ** 0.5, abs=1e-4)
    assert geometric(found, [run], minute=True) == {}


# ---------------------------------------------------------------------------- baselines and peers


def test_the_value_of_a_day_ago(run: Run) -> None:
    """At the same time of day; the last value on the first day, and where that one is unknown."""
    values = run.group.values
    made = seasonal_naive(run.group)
    assert made[300, 0, 3] == values[304 - 144, 0]
    assert made[20, 0, 3] == values[20, 0]
    unknown = int(np.flatnonzero(np.isnan(values[50:, 1]))[0]) + 50
    before = unknown + 144 - 5
    assert made[before, 1, 4] == values[before, 1]
    assert made[before, 1, 3] == values[unknown - 1, 1]


def test_the_exponential_mean_passes_over_what_is_unknown() -> None:
    """0.3 of each value, from the first one on."""
    values = np.array([[10.0], [20.0], [np.nan], [10.0]])
    made = ewma(Group(("a",), 600.0, 0, values, np.array([0])))
    np.testing.assert_allclose(made[:, 0, 9], [10.0, 13.0, 13.0, 12.1])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 40))
def test_origins_are_spread_evenly(size: int, count: int) -> None:
    """As many as asked, ends included, none twice, gaps equal but for rounding."""
    rows = np.arange(100, 100 + size)
    found = peers._evenly(rows, count)
    assert len(found) == min(size, count)
    assert set(found) <= set(rows.tolist())
    if len(found) > 1:
        assert (found[0], found[-1]) == (rows[0], rows[-1])
        assert np.ptp(np.diff(found)) <= 1


def test_days_are_chosen_whole(run: Run) -> None:
    """All scored steps of some days."""
    chosen = peers._chosen([run], 1, by_day=True)
    for column in range(2):
        rows = run.origins(column)
        day = (run.group.first + chosen[0, column]) // 144
        assert len(set(day.tolist())) == 1
        assert chosen[0, column].tolist() == rows[(run.group.first + rows) // 144 == day[0]].tolist()


ECHO = """
import sys
import numpy as np
given = np.load(sys.argv[1])
found = {}
for name in MODELS:
    numbers = [int(n.split(".")[1]) for n in given.files if n.startswith("values.")]
    for n in numbers:
        last = given[f"values.{n}"][given[f"origins.{n}"]]
        found[f"{name}.paths.{n}"] = np.repeat(2 * last[:, None], int(given["horizon"]), axis=1)
    found[f"{name}.cpu"] = np.full(len(numbers), 0.5)
np.savez(sys.argv[2], **found)
"""


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_peer_is_asked_by_file_and_scored_beside_ours(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """One that answers twice the last value, in one process or several; the other peer is missing."""
    script = tmp_path / "forecast.py"
    script.write_text(ECHO.replace("MODELS", str(peers.MODELS["statsforecast"])))
    homes = {"statsforecast": Environment((sys.executable, str(script))), "lightgbm": Missing("no network")}
    monkeypatch.setattr(peers, "python_environment", lambda peer, _: homes[peer])
    models, missing = run_peers([run], Sample(origins=12, days=1), jobs)
    assert missing == {"LightGBM": "no network"}
    assert [model.name for model in models] == list(peers.MODELS["statsforecast"])
    for model in models:
        assert model.origins == 24
        assert model.cpu_us_per_step == pytest.approx(1e6 / 24)
        for place, ratios in model.relative.items():
            mine = model.ours[place]
            assert ratios is not None
            assert mine is not None
            assert mine["mean"] < 1.5 < ratios["mean"]


def test_a_peer_that_fails_is_missing_with_what_it_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last lines, for each of its models."""
    script = tmp_path / "forecast.py"
    script.write_text("raise SystemExit('no such model')")
    monkeypatch.setattr(peers, "python_environment", lambda *_: Environment((sys.executable, str(script))))
    models, missing = run_peers([run], Sample(origins=2, days=1), 1)
    assert not models
    assert set(missing) == {"AutoARIMA", "AutoETS", "AutoTheta", "LightGBM"}
    assert set(missing.values()) == {"no such model"}


@pytest.mark.parametrize("peer", sorted(peers.MODELS))
def test_peers_are_pinned(peer: str) -> None:
    """Every line of their requirements names one version."""
    lines = (PEERS / peer / "requirements.txt").read_text().split()
    assert lines
    assert all(line.count("==") == 1 for line in lines)
    assert peer in {line.partition("==")[0] for line in lines}


# ---------------------------------------------------------------------------- campaigns


@pytest.fixture(scope="module")
def rates() -> list[Series]:
    """Two request rates by the minute."""
    start = MONDAY + 5 * 3600.0
    return [Series(f"r/{n}", start + 600.0 * n, 60.0, daily(60.0, 6.5, seed=n)) for n in range(2)]


def test_campaigns_are_wrong_late_and_sometimes_cancelled(rates: list[Series]) -> None:
    """Declared within a factor of 1.6; jitter of 45 s; some do not come; the same world for the same seed."""
    given_ = [Series(f"s{n}", MONDAY, 60.0, np.tile(rates[0].values, 2)) for n in range(30)]
    made = world(given_, by_kind=False)
    again = world(given_, by_kind=False)
    assert made is not None
    assert again is not None
    np.testing.assert_array_equal(made.counts, again.counts)
    came = [one for one in made.campaigns if one.uplift > 1.0]
    wrong = [abs(np.log((one.event.uplift or 0.0) / one.uplift)) for one in came]
    assert max(wrong) <= np.log(1.6) + 1e-9
    assert np.mean(wrong) == pytest.approx(np.log(1.6) / 2, rel=0.1)
    assert np.std([one.late_s for one in made.campaigns]) == pytest.approx(45.0, rel=0.15)
    assert 1 - len(came) / len(made.campaigns) == pytest.approx(CANCELLED, abs=0.025)


def test_a_campaign_changes_its_series_in_its_time_only(rates: list[Series]) -> None:
    """Divided by each campaign's factor, the rates are those of before, in halves of minutes."""
    made = world(rates, by_kind=True)
    assert made is not None
    begins = max(round(one.start_s / 30.0) % 2880 for one in rates)
    assert made.first == begins
    quiet = made.first + np.arange(3 * 2880)
    first = made.counts[: 3 * 2880, 1]
    offset = begins - round(rates[1].start_s / 30.0) % 2880
    np.testing.assert_allclose(first, np.repeat(rates[1].values, 2)[offset : offset + len(quiet)] / 2)
    lifted = made.counts[:, 1] / (np.repeat(rates[1].values, 2)[offset : offset + len(made.counts)] / 2)
    for one in (one for one in made.campaigns if one.series == 1):
        middle = round((one.event.start + one.event.end) / 2 / 30.0) - made.first
        if middle < len(lifted):
            assert lifted[middle] == pytest.approx(one.uplift)
            assert lifted[round((one.event.start - 400) / 30.0) - made.first] == pytest.approx(1.0)


def test_series_that_are_too_slow_or_short_have_no_campaigns() -> None:
    """Nothing to measure, and no figure."""
    assert world([series(days=20.0), series("short", 2.0, 60.0)], by_kind=True) is None


def test_announced_starts_are_forecast_better(rates: list[Series], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a quarter at least, already for the third campaign of a kind; the world is the same."""
    monkeypatch.setattr(campaigns, "FIRST_DAYS", 0.5)
    monkeypatch.setattr(campaigns, "TAUGHT", 2)
    made = world(rates, by_kind=True, days=1.9)
    assert made is not None
    told, silent = run_campaigns(made, announced=True), run_campaigns(made, announced=False)
    assert told.came.observed == silent.came.observed > 0
    assert told.came.wape is not None
    assert silent.came.wape is not None
    assert told.came.wape < 0.75 * silent.came.wape
    empty = Group(("a",), 60.0, 0, np.ones((1, 1)), np.array([0]))
    unscored = Evaluation(*np.zeros((3, 1, HORIZON + 1)))
    whole = report(Results([Run(empty, unscored, np.zeros((1, 1, HORIZON + 1)), 1.0)], starts=told))
    assert json.loads(json.dumps(whole))["campaign_wape"] == told.came.wape


# ---------------------------------------------------------------------------- the whole


def test_targets_are_judged_by_what_was_measured(run: Run) -> None:
    """Met, missed, and not measured are three different things."""
    rows = [
        {"name": "a", "step_s": 60.0, "rel": 0.8, "coverage90": 0.9},
        {"name": "b", "step_s": 300.0, "rel": 1.1, "coverage90": 0.8},
    ]
    geomean = {"all": {"mean": 0.7}, "minute": {"h1": 0.95, "h5": 0.8, "h10": 0.7, "mean": 0.81}}
    found = {
        (one["series"], one["measure"]): (one["measured"], one["met"])
        for one in targets(Measured([run], rows, [], geomean, 310.0, None, None))
    }
    assert found["all", "MAE / last value's, mean, geometric mean"] == (0.7, True)
    assert found["all", "MAE / last value's, mean, worst series"] == (1.1, False)
    assert found["minute", "MAE / last value's, mean, worst series"] == (0.8, True)
    assert found["minute", "MAE / last value's, h1, geometric mean"] == (0.95, False)
    assert found["minute", "MAE / last value's, mean, geometric mean"] == (0.81, True)
    assert found["all", "coverage of the 90 % interval, lowest series"] == (0.8, False)
    assert found["all", "CPU of one series-step, us"] == (310.0, False)
    assert found["minute", "start ramp of announced campaigns, WAPE"] == (None, None)


def test_lightgbm_is_measured_but_no_target(run: Run) -> None:
    """The others must be beaten, with a hundredth of their CPU."""
    rows = run.origins(0)[:-HORIZON]
    exact = np.stack([run.group.values[rows + h, 0] for h in range(1, 3)], axis=1)
    paths = np.concatenate([exact, np.full((len(rows), HORIZON - 2), 1.0)], axis=1)
    models = [
        model_of(name, [run], {(0, 0): rows}, {(0, 0): paths}, 0.1, refitted=True)
        for name in ("LightGBM", "AutoETS")
    ]
    geomean = {"all": {"mean": 0.7}, "minute": {}}
    found = targets(Measured([run], [], models, geomean, 300.0, None, None))
    met = {one["measure"]: one["met"] for one in found if one["series"] == "all"}
    assert met["MAE / LightGBM's"] is None
    assert met["MAE / AutoETS's"] is True
    assert met["CPU / LightGBM's"] is None
    assert met["CPU / AutoETS's"] is True


def test_the_command_writes_a_report(tmp_path: Path) -> None:
    """From files to JSON: series, means, what was left out, and nothing that was not measured."""
    one = daily(600.0, 3.0)
    lines = "".join(f"{MONDAY + 600.0 * number},{value}\n" for number, value in enumerate(one))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.csv").write_text("time,value\n" + lines)
    (tmp_path / "in" / "short.csv").write_text("time,value\n1,2\n")
    out = tmp_path / "out" / "report.json"
    given_ = ["bench", "forecast", "--series", str(tmp_path / "in"), "--json", str(out), "--only-ours"]
    done = CliRunner().invoke(main, given_)
    assert done.exit_code == 0, done.output
    whole = json.loads(out.read_text())
    (row,) = whole["series"]
    assert row["name"] == "one"
    assert 0.2 < row["rel"] < 1.0
    assert 0.8 < row["coverage90"] < 0.97
    assert whole["geomean"]["foreshard"]["mean"] == pytest.approx(row["rel"], abs=1e-4)
    assert whole["cpu_us_per_step"] > 0
    assert whole["campaign_wape"] is None
    assert [one["name"] for one in whole["skipped"]] == ["short"]
    assert {one["measure"] for one in whole["targets"] if one["met"] is not None}


def test_forecasts_are_drawn(run: Run, tmp_path: Path) -> None:
    """Best, middle and worst series, as far as there are so many."""
    draw([run], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_series_says_so(tmp_path: Path) -> None:
    """What is missing, and where."""
    done = CliRunner().invoke(main, ["bench", "forecast", "--series", str(tmp_path)])
    assert done.exit_code == 1
    assert f"no series in {tmp_path}" in done.output
