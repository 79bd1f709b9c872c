"""A real request log as traffic: its busiest window, each recorded request replayed k times."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import orjson

from app.demo.traffic import (
    CAMPAIGN_SHARE,
    FULL_PASS_REQUESTS,
    FULL_PASS_S,
    STEP_S,
    FloatArray,
    IntArray,
    Keys,
    Traffic,
    full_steps,
    make_campaign,
    merge,
)
from schemas.errors import ConfigError
from streams.core.keys import ANY_TYPE, RequestType, parse_field

DEFAULT_COLUMNS = "time,method,url"

SPREAD_S = 120.0
"""Model seconds before and after a recorded request over which its k requests are spread."""

SHARDS = 256

CAMPAIGN_RANKS = slice(20, 120)
"""Known but not leading keys, by requests within the window."""


@dataclass(frozen=True)
class RequestLog:
    """Recorded requests in order of time."""

    time: FloatArray
    """Seconds since 1970."""
    type_index: IntArray
    key: IntArray
    type_names: tuple[str, ...]
    """Commonest first."""
    key_names: tuple[tuple[int, str], ...]
    """(type, key) of each key number: a key of a type without a keyspace belongs to that type."""


def read_log(path: Path, columns: str | None) -> RequestLog:
    """Returns the log in a CSV or TSV file (.gz or not); `columns` names time, type and key."""
    names = [part.strip() for part in (columns or DEFAULT_COLUMNS).split(",")]
    if len(names) != 3 or not all(names):
        raise ConfigError([f"--columns {columns!r}: name three columns: time,type,key"])
    rows = list(_rows(path, names))
    if not rows:
        raise ConfigError([f"{path}: no request with a number or ISO date in {names[0]!r} was found"])
    rows.sort(key=lambda row: row[0])
    types = [name for name, _ in Counter(row[1] for row in rows).most_common(256)]
    number = {name: index for index, name in enumerate(types)}
    kept = [row for row in rows if row[1] in number]
    pairs = list(dict.fromkeys((number[row[1]], row[2]) for row in kept))
    key_number = {pair: index for index, pair in enumerate(pairs)}
    return RequestLog(
        time=np.array([row[0] for row in kept]),
        type_index=np.array([number[row[1]] for row in kept], dtype=np.int64),
        key=np.array([key_number[(number[row[1]], row[2])] for row in kept], dtype=np.int64),
        type_names=tuple(types),
        key_names=tuple(pairs),
    )


def replay(
    log: RequestLog,
    *,
    seconds: float,
    time_scale: float,
    seed: int,
    window_from: str | None = None,
    campaign_share: float = CAMPAIGN_SHARE,
) -> Traffic:
    """Returns one pass: the window with the most requests (or from `window_from`), k times as dense."""
    rng = np.random.default_rng(seed)
    length_s = seconds * time_scale
    start = full_steps(_parse_from(window_from) if window_from else busiest(log.time, length_s))
    wanted = FULL_PASS_REQUESTS * seconds / FULL_PASS_S
    near = np.flatnonzero((log.time >= start - SPREAD_S) & (log.time < start + length_s + SPREAD_S))
    weight = np.array([overlap(log.time[near], start, start + length_s)]).sum()
    if weight <= 0:
        raise ConfigError([f"--from {window_from}: the log has no request within {length_s:.0f} s of it"])
    k = math.ceil(wanted / weight * 1.01)
    at, chosen = spread(log.time[near] - start, k, rng)
    inside = (at >= 0) & (at < length_s)
    at, chosen = at[inside], near[chosen[inside]]
    keys = _keys(log)
    promoted = _promoted(log, log.key[chosen])
    campaign = make_campaign(promoted, length_s, campaign_share * len(at) / length_s, rng)
    extra, extra_keys = campaign.sample(rng)
    parts = [
        (at, log.type_index[chosen], log.key[chosen]),
        (extra, np.zeros(len(extra), dtype=np.int64), extra_keys),
    ]
    merged_at, types, merged_keys = merge(parts)
    return Traffic(
        name="log",
        rules=_rules(log),
        type_names=log.type_names,
        keys=keys,
        start=start,
        length_s=length_s,
        at=merged_at,
        type_index=types,
        key=merged_keys,
        campaign=campaign,
        history=_history(log, start, k, keys.shards(SHARDS), rng),
        shards=SHARDS,
        notes={"seed": seed, "k": k, "recorded": round(weight), "window_from": _text(start)},
    )


def busiest(time: FloatArray, length_s: float) -> float:
    """Returns the start of the window of `length_s` with the most requests."""
    counts = np.searchsorted(time, time + length_s) - np.arange(len(time))
    return float(time[np.argmax(counts)])


def spread(at: FloatArray, k: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Returns (times, source request) of k requests for each, at random within +- `SPREAD_S`."""
    sources = np.repeat(np.arange(len(at)), k)
    times: FloatArray = at[sources] + rng.uniform(-SPREAD_S, SPREAD_S, len(sources))
    return times, sources


def overlap(at: FloatArray, start: float, end: float) -> FloatArray:
    """Returns the expected part of each request's copies that falls into `[start, end)`."""
    inside = np.minimum(at + SPREAD_S, end) - np.maximum(at - SPREAD_S, start)
    part: FloatArray = np.clip(inside, 0.0, None) / (2 * SPREAD_S)
    return part


def _rows(path: Path, names: Sequence[str]) -> Iterator[tuple[float, str, str]]:
    rows = open_rows(path)
    places = columns_of(path, next(rows, []), names)
    for row in rows:
        if len(row) > max(places):
            time = time_of(row[places[0]])
            if time is not None:
                yield time, row[places[1]], row[places[2]]


def open_rows(path: Path) -> Iterator[list[str]]:
    """Yields the rows of a CSV or TSV file (.gz or not), its header first."""
    try:
        with _open(path) as file:
            header = file.readline()
            delimiter = "\t" if "\t" in header else ","
            yield next(csv.reader([header], delimiter=delimiter), [])
            yield from csv.reader(file, delimiter=delimiter)
    except (OSError, csv.Error) as error:
        raise ConfigError([f"--trace {path}: cannot be read: {error}"]) from None


def columns_of(path: Path, header: Sequence[str], names: Sequence[str]) -> list[int]:
    """Returns the places of the named columns; ConfigError where one is missing."""
    missing = [name for name in names if name not in header]
    if missing:
        raise ConfigError([f"{path}: no column {missing}; --columns can name: {','.join(header)}"])
    return [header.index(name) for name in names]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def time_of(text: str) -> float | None:
    """Returns seconds since 1970 of "807249601" or an ISO date; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        try:
            date = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        value = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return value if math.isfinite(value) else None


def _parse_from(text: str) -> float:
    time = time_of(text)
    if time is None:
        raise ConfigError([f"--from {text!r} is neither seconds since 1970 nor an ISO date"])
    return time


def _text(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def _rules(log: RequestLog) -> tuple[RequestType, ...]:
    """A rule for the commonest type, and one for all others."""
    field = (parse_field("json:url"),)
    return RequestType(log.type_names[0], field), RequestType(ANY_TYPE, field)


def _keys(log: RequestLog) -> Keys:
    urls = [key for _, key in log.key_names]
    return Keys(
        spaces=[log.type_names[index] for index, _ in log.key_names],
        values=[(url,) for url in urls],
        record_keys=urls,
        fields=['"url":' + orjson.dumps(url).decode() for url in urls],
    )


def _promoted(log: RequestLog, keys: IntArray) -> IntArray:
    """Returns the known keys of the commonest type that a campaign may be on."""
    common = np.array([kind == 0 for kind, _ in log.key_names])
    ranked = np.argsort(-np.bincount(keys, minlength=len(common)), kind="stable")
    known: IntArray = ranked[common[ranked]]
    pool: IntArray = known[CAMPAIGN_RANKS]
    return pool if len(pool) else known


def _history(
    log: RequestLog, start: float, k: int, shard_of: IntArray, rng: np.random.Generator
) -> npt.NDArray[np.uint32]:
    """Returns uint32[steps, 2, shards] of all steps between the log's first request and the window."""
    first = full_steps(float(log.time[0]))
    steps = max(0, round((start - first) / STEP_S))
    expected = np.zeros(steps * 2 * SHARDS)
    series = np.minimum(log.type_index, 1)
    cell = series * SHARDS + shard_of[log.key]
    base = np.floor((log.time - SPREAD_S - first) / STEP_S).astype(np.int64)
    for offset in range(int(2 * SPREAD_S / STEP_S) + 1):
        step = base + offset
        inside = (step >= 0) & (step < steps)
        begin = first + step[inside] * STEP_S
        late = np.minimum(begin + STEP_S, log.time[inside] + SPREAD_S)
        part = np.clip(late - np.maximum(begin, log.time[inside] - SPREAD_S), 0.0, None) / (2 * SPREAD_S)
        expected += np.bincount(step[inside] * 2 * SHARDS + cell[inside], k * part, len(expected))
    return rng.poisson(expected).astype(np.uint32).reshape(steps, 2, SHARDS)
