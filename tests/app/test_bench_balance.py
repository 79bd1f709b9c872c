"""The balance bench: averages, targets, load shapes from files, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.bench.balance import Order, run_bench_balance
from app.bench.balance_targets import FIELDS, means, targets
from app.bench.plan import Size as PlanSize
from app.bench.series_files import Series
from app.bench.trace_shapes import TraceShapes
from schemas.errors import ConfigError
from streams.core.simulation.draft import Size
from streams.core.simulation.lanes import Policy
from streams.core.simulation.run import Setting

MAIN = {"imports", "tenant-campaigns"}


def rows(**violations: float) -> list[dict[str, object]]:
    """Returns one row per policy and scenario, rounds of 10 s; all figures but violations are 1."""
    return [
        {"scenario": scenario, "seed": 1, "policy": policy, "round_s": 10.0}
        | dict.fromkeys(FIELDS, 1.0)
        | {"violations_pct": percent}
        for scenario in ("imports", "even-load")
        for policy, percent in violations.items()
    ]


def verdict(found: list[dict[str, object]], measure: str) -> tuple[object, object]:
    (entry,) = (one for one in found if one["measure"] == measure)
    return entry["measured"], entry["met"]


def test_means_are_by_policy_over_the_main_scenarios() -> None:
    """The scenarios with targets of their own do not count; policies without rounds have no interval."""
    found = means([*rows(static=4.0, predictive=0.02), *rows(static=6.0, predictive=0.04)], MAIN)
    assert found["static"]["violations_pct"] == 5.0
    assert found["predictive, 10 s"]["violations_pct"] == pytest.approx(0.03)


def test_targets_say_what_was_measured_and_whether_it_is_met() -> None:
    """Ratios, differences, what was not measured (None), and a division by nothing."""
    found = targets(rows(static=4.0, predictive=0.04, reactive=0.1, oracle=0.0), MAIN, {"1024 x 32": 25.0})
    assert verdict(found, "predictive: waited > 1 s, %, average") == (0.04, True)
    assert verdict(found, "predictive / reactive, rounds of 10 s, average") == (0.4, True)
    assert verdict(found, "predictive / reactive, rounds of 10 s, imports") == (0.4, False)
    assert verdict(found, "predictive / reactive, rounds of 30 s, average") == (None, None)
    assert verdict(found, "static / predictive") == (100.0, True)
    assert verdict(found, "predictive - oracle, points") == (0.04, False)
    assert verdict(found, "even load: moves per hour") == (1.0, False)
    assert verdict(found, "plan p99, 1024 x 32 (shards x clusters), ms") == (25.0, False)


def days(count: float, step_s: float = 60.0, start_s: float = 0.0) -> Series:
    """Returns a series whose value is the hour of its day + 1."""
    at = start_s + np.arange(int(count * 86_400 / step_s)) * step_s
    return Series("s", start_s, step_s, (at // 3600) % 24 + 1.0)


@pytest.mark.parametrize("shift_h", [0.0, 8.0, 16.0])
def test_a_stretch_of_a_recorded_series_begins_at_its_midnight(shift_h: float) -> None:
    """Shifted by 8 hours, its midnight comes 8 hours after the start, wherever the file begins."""
    shapes = TraceShapes([days(6, start_s=5_000.0)], days=2)
    shape = shapes.draw(np.random.default_rng(1), 2 * 8_640, shift_h * 3600)
    assert shape.mean() == pytest.approx(1.0)
    lowest = (np.argmin(shape[: 8_640 + 10]) * 10.0 / 3600) % 24
    assert lowest == pytest.approx(shift_h, abs=0.05)


def test_what_is_short_or_constant_is_no_shape() -> None:
    """A file that is too short is refused at once, a constant one when nothing else is found."""
    with pytest.raises(ConfigError, match="no series of"):
        TraceShapes([days(2)], days=2)
    flat = Series("flat", 0.0, 60.0, np.full(6 * 1440, 5.0))
    with pytest.raises(ConfigError, match="no fit stretch"):
        TraceShapes([flat], days=2).draw(np.random.default_rng(1), 2 * 8_640, 0.0)


def test_a_small_run_writes_rows_and_resumes(tmp_path: Path) -> None:
    """Every policy has a row with all its figures; with --resume nothing is simulated twice."""
    folder, path = tmp_path / "traces", tmp_path / "balance.json"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(2):
        values = 100 + 30 * np.sin(np.arange(3 * 1440) / 30 + number) + rng.normal(0, 3, 3 * 1440)
        text = "\n".join(f"{60 * minute},{value:.1f}" for minute, value in enumerate(values))
        (folder / f"s{number}.csv").write_text(text)
    order = Order(
        traces=folder,
        scenarios=["type-campaigns"],
        seeds=[1],
        size=Size(16, 3, 3 * 3600.0, 600.0),
        setting=Setting((Policy.STATIC, Policy.REACTIVE, Policy.PREDICTIVE), (10.0, 30.0)),
        json_path=path,
        resume=True,
        command="foreshard bench balance",
        plans=[PlanSize(64, 4, target_ms=1_000.0, runs=3)],
    )
    run_bench_balance(order)
    first = json.loads(path.read_text())
    assert [(row["policy"], row["round_s"]) for row in first["rows"]] == [
        ("static", 10.0),
        ("reactive", 10.0),
        ("reactive", 30.0),
        ("predictive", 10.0),
        ("predictive", 30.0),
    ]
    assert all(set(FIELDS) <= set(row) for row in first["rows"])
    assert 0 < first["plan_p99_ms"]["64 x 4"] < 1_000
    assert set(first["means"]) == {
        "static",
        "reactive, 10 s",
        "reactive, 30 s",
        "predictive, 10 s",
        "predictive, 30 s",
    }
    run_bench_balance(order)
    assert json.loads(path.read_text()) == first


def test_an_unknown_scenario_is_refused() -> None:
    """With the names of those that exist."""
    with pytest.raises(ConfigError, match="no scenario doomsday; there are: follow-the-sun"):
        Order(Path(), ["doomsday"], [1], Size(), Setting(), None, False, "")
