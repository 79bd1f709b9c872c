"""Child processes that do not outlive their parent, and several routers under one of them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

LOOK_S = 0.1
"""Seconds between two looks whether a child has ended."""

GRACE_S = 10.0
"""Seconds that a child has to end by itself: routers promise 5."""


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Returns what asks the kernel, in a new child, for this signal when its parent dies (Linux only)."""

    def ask() -> None:
        if _PRCTL is not None:
            _PRCTL(PR_SET_PDEATHSIG, number, 0, 0, 0)

    return ask


def run_together(commands: Sequence[Sequence[str]]) -> int:
    """Runs the commands until one ends or we are told to; ends the others; returns the first bad status.

    One that ends takes the others with it: whoever started us sees it, and starts us again.
    """
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.append(1))
    children = [
        # A terminal sends its Ctrl-C to everybody: in a session of their own children hear of it from us.
        subprocess.Popen(command, preexec_fn=die_with_parent(signal.SIGTERM), start_new_session=True)  # noqa: PLW1509 - nothing but prctl
        for command in commands
    ]
    while not told and all(child.poll() is None for child in children):
        time.sleep(LOOK_S)
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + GRACE_S
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        if child.poll() is None:
            child.kill()
            child.wait()
    return next((child.returncode for child in children if child.returncode), 0)
