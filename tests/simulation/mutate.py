"""Plants one mistake in a copy of the sources and lets a floor look for it.

`python -m tests.simulation.mutate` tries every floor on every mistake and prints the table of
docs/handoff.md; it takes some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.floors import FLOORS
from tests.simulation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("schemas", "streams", "tests/core", "tests/simulation")
LIMIT_S = 600.0
"""Longest run of a floor; the machine may be busy."""


@dataclass(frozen=True)
class Found:
    """What a floor saw; `why` is empty where it saw nothing."""

    why: str
    seconds: float


class StaleMutationError(Exception):
    """A mistake cannot be planted: the text that it changes is not in the source just once."""


def plant(mutation: Mutation, folder: Path) -> None:
    """Copies the sources into a folder, with the mistake."""
    text = (ROOT / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        found = text.count(mutation.old)
        raise StaleMutationError(f"{mutation.name}: {found} times in {mutation.file}: {mutation.old!r}")
    for package in COPIED:
        shutil.copytree(ROOT / package, folder / package, copy_function=_link)
    (folder / "tests" / "__init__.py").touch()
    changed = folder / mutation.file
    changed.unlink()
    changed.write_text(text.replace(mutation.old, mutation.new))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def look(mutation: Mutation, floor: str) -> Found:
    """Returns what a floor sees of a mistake."""
    with tempfile.TemporaryDirectory() as name:
        plant(mutation, Path(name))
        started = time.monotonic()
        try:
            ended = subprocess.run(
                [sys.executable, "-B", "-m", "tests.simulation.floors", floor],
                cwd=name,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Found("", LIMIT_S)
        lines = ended.stderr.strip().splitlines() or ["?"]
        return Found(lines[-1] if ended.returncode else "", time.monotonic() - started)


def main() -> None:
    """Prints, for every mistake, which floors see it, and after how many seconds; reasons go to stderr."""
    sys.stdout.write(f"| mistake | {' | '.join(FLOORS)} |\n|---|{'---|' * len(FLOORS)}\n")
    with ThreadPoolExecutor(2) as pool:
        for mutation in MUTATIONS:
            answers = list(pool.map(lambda floor, one=mutation: look(one, floor), FLOORS))
            cells = [f"{answer.seconds:.0f} s" if answer.why else "-" for answer in answers]
            sys.stdout.write(f"| {mutation.name} | {' | '.join(cells)} |\n")
            for floor, answer in zip(FLOORS, answers, strict=True):
                sys.stderr.write(f"{mutation.name}, {floor}: {answer.why[:200]}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
