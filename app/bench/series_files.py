"""Time series from files: any folder of CSV, also compressed or inside tar archives."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from streams.core.forecast.profile import Floats

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LEAST_VALUES = 100
MOST_GAP = 10.0
"""A file whose first and last value are this many times farther apart than its values fill is not regular."""


@dataclass(frozen=True)
class Series:
    """Values at equal steps; NaN where the file has none."""

    name: str
    """Path of the file below the folder, without its ending."""
    start_s: float
    """Unix time of the first value."""
    step_s: float
    values: Floats


@dataclass(frozen=True)
class Skipped:
    """A file that is no series, and why."""

    name: str
    why: str


def read_series(folder: Path) -> tuple[list[Series], list[Skipped]]:
    """Returns the series in all files below a folder, by name: first column time, second value."""
    found: list[Series] = []
    skipped: list[Skipped] = []
    for name, stream in _files(folder):
        with stream:
            one = _series(name, stream)
        if isinstance(one, Series):
            found.append(one)
        else:
            skipped.append(one)
    return sorted(found, key=lambda one: one.name), skipped


def _files(folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields name and content of every CSV file."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.endswith((".csv", ".csv.gz")):
            yield name, _opened(name, path.open("rb"))
        elif name.endswith(ARCHIVES):
            with tarfile.open(path) as archive:
                for member in sorted(archive.getmembers(), key=lambda member: member.name):
                    content = (
                        archive.extractfile(member) if member.name.endswith((".csv", ".csv.gz")) else None
                    )
                    if content is not None:
                        yield f"{name}/{member.name}", _opened(member.name, content)


def _opened(name: str, stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(stream)) if name.endswith(".gz") else stream


def _series(name: str, stream: IO[bytes]) -> Series | Skipped:
    times, values = [], []
    for row in csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")):
        if len(row) < 2:
            continue
        try:
            time, value = _time(row[0]), float(row[1])
        except ValueError:
            continue  # a header, or a value that is missing
        times.append(time)
        values.append(value)
    label = str(PurePosixPath(name)).removesuffix(".gz").removesuffix(".csv")
    if len(times) < LEAST_VALUES:
        return Skipped(label, f"{len(times)} values, {LEAST_VALUES} are needed")
    at, seen = np.array(times), np.array(values)
    order = np.argsort(at, kind="stable")
    at, seen = at[order], seen[order]
    gaps = np.diff(at)
    step_s = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 0.0
    if step_s <= 0:
        return Skipped(label, "its times do not rise")
    place = np.rint((at - at[0]) / step_s).astype(np.int64)
    if place[-1] > MOST_GAP * len(place):
        return Skipped(label, f"{len(place)} values over {place[-1] + 1} steps of {step_s:g} s: mostly gaps")
    sums = np.bincount(place, weights=seen)
    counts = np.bincount(place)
    grid = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return Series(label, float(at[0]), step_s, grid)


def _time(text: str) -> float:
    """Returns a time as Unix seconds: ISO 8601 (UTC where it does not say), or a number of seconds."""
    try:
        return float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
