"""Carries out the rescue that the core has begun: one task in a thread of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial

from schemas.records import Rescuing
from streams import metrics
from streams.balancer_intake import Put
from streams.balancer_takeover import Settings
from streams.core.rounds import Rounds
from streams.rescue import PATIENCE_S, Errand, RescueTask, writer

HUNG_S = PATIENCE_S + 30.0
"""Wall seconds after which a rescue that does not even give up hangs in a call that never returns."""


@dataclass(frozen=True)
class RescueEnded:
    """A rescue is over; `why` it stopped early, or empty."""

    term: int
    rescue: Rescuing
    why: str


class Rescues:
    """At most one task at a time, for the term in which it began."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._task: RescueTask | None = None

    def attend(self, rounds: Rounds, term: int, put: Put) -> None:
        """Starts the rescue that the core has under way, or tells the core how far it is.

        Its end is put to an agent as RescueEnded.
        """
        rescue, snapshot = rounds.rescue, rounds.snapshot
        if rescue is None or snapshot is None:
            return
        if self._task is None:
            cluster = rounds.mapped()[rescue.cluster]
            errand = Errand(cluster, snapshot, self._settings.rules, self._settings.prefix)
            task = self._task = RescueTask(self._settings.kafka, errand)
            run = partial(_run, task, rescue, term, put)
            threading.Thread(target=run, name="rescue", daemon=True).start()
        _tell(rounds, self._task)

    def ended(self, rounds: Rounds) -> None:
        """Takes leave of the task that has ended, after its last word to the core."""
        if self._task is not None:
            _tell(rounds, self._task)
        self._task = None

    @property
    def hung(self) -> bool:
        """Returns whether the task will never end by itself."""
        return self._task is not None and self._task.silent_s > HUNG_S

    def give_up(self) -> None:
        """Fences the task that hangs, so that it writes nothing if it comes back. Waits for the broker."""
        self.stop()
        writer(self._settings.kafka, self._settings.prefix).take_over()

    def stop(self) -> None:
        """Ends the task after the batch in hand, without waiting."""
        if self._task is not None:
            self._task.stop()
        self._task = None


def _tell(rounds: Rounds, task: RescueTask) -> None:
    """Tells the core how much the task has moved, and counts what is new of it."""
    requests = task.requests
    if rounds.rescue is not None:
        metrics.RESCUED.labels(cluster=rounds.rescue.cluster).inc(requests - rounds.rescued)
    rounds.on_rescued(requests, task.letters)


def _run(task: RescueTask, rescue: Rescuing, term: int, put: Put) -> None:
    """Runs a rescue and hands over its end, whatever it is: rounds wait for it, unless it was stopped."""
    why = ""
    try:
        task.run()
    except Exception as error:  # noqa: BLE001 - the reason goes to the operator, not into a dead thread
        why = str(error) or type(error).__name__
    if not task.stopped:
        put(RescueEnded(term, rescue, why))
