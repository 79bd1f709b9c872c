"""Recorded traffic as a workload: counts per series, or a log of requests with their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.demo.request_log import RequestLog, columns_of, open_rows, read_log, time_of
from schemas.errors import BadRequestError, ConfigError
from schemas.records import SLOTS
from streams.core.keys import ANY_TYPE, KeyRules, RequestType, locate, parse_field
from streams.core.simulation.draft import Draft, Size, minutes
from streams.core.simulation.shapes import Generated
from streams.core.simulation.workload import BIN_S, SPREAD, Floats, Workload
from streams.core.steps import STEP_S

COUNTS = ("requests", "count", "value")
"""Names of a third column that make a file one of counts, not a log."""
SPREAD_BINS = 24
"""A recorded request of a log stands for many, spread over 240 s around it."""
LEAST_RPS = 1_000.0
"""Requests/s that a log is multiplied to: with fewer, chance decides."""
LEAST_BINS = 360
"""An hour: less says nothing."""
TYPES = 15
"""Types with a rule of their own where no configuration is given."""
HOT = 0.002
"""A key with this part of all requests is followed on its slot."""


@dataclass(frozen=True)
class Wanted:
    """What is to be made of a trace."""

    rules: KeyRules | None
    """From the configuration; without, types are named as in the file."""
    shards: int
    capacities: Mapping[str, float] | int
    """Of the clusters, cost units/s; or how many clusters there are, all equal."""
    peak: float
    """What the busiest minute takes of the capacity, where only a number of clusters is given."""
    hours: float
    """The end of the trace that is simulated; what is before it is learned."""
    seed: int


def read_trace(path: Path, columns: str | None, wanted: Wanted) -> Workload:
    """Returns the workload in a CSV file: (time, series, requests), or a log (time, type, key)."""
    names = _columns(path, columns)
    if names[-1] in COUNTS:
        return _of_counts(path, names, wanted)
    return _of_log(path.name, read_log(path, ",".join(names)), wanted)


def _columns(path: Path, columns: str | None) -> list[str]:
    if columns:
        return [part.strip() for part in columns.split(",")]
    header = next(iter(open_rows(path)), [])
    count = next((name for name in COUNTS if name in header), None)
    if count is None:
        return ["time", "type", "key"]
    return [name for name in ("time", "series") if name in header] + [count]


# ---------------------------------------------------------------------------- counts


def _of_counts(path: Path, names: Sequence[str], wanted: Wanted) -> Workload:
    table = _table(path, names)
    times = np.array(sorted({time for rows in table.values() for time, _ in rows}))
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    if step_s <= 0:
        raise ConfigError([f"--trace {path}: its times do not rise"])
    start, bins = _span(times[0], times[-1] + step_s, path)
    draft = _draft(start, bins, wanted, tuple(sorted(table)))
    at = draft.start + draft.time + BIN_S / 2
    for name in sorted(table):
        rows = sorted(table[name])
        rate = np.interp(at, [time + step_s / 2 for time, _ in rows], [count / step_s for _, count in rows])
        draft.tenants(_series(draft.rules(), name), rate)
    return _with_capacity(draft.built(path.name), wanted)


def _table(path: Path, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Returns (time, requests) by series; rows that are no numbers are left out."""
    rows = open_rows(path)
    places = columns_of(path, next(rows, []), names)
    table: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if len(row) <= max(places):
            continue
        time = time_of(row[places[0]])
        try:
            count = float(row[places[-1]])
        except ValueError:
            continue
        if time is not None and 0 <= count < float("inf"):
            table.setdefault(row[places[1]] if len(names) > 2 else "requests", []).append((time, count))
    if not table:
        raise ConfigError([f"{path}: no row with a time and a number in {', '.join(names)} was found"])
    return table


# ---------------------------------------------------------------------------- logs


def _of_log(name: str, log: RequestLog, wanted: Wanted) -> Workload:
    start, bins = _span(log.time[0], log.time[-1], Path(name))
    draft = _draft(start, bins, wanted, log.type_names[:TYPES])
    rules = draft.rules()
    places = [_place(rules, log.type_names[kind], key) for kind, key in log.key_names]
    wrong = sum(place is None for place in places)
    if wrong == len(places):
        raise ConfigError([f"{name}: no request of it fits the request types {', '.join(rules.series)}"])
    counts = Counter(log.key.tolist())
    cells: dict[tuple[int, int, int], list[int]] = {}
    for key, place in enumerate(places):
        if place is not None:
            series, shard, slot = place
            hot = counts[key] >= HOT * len(log.time)
            cells.setdefault((series, shard, slot if hot else SPREAD), []).append(key)
    cell_of = np.full(len(places), -1)
    for number, keys in enumerate(cells.values()):
        cell_of[keys] = number
    times = max(1.0, LEAST_RPS * bins * BIN_S / len(log.time))
    at = np.clip(((log.time - draft.start) / BIN_S).astype(np.int64), 0, bins - 1)
    for number, (series, shard, slot) in enumerate(cells):
        count = np.bincount(at[cell_of[log.key] == number], minlength=bins)
        draft.add(series, shard, slot, times / BIN_S * _smooth(count))
    return _with_capacity(draft.built(name), wanted)


def _place(rules: KeyRules, type_name: str, key: str) -> tuple[int, int, int] | None:
    """Returns (series, shard, slot) of a key; None where no rule takes it."""
    try:
        series, _ = rules.rule(type_name)
        shard, slot = locate(rules, type_name, [key])
    except BadRequestError:
        return None
    return series, shard, slot % SLOTS


def _smooth(count: npt.NDArray[np.int64]) -> Floats:
    kernel = np.full(SPREAD_BINS, 1.0 / SPREAD_BINS)
    smooth: Floats = np.convolve(count, kernel, mode="same")[: len(count)]
    return smooth


# ---------------------------------------------------------------------------- common


def _span(first: float, last: float, path: Path) -> tuple[float, int]:
    """Returns the start, at a border of forecast steps, and the number of bins."""
    start = float(np.ceil(first / STEP_S) * STEP_S)
    bins = int((last - start) // STEP_S) * round(STEP_S / BIN_S)
    if bins < LEAST_BINS:
        raise ConfigError([f"--trace {path}: {bins * BIN_S / 3600:.1f} h of traffic, at least 1 h is needed"])
    return start, bins


def _draft(start: float, bins: int, wanted: Wanted, names: Sequence[str]) -> Draft:
    """Returns a draft over the trace: its last hours are simulated, at most half; the rest is learned."""
    total_s = bins * BIN_S
    length_s = float(min(wanted.hours * 3600, total_s / 2) // STEP_S * STEP_S)
    clusters = wanted.capacities if isinstance(wanted.capacities, int) else len(wanted.capacities)
    size = Size(wanted.shards, clusters, total_s - length_s, length_s)
    field = (parse_field("key"),)
    rules = wanted.rules or KeyRules(
        wanted.shards,
        (parse_field("header:type"),),
        tuple(RequestType(name, field) for name in dict.fromkeys([*names, ANY_TYPE])),
    )
    return Draft(np.random.default_rng(wanted.seed), size, Generated(), start, rules)


def _series(rules: KeyRules, name: str) -> int:
    try:
        return rules.rule(name)[0]
    except BadRequestError:
        raise ConfigError(
            [f"series {name} of the trace is none of the request types {', '.join(rules.series)}"]
        ) from None


def _with_capacity(work: Workload, wanted: Wanted) -> Workload:
    """Returns the workload with the clusters that were asked for."""
    if isinstance(wanted.capacities, int):
        busiest = float(minutes(work.utilisation()).max()) * float(work.capacity_cps.sum())
        each = max(busiest / wanted.peak / wanted.capacities, 1e-3)
        return replace(work, capacity_cps=np.full(wanted.capacities, each))
    names = tuple(sorted(wanted.capacities))
    return replace(work, clusters=names, capacity_cps=np.array([wanted.capacities[name] for name in names]))
