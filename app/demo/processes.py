"""The demo's child processes: each with a log file, none left behind, only our own ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.children import die_with_parent
from schemas.errors import ForeshardError

GRACE_S = 10.0
"""Wall seconds that a process has to end by itself: routers promise 5."""
TAIL_LINES = 15

ENVIRONMENT = {
    "PATH": os.defpath,
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    "PYTHONUTF8": "1",
    "PYTHONUNBUFFERED": "1",
}
"""All that children get: an operator's own FORESHARD_... variables would lead them to his brokers."""


class ProcessEndedError(ForeshardError):
    """A process of the demo ended before its time."""

    code = "demo-process-ended"


@dataclass
class Child:
    """One running process and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"  | {line}" for line in lines)


class Children:
    """Starts and stops processes; as a context it stops all that still run when it ends.

    Each child leads a process group of its own, so that Ctrl-C reaches only the demo, which then
    stops them in order; should the demo be killed, the kernel kills them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(reversed(list(self._children)))

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """Starts `python -m module arguments`; its output goes to NAME.log."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=ENVIRONMENT,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one call, looked up before the fork
            )
        child = Child(name, process, log)
        self._children[name] = child
        return child

    def check(self) -> None:
        """Raises ProcessEndedError when a process has ended that was not stopped."""
        for child in self._children.values():
            status = child.process.poll()
            if status not in (None, 0):
                raise ProcessEndedError(
                    f"{child.name} ended with status {status}; its log {child.log} ends:\n{child.tail()}"
                )

    def stop(self, names: Iterable[str]) -> None:
        """Asks the named processes to end, all at once, and kills what has not after `GRACE_S`."""
        ending = [self._children.pop(name) for name in list(names) if name in self._children]
        for child in ending:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for child in ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
