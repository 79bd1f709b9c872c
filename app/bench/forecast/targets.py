"""The targets, computed from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.bench.forecast.campaigns import Starts
from app.bench.forecast.ours import Run
from app.bench.forecast.scale import Scale
from app.bench.forecast.scores import MINUTE_S, Model, geometric

MINUTE_LIMITS = {"h1": 0.92, "h5": 0.83, "h10": 0.76, "mean": 0.81}
ALL_LIMIT = 0.72
WORST_LIMIT = 1.0
COVERAGE = (0.87, 0.93)
CAMPAIGN_LIMIT = 0.10
STEP_US_LIMIT = 300.0
STEP_S_LIMIT = 30.0
"""A step of all series must be done before the next one begins."""
CPU_PART = 0.01
LEAST_ORIGINS = 200
"""With fewer, over all series, chance decides who is better: nothing is judged."""
UNJUDGED = "LightGBM"
"""The one peer that may be better: it looks at all history again, once a day."""

Target = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """All that was measured; None: not asked for."""

    runs: Sequence[Run]
    rows: Sequence[Mapping[str, Any]]
    models: Sequence[Model]
    geomean: Mapping[str, Mapping[str, float]]
    """{"all", "minute"} -> {h1, h5, h10, mean} of ours."""
    cpu_us_per_step: float
    scale: Scale | None
    starts: Starts | None


def targets(found: Measured) -> list[Target]:
    """Returns {measure, series, target, measured, met} per target: all series, then those by the minute.

    Both `measured` and `met` None: not measured.
    """
    listed: list[Target] = []
    for minute in (False, True):
        listed += _errors(found, minute) + _against(found, minute)
    return listed + _cost(found)


def _errors(found: Measured, minute: bool) -> list[Target]:
    where = "minute" if minute else "all"
    means = found.geomean[where]
    limits = MINUTE_LIMITS if minute else {"mean": ALL_LIMIT}
    listed = [
        _most(f"MAE / last value's, {key}, geometric mean", where, limit, means.get(key))
        for key, limit in limits.items()
    ]
    judged = [
        row for row in found.rows if row["rel"] is not None and (not minute or row["step_s"] <= MINUTE_S)
    ]
    covered = [row["coverage90"] for row in judged]
    low, high = COVERAGE
    return [
        *listed,
        _most(
            "MAE / last value's, mean, worst series",
            where,
            WORST_LIMIT,
            max((row["rel"] for row in judged), default=None),
        ),
        _least("coverage of the 90 % interval, lowest series", where, low, min(covered, default=None)),
        _most("coverage of the 90 % interval, highest series", where, high, max(covered, default=None)),
    ]


def _against(found: Measured, minute: bool) -> list[Target]:
    """Returns ours / theirs at the same origins, and our CPU / theirs."""
    where, listed = "minute" if minute else "all", []
    for model in (model for model in found.models if model.refitted):
        theirs, mine = (geometric(ratios, found.runs, minute) for ratios in (model.relative, model.ours))
        if not theirs:
            continue
        ratio = mine["mean"] / theirs["mean"]
        entry = _most(f"MAE / {model.name}'s", where, 1.0, ratio)
        entries = [entry if model.origins >= LEAST_ORIGINS else entry | {"met": None}]
        if not minute:
            part = found.cpu_us_per_step / model.cpu_us_per_step
            entries.append(_most(f"CPU / {model.name}'s", where, CPU_PART, part))
        if model.name == UNJUDGED:
            entries = [entry | {"target": "-", "met": None} for entry in entries]
        listed += entries
    return listed


def _cost(found: Measured) -> list[Target]:
    wape = None if found.starts is None else found.starts.came.wape
    step_s = None if found.scale is None else found.scale.step_cpu_s
    return [
        _most("start ramp of announced campaigns, WAPE", "minute", CAMPAIGN_LIMIT, wape),
        _most("CPU of one series-step, us", "all", STEP_US_LIMIT, found.cpu_us_per_step),
        _most("CPU of one step of 4,000 series, s", "made up", STEP_S_LIMIT, step_s),
    ]


def _most(measure: str, series: str, limit: float, measured: float | None) -> Target:
    return _entry(measure, series, f"<= {limit:g}", measured, None if measured is None else measured <= limit)


def _least(measure: str, series: str, limit: float, measured: float | None) -> Target:
    return _entry(measure, series, f">= {limit:g}", measured, None if measured is None else measured >= limit)


def _entry(measure: str, series: str, target: str, measured: float | None, met: bool | None) -> Target:
    rounded = None if measured is None else round(measured, 4)
    return {"measure": measure, "series": series, "target": target, "measured": rounded, "met": met}
