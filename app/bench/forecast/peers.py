"""Other people's forecasters, each in an environment of its own, on origins chosen evenly."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bench.forecast.ours import HORIZON, Run
from app.bench.forecast.scores import Model, Place, model_of
from app.bench.peers import Environment, Missing, python_environment
from streams.core.forecast.profile import DAY_S, Floats, Ints

CONTEXT = 720
"""Values that a fit may use which is made at every origin: half a day of minutes."""
ONE_THREAD = ("env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
"""A peer's CPU is that of one thread: several would wait for one another busily."""
MODELS = {"statsforecast": ("AutoARIMA", "AutoETS", "AutoTheta"), "lightgbm": ("LightGBM",)}
"""Folder of bench/peers/ -> the models in it."""
LOG_LINES = 3


@dataclass(frozen=True)
class Sample:
    """How much of every series peers are asked for."""

    origins: int
    """Of each series, for models that are refitted at every origin."""
    days: int
    """Of each series, for models that are refitted daily: all origins of these days."""


def run_peers(runs: Sequence[Run], sample: Sample, jobs: int) -> tuple[list[Model], dict[str, str]]:
    """Returns the models, and which are missing, with the reason."""
    origins = {
        "statsforecast": _chosen(runs, sample.origins, by_day=False),
        "lightgbm": _chosen(runs, sample.days, by_day=True),
    }
    models: list[Model] = []
    missing: dict[str, str] = {}
    for peer, names in MODELS.items():
        home = python_environment(peer, "forecast.py")
        found = home if isinstance(home, Missing) else _run(home, runs, origins[peer], jobs)
        if isinstance(found, Missing):
            missing |= dict.fromkeys(names, found.reason)
            continue
        models += [_model(name, runs, origins[peer], found) for name in names]
    return models, missing


def _chosen(runs: Sequence[Run], count: int, by_day: bool) -> dict[Place, Ints]:
    """Returns origins of each series: so many of them, or all those of so many days, evenly spread."""
    found: dict[Place, Ints] = {}
    for number, run in enumerate(runs):
        for column in range(len(run.group.names)):
            rows = run.origins(column)
            if not by_day:
                found[number, column] = _evenly(rows, count)
            else:
                days = (run.group.first + rows) // max(1, round(DAY_S / run.group.step_s))
                found[number, column] = rows[np.isin(days, _evenly(np.unique(days), count))]
    return {place: rows for place, rows in found.items() if len(rows)}


def _evenly(rows: Ints, count: int) -> Ints:
    """Returns so many of the rows, the first and the last among them; all where there are fewer."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))
    return rows[places]


def _run(
    home: Environment, runs: Sequence[Run], origins: Mapping[Place, Ints], jobs: int
) -> dict[str, dict[Place, Floats]] | Missing:
    """Returns what the peer wrote, its series divided over so many processes: name -> series -> array."""
    places = list(origins)
    parts = [part for part in (places[start::jobs] for start in range(jobs)) if part]
    found: dict[str, dict[Place, Floats]] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        files = [Path(folder) / f"{number}.npz" for number in range(len(parts))]
        for path, part in zip(files, parts, strict=True):
            _write(path, runs, origins, part)
        for path, part, failed in zip(
            files, parts, pool.map(lambda path: _one(home, path), files), strict=True
        ):
            if failed:
                return Missing(failed)
            with np.load(_answer(path)) as arrays:
                for name in arrays.files:
                    what, _, number = name.rpartition(".")
                    if what.endswith(".paths"):
                        found.setdefault(what, {})[part[int(number)]] = arrays[name]
                    else:
                        found.setdefault(name, {}).update(zip(part, arrays[name], strict=True))
    return found


def _write(path: Path, runs: Sequence[Run], origins: Mapping[Place, Ints], part: Sequence[Place]) -> None:
    given: dict[str, Floats | Ints] = {"horizon": np.array(HORIZON), "context": np.array(CONTEXT)}
    for number, (of, column) in enumerate(part):
        group = runs[of].group
        given[f"values.{number}"] = group.values[:, column]
        given[f"origins.{number}"] = origins[of, column]
        given[f"step.{number}"] = np.array([group.first, group.step_s])
    with path.open("wb") as file:
        np.savez(file, **given)  # type: ignore[arg-type]  # its stub takes one of them for allow_pickle


def _answer(path: Path) -> Path:
    return path.with_suffix(".out.npz")


def _one(home: Environment, path: Path) -> str:
    """Returns what the process said last where it failed, else ""."""
    command = [*ONE_THREAD, *home.command, str(path), str(_answer(path))]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not ran.returncode:
        return ""
    return " / ".join((ran.stdout + ran.stderr).strip().splitlines()[-LOG_LINES:]) or f"exit {ran.returncode}"


def _model(
    name: str, runs: Sequence[Run], origins: Mapping[Place, Ints], found: Mapping[str, Mapping[Place, Floats]]
) -> Model:
    cpu_s = sum(float(seconds) for seconds in found[f"{name}.cpu"].values())
    return model_of(
        name, runs, origins, found[f"{name}.paths"], cpu_s / sum(map(len, origins.values())), refitted=True
    )
