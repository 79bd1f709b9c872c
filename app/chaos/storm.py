"""Lets the scheduled failures happen, and brings back what failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from app.chaos.crew import Crew, Member
from app.chaos.failures import Failure
from app.local_kafka import LocalKafka

RESTART_S = 1.0
"""Seconds until a process that ended by itself is started again, as a supervisor would."""

StartRouter = Callable[[int], object]
"""Starts the router of this index for the first time."""


@dataclass(frozen=True)
class Happened:
    """What was done to whom, seconds after the first request."""

    at_s: float
    what: str
    whom: str
    detail: str = ""


@dataclass
class Storm:
    """Runs the schedule; `tick` is called many times a second from the thread that owns the crew."""

    crew: Crew
    failures: Sequence[Failure]
    kafka: LocalKafka
    start_router: StartRouter
    begin: float
    """Monotonic time of the first request."""
    timeline: list[Happened] = field(default_factory=list)
    kills: int = 0
    """SIGKILLs and SIGSTOPs."""
    _left: list[Failure] = field(init=False)
    _returns: list[tuple[float, Member, int]] = field(default_factory=list)
    """(due, member, incarnation that failed)"""
    _broker: threading.Thread | None = None
    _broker_failed: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = list(self.failures)

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        self._pick_up(now)
        for due, member, incarnation in [item for item in self._returns if item[0] <= now]:
            self._returns.remove((due, member, incarnation))
            self._bring_back(member, incarnation)
        while self._left and self._left[0].at_s <= now - self.begin:
            self._happen(self._left.pop(0), now)
        if self._broker_failed:
            raise self._broker_failed[0]

    def calm(self) -> None:
        """Nothing fails any more: everything is brought back at once."""
        self._left = []
        if self._broker is not None:
            self._broker.join()
        for _, member, incarnation in self._returns:
            self._bring_back(member, incarnation)
        self._returns = []

    def rows(self) -> list[dict[str, Any]]:
        """Returns the timeline as JSON has it."""
        return [asdict(item) for item in self.timeline]

    def _note(self, what: str, whom: str, detail: str = "") -> None:
        self.timeline.append(Happened(round(time.monotonic() - self.begin, 3), what, whom, detail))

    def _pick_up(self, now: float) -> None:
        """Finds what ended by itself, and lets it come back."""
        for member in self.crew.fallen():
            words = f"status {member.process.returncode}: {member.last_words()}"
            self._note("ended by itself", member.name, words)
            self._returns.append((now + RESTART_S, member, member.incarnation))

    def _bring_back(self, member: Member, incarnation: int) -> None:
        if member.incarnation != incarnation:
            return
        if member.state == "down":
            self.crew.restart(member)
            self._note("start", member.name)
        elif member.state == "frozen":
            self.crew.thaw(member)
            self._note("continue", member.name)

    def _happen(self, failure: Failure, now: float) -> None:
        if failure.what == "routers":
            self._scale(failure.count)
        elif failure.role == "broker":
            self._kill_broker(failure.for_s)
        else:
            self._hit(failure, now)

    def _hit(self, failure: Failure, now: float) -> None:
        candidates = self.crew.of(failure.role, "up")
        if not candidates:
            self._note(f"no {failure.what}", failure.role, "none is up")
            return
        member = candidates[int(failure.pick * len(candidates))]
        if failure.what == "kill":
            self.crew.kill(member)
        else:
            self.crew.freeze(member)
        self.kills += 1
        self._note(failure.what, member.name, f"for {failure.for_s:.1f} s")
        self._returns.append((now + failure.for_s, member, member.incarnation))

    def _scale(self, count: int) -> None:
        """Starts or ends routers until `count` are wanted; one that is dead counts, it will be back."""
        self._note("routers", "router", str(count))
        wanted = self.crew.of("router", "up", "frozen", "down")
        for member in wanted[count:]:
            self.crew.let_go(member)
        for index in range(len(wanted), count):
            self.start_router(index)

    def _kill_broker(self, for_s: float) -> None:
        """Kills the broker and starts it again on the same data, in a thread: other things fail meanwhile."""
        if self.kafka.java is None:
            self._note("no kill", "broker", f"a broker of kind {self.kafka.kind} is not ours to kill")
            return
        if self._broker is not None and self._broker.is_alive():
            self._note("no kill", "broker", "it is not back yet")
            return

        def kill_and_restart() -> None:
            try:
                self.kafka.kill()
                time.sleep(for_s)
                self.kafka.restart()
                self._note("start", "broker")
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
                self._broker_failed.append(error)

        self.kills += 1
        self._note("kill", "broker", f"for {for_s:.1f} s")
        self._broker = threading.Thread(target=kill_and_restart, name="broker", daemon=True)
        self._broker.start()
