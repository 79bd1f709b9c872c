"""Time series from files: any folder of CSV, also compressed or inside tar archives."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath

import numpy as np

from app.demo.request_log import time_of
from streams.core.forecast.profile import Floats, Ints

TABLES = (".csv", ".csv.gz")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LEAST_VALUES = 100
MOST_GAP = 10.0
"""A file whose first and last value are this many times farther apart than its values fill is not regular."""
BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, csv.Error)
"""What a file that is cut off, or is not what its name says, is reported with."""


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
    """Returns the series in all files below a folder, by name: first column time, second value.

    Files that are none, or cannot be read, are in the second list, with the reason.
    """
    found: list[Series] = []
    skipped: list[Skipped] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        try:
            for member, content in _contents(path, name):
                one = _series(member, content)
                if isinstance(one, Series):
                    found.append(one)
                else:
                    skipped.append(one)
        except BROKEN as error:
            skipped.append(Skipped(name, f"cannot be read: {error}"))
    return sorted(found, key=lambda one: one.name), skipped


def _contents(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every CSV file that a path is or holds."""
    if name.endswith(TABLES):
        yield name, _opened(name, path.read_bytes())
    elif name.endswith(ARCHIVES):
        with tarfile.open(path) as archive:
            members = (member for member in archive if member.isfile() and member.name.endswith(TABLES))
            for member in sorted(members, key=lambda member: member.name):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield f"{name}/{member.name}", _opened(member.name, stream.read())


def _opened(name: str, content: bytes) -> bytes:
    return gzip.decompress(content) if name.endswith(".gz") else content


def _series(name: str, content: bytes) -> Series | Skipped:
    times, values = [], []
    for row in csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")):
        if len(row) < 2:
            continue
        time = time_of(row[0])
        try:
            value = float(row[1])
        except ValueError:
            continue  # a header, or a value that is missing
        if time is not None and isfinite(value):
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
    steps = (at[-1] - at[0]) / step_s
    if steps > MOST_GAP * len(at):
        return Skipped(label, f"{len(at)} values over {steps:.3g} steps of {step_s:g} s: mostly gaps")
    place: Ints = np.rint((at - at[0]) / step_s).astype(np.int64)
    sums = np.bincount(place, weights=seen)
    counts = np.bincount(place)
    grid = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return Series(label, float(at[0]), step_s, grid)
