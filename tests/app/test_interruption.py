"""A run that is interrupted stops what it started, however often it is told."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

CHILD = """
import signal
from app.interruption import interruptible

with interruptible():
    try:
        print("running", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("stopping", flush=True)
        input()
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_break_the_stopping(first: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "running\n"
        child.send_signal(first)
        assert child.stdout.readline() == "stopping\n"
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.read() == "stopped\n"
        assert child.wait(10) == 0
