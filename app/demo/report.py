"""The figures of one pass, counted from what the backends consumed and what the balancer decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.demo.backend import RECORD
from app.demo.traffic import FloatArray, Traffic
from schemas.records import Decision, Mode, Move, Reason

LATE_S = 1.0
"""Wall seconds between a request's Kafka timestamp and the beginning of its work: the objective."""

WARM_UP_S = 5.0
"""Wall seconds at the beginning of a pass whose waits do not count: a broker that has just started answers
slowly until its JVM has compiled what is busy. Loss, repeats and order count from the first request."""

WINDOW_S = 10.0
"""Wall seconds of a window of load / capacity."""

HORIZON_S = 300.0
"""Model seconds ahead at which forecasts are judged: the balancer's horizon."""
MATCH_S = 15.0
"""A forecast is compared with the round nearest to its horizon, at most this far off."""

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Figures:
    """What one pass came to. `None` = there was nothing to count it from."""

    requests: int
    routed: int
    lost: int
    repeated: int
    out_of_order: int
    violations_pct: float
    wait_p50_s: float
    wait_p99_s: float
    wait_max_s: float
    max_over_mean: float | None
    mean_utilisation: float
    plans: int
    plans_with_drifts: int
    drifts: int
    returns: int
    rounds: int
    forecast_rel: float | None
    dead_letters: int
    producer_late_max_s: float
    not_delivered: int


def first_processing(rows: Mapping[str, Rows]) -> tuple[Rows, int]:
    """Returns RECORD[n], the first time each request was processed, in order of time, and all repeats."""
    parts = [part for part in rows.values() if len(part)]
    together = np.concatenate(parts) if parts else np.zeros(0, dtype=RECORD)
    ordered = together[np.argsort(together["begin"], kind="stable")]
    _, first = np.unique(ordered["seq"], return_index=True)
    return ordered[np.sort(first)], len(ordered) - len(first)


def out_of_order(seq: npt.NDArray[np.integer], key: npt.NDArray[np.integer]) -> int:
    """Returns how many requests were processed after a later request of the same key.

    `seq` in order of processing; key[i] is the key of the request seq[i]. Example: the key's requests
    1, 2, 3 processed as 2, 1, 3 give 1.
    """
    if not len(seq):
        return 0
    order = np.argsort(key, kind="stable")
    group = np.cumsum(np.diff(key[order], prepend=key[order][0]) != 0)
    span = int(seq.max()) + 1
    rank = group * span + seq[order].astype(np.int64)
    return int((rank < np.maximum.accumulate(rank)).sum())


def load_over_capacity(
    rows: Mapping[str, Rows], capacity: Mapping[str, float], begin: float, seconds: float, window_s: float
) -> FloatArray:
    """Returns float64[clusters, windows]: cost units that arrived for each cluster / its capacity.

    A request counts when it was sent (its Kafka timestamp), at the cluster that processed it.
    `capacity` in cost units per wall second, `begin` the wall time of the pass, whole windows only.
    """
    count = max(1, int(seconds // window_s))
    edges = begin + window_s * np.arange(count + 1)
    table = [
        np.histogram(rows[name]["timestamp"] / 1000.0, edges, weights=rows[name]["cost"])[0]
        / window_s
        / capacity[name]
        for name in capacity
    ]
    return np.array(table, dtype=np.float64)


def max_over_mean(table: FloatArray, capacity: Mapping[str, float]) -> float | None:
    """Returns the median over windows of (most loaded cluster / mean by capacity)."""
    sizes = np.array(list(capacity.values()))
    mean = (table * sizes[:, None]).sum(axis=0) / sizes.sum()
    used = mean > 0
    return float(np.median(table[:, used].max(axis=0) / mean[used])) if used.any() else None


def is_drift(move: Move) -> bool:
    return move.reason not in (Reason.RETURN, Reason.FIRST_START)


def forecast_rel(decisions: Sequence[Decision], begin: float, end: float) -> float | None:
    """Returns MAE / MAE of the last value, 300 s ahead, over all series and rounds of `[begin, end]`.

    A round's forecast is compared with what the round 300 s later measured; trusted or not.
    """
    rounds = [d for d in decisions if begin <= d.at <= end and d.series]
    times = np.array([d.at for d in rounds])
    error = naive = 0.0
    for decision in rounds:
        if decision.at + HORIZON_S > end:
            break
        later = rounds[int(np.argmin(np.abs(times - decision.at - HORIZON_S)))]
        if abs(later.at - decision.at - HORIZON_S) > MATCH_S:
            continue
        measured = {series.name: series.now_rps for series in later.series}
        for series in decision.series:
            if series.name in measured:
                error += abs(series.forecast_rps - measured[series.name])
                naive += abs(series.now_rps - measured[series.name])
    return error / naive if naive > 0 else None


@dataclass(frozen=True)
class Outcome:
    """Everything that a pass left behind."""

    rows: Mapping[str, Rows]
    decisions: Sequence[Decision]
    dead_letters: int
    begin: float
    """Wall time at which the first request was due."""
    seconds: float
    capacity: Mapping[str, float]
    """Cost units per wall second."""
    model_begin: float
    time_scale: float
    late_max_s: float
    not_delivered: int


def count(traffic: Traffic, outcome: Outcome) -> Figures:
    """Returns the figures of one pass; waits are those of requests sent after `WARM_UP_S`."""
    done, repeated = first_processing(outcome.rows)
    sent = done["timestamp"] / 1000.0
    waits = (done["begin"] - sent)[sent >= outcome.begin + WARM_UP_S]
    applied = [d for d in outcome.decisions if d.moves and d.skip is None and d.mode is Mode.AUTO]
    moves = [move for decision in applied for move in decision.moves]
    model_end = outcome.model_begin + outcome.seconds * outcome.time_scale
    table = load_over_capacity(outcome.rows, outcome.capacity, outcome.begin, outcome.seconds, WINDOW_S)
    quantiles = np.quantile(waits, [0.5, 0.99, 1.0]) if len(waits) else np.zeros(3)
    return Figures(
        requests=len(traffic),
        routed=len(done),
        lost=len(traffic) - len(done) - outcome.dead_letters - outcome.not_delivered,
        repeated=repeated,
        out_of_order=out_of_order(done["seq"], traffic.key[done["seq"]]),
        violations_pct=round(100.0 * float((waits > LATE_S).mean()), 3) if len(waits) else 0.0,
        wait_p50_s=round(float(quantiles[0]), 3),
        wait_p99_s=round(float(quantiles[1]), 3),
        wait_max_s=round(float(quantiles[2]), 3),
        max_over_mean=max_over_mean(table, outcome.capacity),
        mean_utilisation=float(traffic.costs().sum()) / (sum(outcome.capacity.values()) * outcome.seconds),
        plans=len(applied),
        plans_with_drifts=sum(any(is_drift(move) for move in d.moves) for d in applied),
        drifts=sum(is_drift(move) for move in moves),
        returns=sum(move.reason is Reason.RETURN for move in moves),
        rounds=sum(outcome.model_begin <= d.at <= model_end for d in outcome.decisions),
        forecast_rel=forecast_rel(outcome.decisions, outcome.model_begin, model_end),
        dead_letters=outcome.dead_letters,
        producer_late_max_s=round(outcome.late_max_s, 3),
        not_delivered=outcome.not_delivered,
    )
