"""Series that one forecaster takes together: equal steps, one kind, aligned by time of day and weekday."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from app.bench.series_files import Series, Skipped
from streams.core.forecast.profile import Floats, Ints

WEEK_S = 7 * 86_400
MOST_STEP_S = 3600.0
"""The forecaster takes steps up to an hour."""
UNSCORED_S = 3 * 86_400.0
UNSCORED_PART = 0.35
"""The first three days of a series, or 35 % of a short one, are for learning alone."""


@dataclass(frozen=True)
class Group:
    """Series on one grid of steps; NaN where a series has no value, or has not begun, or is over."""

    names: tuple[str, ...]
    step_s: float
    first: int
    """Step of the first row: Unix time / step_s, each series shifted by whole weeks."""
    values: Floats
    """float64[steps, series]"""
    skip: Ints
    """int64[series]: rows before this one are not scored."""


def usable(series: Sequence[Series]) -> tuple[list[Series], list[Skipped]]:
    """Returns the series that can be loads, and why the others cannot."""
    good: list[Series] = []
    skipped: list[Skipped] = []
    for one in series:
        if one.step_s > MOST_STEP_S:
            skipped.append(Skipped(one.name, f"steps of {one.step_s:g} s, {MOST_STEP_S:g} are the most"))
        elif np.nanmin(one.values) < 0:
            skipped.append(Skipped(one.name, f"a value of {np.nanmin(one.values):g}: a load is not negative"))
        else:
            good.append(one)
    return good, skipped


def grouped(series: Sequence[Series]) -> list[Group]:
    """Returns the groups, in the order of their first series: those of a folder with equal steps."""
    kinds: dict[tuple[str, float], list[Series]] = {}
    for one in series:
        kinds.setdefault((str(PurePosixPath(one.name).parent), one.step_s), []).append(one)
    return [_group(members) for members in kinds.values()]


def _group(members: Sequence[Series]) -> Group:
    step_s = members[0].step_s
    earliest = min(one.start_s for one in members)
    starts = [round((earliest + (one.start_s - earliest) % WEEK_S) / step_s) for one in members]
    first = min(starts)
    size = max(start - first + len(one.values) for start, one in zip(starts, members, strict=True))
    values = np.full((size, len(members)), np.nan)
    for column, (start, one) in enumerate(zip(starts, members, strict=True)):
        values[start - first : start - first + len(one.values), column] = one.values
    skip = [
        start - first + round(min(UNSCORED_S / step_s, UNSCORED_PART * len(one.values)))
        for start, one in zip(starts, members, strict=True)
    ]
    names = tuple(one.name for one in members)
    return Group(names, step_s, first, values, np.array(skip, dtype=np.int64))
