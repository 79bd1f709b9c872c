"""The broker's keeper: a small parent process of its own, so that a local broker never outlives its user.

Run as a script by `app.local_kafka`, with the standard library alone:

    python -I -S local_kafka_guard.py OWNER_PID REMOVE_DIR|- LOG_FILE COMMAND...

It starts COMMAND, prints its process id as one line, and ends with it. When the owner is gone by whatever way
(SIGKILL included), it ends the command and removes REMOVE_DIR. The kernel's parent-death signal alone would
not do: it is bound to the *thread* that started the child, and a thread may end long before its process. Here
it is set by the guard, which has one thread only, for the case that the guard itself is killed.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

OWNER_CHECK_S = 0.25  # how late the owner's death may be noticed; a check costs a microsecond
GRACE_S = 10.0  # what a broker whose data are kept may take to close its files
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_guard() -> None:
    """In the new child: ask the kernel for SIGKILL when the guard dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end(child: "subprocess.Popen[bytes]", *, at_once: bool) -> None:
    """End the child: at once when its data go too, else with SIGTERM first."""
    if not at_once:
        child.terminate()
        try:
            child.wait(GRACE_S)
            return
        except subprocess.TimeoutExpired:
            pass
    child.kill()
    child.wait()


def main(arguments: list[str]) -> int:
    """The command's exit code, or 0 when it was ended because the owner is gone."""
    owner_pid, remove_dir, log_file, *command = arguments
    with Path(log_file).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_guard,  # noqa: PLW1509 - safe: this process has one thread
        )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    while os.getppid() == int(owner_pid):
        try:
            return child.wait(OWNER_CHECK_S)
        except subprocess.TimeoutExpired:
            continue
    end(child, at_once=remove_dir != "-")
    if remove_dir != "-":
        shutil.rmtree(remove_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle: it stops the broker last
    sys.exit(main(sys.argv[1:]))
