"""The floors of the handoff's tests, each as one call that raises where the promise is broken.

`python -m tests.simulation.floors FLOOR` exits with 1 then, after the reason. Seeds are fixed.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable

UNIT = ("handoff", "handoffs", "handoff_claims", "fences", "held", "handoff_notes", "routing")
"""Modules of tests/core, without `test_`."""
EPISODES = 150
"""The most of each kind; most mistakes show in the first few."""
EXAMPLES = 200


def unit() -> None:
    """Runs the directed tests of the machine."""
    from hypothesis import settings

    settings.register_profile("floors", derandomize=True, deadline=None, database=None)
    settings.load_profile("floors")
    for name in UNIT:
        module = importlib.import_module(f"tests.core.test_{name}")
        for test in [value for key, value in vars(module).items() if key.startswith("test_")]:
            for arguments in _arguments(test):
                test(**arguments)


def _arguments(test: Callable[..., None]) -> list[dict[str, object]]:
    """Returns the arguments of each call that pytest would make of a parametrized test."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    choices = []
    for mark in marks:
        names = mark.args[0] if isinstance(mark.args[0], tuple) else (mark.args[0],)
        rows = [row if len(names) > 1 else (row,) for row in mark.args[1]]
        choices.append([dict(zip(names, row, strict=True)) for row in rows])
    return [dict(pair for part in parts for pair in part.items()) for parts in itertools.product(*choices)]


def simulation() -> None:
    """Plays stories until one breaks the promise."""
    from tests.simulation.handoff_story import episode

    for seed in range(EPISODES):
        for rule_kept in (True, False):
            episode(seed, rule_kept=rule_kept)


def stateful() -> None:
    """Runs the stateful test."""
    from hypothesis import Phase, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.core.test_handoff_stateful import HandoffMachine

    few = settings(
        max_examples=EXAMPLES,
        stateful_step_count=50,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(HandoffMachine, settings=few)


FLOORS: dict[str, Callable[[], None]] = {"unit": unit, "simulation": simulation, "stateful": stateful}


def main() -> None:
    """Runs the floor that the first argument names."""
    try:
        FLOORS[sys.argv[1]]()
    except Exception as error:  # noqa: BLE001 - whatever it is, the floor has seen something
        sys.exit(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        )


if __name__ == "__main__":
    main()
