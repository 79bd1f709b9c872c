"""The processes of a run: started, killed, stopped, continued and started again, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.demo.processes import ENVIRONMENT

GRACE_S = 10.0
"""Wall seconds that a process has to end by itself: routers promise 5."""
TAIL_LINES = 5
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

State = Literal["up", "frozen", "down", "ended"]
"""down: killed, to be started again; ended: it is over for this one."""


def _die_with_parent() -> None:
    """In the new child: ask the kernel for SIGKILL when the run dies (Linux; elsewhere nothing)."""
    if _PRCTL is not None:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass
class Member:
    """One place in the crew; the process in it may be a later one of several."""

    name: str
    role: str
    command: Sequence[str]
    """Module and arguments."""
    process: subprocess.Popen[bytes]
    log: Path
    incarnation: int = 1
    state: State = "up"

    def last_words(self) -> str:
        """Returns the last lines that the process wrote."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class Crew:
    """All processes of a run. To be used by one thread that outlives them: they die with it.

    Each leads a process group of its own, so that Ctrl-C reaches only the run, which then ends them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            if member.process.poll() is None:
                member.process.kill()  # ends a stopped process too
        for member in self.members.values():
            member.process.wait()

    def start(self, name: str, role: str, *command: str) -> Member:
        """Starts `python -m command`; its output goes to NAME.1.log, after a restart to NAME.2.log."""
        process, log = self._spawn(name, 1, command)
        self.members[name] = Member(name, role, command, process, log)
        return self.members[name]

    def of(self, role: str, *states: State) -> list[Member]:
        """Returns the members of a role in one of the states."""
        return [member for member in self.members.values() if member.role == role and member.state in states]

    def kill(self, member: Member) -> None:
        """SIGKILL; returns when it is gone."""
        member.process.kill()
        member.process.wait()
        member.state = "down"

    def restart(self, member: Member) -> None:
        """Starts the next process of a member that is down."""
        member.incarnation += 1
        member.process, member.log = self._spawn(member.name, member.incarnation, member.command)
        member.state = "up"

    def freeze(self, member: Member) -> None:
        """SIGSTOP."""
        member.process.send_signal(signal.SIGSTOP)
        member.state = "frozen"

    def thaw(self, member: Member) -> None:
        """SIGCONT."""
        member.process.send_signal(signal.SIGCONT)
        member.state = "up"

    def let_go(self, member: Member) -> None:
        """Asks a member to end, and returns at once; it is not started again by itself."""
        member.state = "ended"
        if member.process.poll() is None:
            member.process.terminate()
            member.process.send_signal(signal.SIGCONT)

    def dismiss(self, members: Sequence[Member]) -> None:
        """Asks members to end, all at once; kills those that have not after GRACE_S."""
        for member in members:
            self.let_go(member)
        deadline = time.monotonic() + GRACE_S
        for member in members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(max(0.0, deadline - time.monotonic()))
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()

    def fallen(self) -> Iterator[Member]:
        """Yields the members that should run and have ended by themselves; they are down from then on."""
        for member in list(self.members.values()):
            if member.state in ("up", "frozen") and member.process.poll() is not None:
                member.state = "down"
                yield member

    def _spawn(
        self, name: str, incarnation: int, command: Sequence[str]
    ) -> tuple[subprocess.Popen[bytes], Path]:
        log = self._folder / f"{name}.{incarnation}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                # What a killed process leaves in its temporary folder goes with the run's.
                env=dict(ENVIRONMENT) | {"TMPDIR": str(self._folder)},
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call, looked up before the fork
            )
        return process, log
