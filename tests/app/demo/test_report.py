"""The report's figures, each on a pass small enough to count by hand."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from app.demo.backend import PACK, RECORD, read_rows
from app.demo.chart import Shown, show
from app.demo.generator import generate
from app.demo.report import (
    WARM_UP_S,
    Outcome,
    Rows,
    count,
    forecast_rel,
    load_over_capacity,
    max_over_mean,
    out_of_order,
)
from app.demo.traffic import Traffic
from schemas.records import Decision, Mode, Move, Reason, SeriesView, Skip

BEGIN = 1000.0


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """Ten requests of two keys, one a second."""
    made = generate(seconds=10, time_scale=1, seed=1)
    key = np.array([0, 1] * 5, dtype=np.int32)
    return replace(made, at=np.arange(10.0), type_index=np.zeros(10, dtype=np.uint8), key=key)


def rows(*given: tuple[int, float]) -> Rows:
    """(seq, wait in s) in order of processing; request n was sent at second n."""
    made = np.zeros(len(given), dtype=RECORD)
    for index, (seq, wait) in enumerate(given):
        made[index] = (seq, BEGIN + seq + wait, int((BEGIN + seq) * 1000), 0, 1.0)
    return made


def outcome(*decisions: Decision, **by_cluster: Rows) -> Outcome:
    return Outcome(
        rows=by_cluster,
        decisions=decisions,
        dead_letters=0,
        begin=BEGIN,
        seconds=10.0,
        capacity=dict.fromkeys(by_cluster, 1.0),
        model_begin=0.0,
        time_scale=1.0,
        late_max_s=0.0,
        not_delivered=0,
    )


def test_all_well(traffic: Traffic) -> None:
    """Each request once, at once, in order."""
    figures = count(traffic, outcome(a=rows(*((seq, 0.1) for seq in range(10)))))
    assert (figures.routed, figures.lost, figures.repeated, figures.out_of_order) == (10, 0, 0, 0)
    assert figures.violations_pct == 0
    assert figures.mean_utilisation == pytest.approx(1.0)


def test_lost_repeated_and_late_are_counted(traffic: Traffic) -> None:
    """8 never arrives, 3 comes twice at two clusters, 5 and 6 wait more than a second."""
    one = rows((0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (5, 1.5))
    two = rows((3, 0.2), (4, 0.1), (6, 2.5), (7, 1.0), (9, 0.1))
    figures = count(traffic, outcome(a=one, b=two))
    assert (figures.routed, figures.lost, figures.repeated) == (9, 1, 1)
    assert figures.violations_pct == pytest.approx(100 * 2 / 4, abs=0.01)  # of 5, 6, 7 and 9
    assert figures.wait_max_s == pytest.approx(2.5)


def test_waits_of_the_first_seconds_do_not_count_but_their_losses_do(traffic: Traffic) -> None:
    """0 to 4 are sent while the broker warms up: they wait long, and 2 is lost."""
    seqs = [seq for seq in range(10) if seq != 2]
    figures = count(traffic, outcome(a=rows(*((seq, 3.0 if seq < WARM_UP_S else 0.1) for seq in seqs))))
    assert (figures.routed, figures.lost) == (9, 1)
    assert figures.violations_pct == 0
    assert figures.wait_max_s == pytest.approx(0.1)


def test_dead_letters_and_unsent_requests_are_not_lost(traffic: Traffic) -> None:
    """Lost means: stored by the producer, and nowhere."""
    done = outcome(a=rows(*((seq, 0.1) for seq in range(7))))
    assert count(traffic, replace(done, dead_letters=2, not_delivered=1)).lost == 0


def test_order_is_judged_per_key() -> None:
    """Key 0: 4 is processed before 2; key 1 keeps its order although others come between."""
    seq = np.array([0, 4, 1, 2, 3, 5])
    key = np.array([0, 0, 1, 0, 1, 1])
    assert out_of_order(seq, key) == 1
    assert out_of_order(np.array([3, 2, 1]), np.array([7, 7, 7])) == 2
    assert out_of_order(np.array([], dtype=int), np.array([], dtype=int)) == 0


def test_load_counts_when_sent_by_capacity() -> None:
    """A window's load is what was sent in it, over the cluster's capacity."""
    table = load_over_capacity({"a": rows((0, 9.0), (6, 0.0), (7, 0.0)), "b": rows((1, 0.0))},
                               {"a": 1.0, "b": 2.0}, BEGIN, 10.0, 5.0)  # fmt: skip
    assert table == pytest.approx(np.array([[0.2, 0.4], [0.1, 0.0]]))
    assert max_over_mean(table, {"a": 1.0, "b": 2.0}) == pytest.approx(np.median([0.2 / (0.4 / 3), 3.0]))
    assert max_over_mean(np.zeros((2, 3)), {"a": 1.0, "b": 2.0}) is None


def decision(number: int, **more: object) -> Decision:
    fields = {"epoch": 1, "round": number, "at": 10.0 * number, "mode": Mode.AUTO, "version": number}
    return Decision.model_validate(fields | more)


def move(reason: Reason) -> Move:
    return Move(shard=1, source="a", target="b", slots=[(0, 9)], load_cps=1.0, reason=reason)


def test_plans_drifts_and_returns_are_told_apart(traffic: Traffic) -> None:
    """Only applied rounds count; a plan may hold both kinds of move."""
    decisions = [
        decision(1, moves=[move(Reason.EVENT), move(Reason.RETURN)]),
        decision(2, moves=[move(Reason.RETURN)]),
        decision(3, skip=Skip.BALANCED),
        decision(4, skip=Skip.OBSERVE_MODE, mode=Mode.OBSERVE, moves=[move(Reason.OVERLOAD)]),
    ]
    figures = count(traffic, outcome(*decisions, a=rows((0, 0.0))))
    assert (figures.plans, figures.plans_with_drifts, figures.drifts, figures.returns) == (2, 1, 1, 2)


def test_forecast_is_judged_against_the_last_value() -> None:
    """Rising load: the last value misses by 30, the forecast by 10."""
    views = [SeriesView(name="x", now_rps=float(n), forecast_rps=n + 20.0, trusted=True) for n in range(100)]
    decisions = [decision(n, series=[views[n]]) for n in range(100)]
    assert forecast_rel(decisions, 0.0, 990.0) == pytest.approx(10 / 30)
    assert forecast_rel(decisions[:5], 0.0, 990.0) is None


def test_rows_survive_a_half_written_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file cut in the middle of a row gives the whole rows before it."""
    path = tmp_path_factory.mktemp("rows") / "a.rows"
    path.write_bytes(PACK(7, 1.5, 1400, 3, 2.0) + PACK(8, 1.6, 1500, 3, 1.0)[:10])
    found = read_rows(path)
    assert found.tolist() == [(7, 1.5, 1400, 3, 2.0)]
    assert len(read_rows(path.with_name("none"))) == 0


def test_report_shows_every_figure(traffic: Traffic) -> None:
    """Plain words for all figures, one bar line per cluster and pass."""
    figures = count(traffic, outcome(a=rows(*((seq, 0.1) for seq in range(10)))))
    out = io.StringIO()
    passes = [Shown(mode, figures, np.array([[0.5, 1.2]])) for mode in ("auto", "observe")]
    facts = {
        "source": "log.csv",
        "seed": 1,
        "k": 7,
        "window_from": "noon",
        "recorded": 5,
        "requests": 35,
        "seconds": 10,
        "time_scale": 10.0,
        "window_s": 100.0,
        "history_steps": 3,
        "history_days": 0.1,
        "history_requests": 9,
        "capacity_per_wall_s": {"a": 5.0},
        "planned_utilisation": 0.6,
        "campaign": {"keys": 2, "requests_per_wall_s": 5.0, "from_s": 1.0, "to_s": 2.0, "announced": True},
        "dwell_s": 180.0,
    }
    show(Console(file=out, width=120), facts, ["a"], passes)
    text = out.getvalue()
    assert "processed more than once" in text
    assert "each replayed 7 times" in text
    assert text.count("max 1.20") == 2
    assert "Balanced: 10 requests processed, 0 lost" in text
