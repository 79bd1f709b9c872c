"""Ctrl-C and its like end a run in order, once: what was started is stopped even if they come twice."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""
AGAIN_S = 15.0
"""Seconds within which a further signal says the same as the first: a terminal and `make` both pass one
on, people press twice, and a second one in the middle of the stopping would leave half of it undone."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt inside `with` at SIGINT, SIGTERM or SIGHUP, not again for `AGAIN_S`.

    Only the main thread hears signals; in another this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard_at = -AGAIN_S

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal heard_at
        now = time.monotonic()
        if now - heard_at >= AGAIN_S:
            heard_at = now
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
