"""A new leader learns the stored history, within about a minute, and says how far it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from streams import metrics
from streams.clock import Clock
from streams.core.rounds import Rounds
from streams.core.steps import STEP_S

log = logging.getLogger(__name__)

LEARN_S = 60.0
"""Wall seconds that the history may take: meanwhile nobody leads. 28 days of 4 series take about two
minutes; the usual day, of which a week is most, is known after half of them."""
AT_ONCE = 50
"""Steps learned between two looks at the loop: about 50 ms with four series."""
MEASURED = 200
"""Steps after which it is known how long one takes."""
SAY_S = 5.0
"""Wall seconds between two lines in the log."""


async def learn_history(rounds: Rounds, clock: Clock, ours: Callable[[], bool]) -> None:
    """Learns all closed steps while `ours()`; the oldest are passed over where all would take too long."""
    started = said = time.monotonic()
    done, bounded = 0, False
    while ours():
        learned = rounds.learn(clock.now(), AT_ONCE)
        done += learned
        metrics.STEPS_LEARNED.set(rounds.outlook.learned)
        if learned < AT_ONCE:
            return
        await asyncio.sleep(0)
        now = time.monotonic()
        waiting = rounds.steps.waiting(clock.now())
        if not bounded and done >= MEASURED:
            bounded = True
            fitting = int(max(LEARN_S - (now - started), 0.0) * done / (now - started))
            if waiting > fitting:
                rounds.steps.skip(waiting - fitting)
                days = (waiting - fitting) * STEP_S / 86_400
                log.warning("the oldest %.1f days of history are passed over: all would take too long", days)
                waiting = fitting
        if now - said >= SAY_S:
            said = now
            log.info("learned %d steps of stored history, %d are left", done, waiting)
