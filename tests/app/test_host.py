"""The hosted Faust app: its web, its end, and what a thread or an agent that fails does to it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.errors import ForeshardError, ProtocolError

ROOT = Path(__file__).parents[2]


@contextmanager
def hosted(mode: str, port: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A hosted app in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.app.host_process", mode, str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Returns the address that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def get(url: str) -> tuple[int, str]:
    """Returns status and body."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_metrics_and_an_agent_fed_from_a_thread() -> None:
    """The agent gets every value; /readyz turns from 503 to 200; /metrics is Prometheus text."""
    with hosted("serve") as process:
        url = address(process)
        assert get(url + "/healthz") == (200, '{"ok": true, "reason": "ok"}')
        deadline = time.monotonic() + 10
        while get(url + "/readyz")[0] != 200 and time.monotonic() < deadline:
            pass
        assert json.loads(get(url + "/readyz")[1]) == {"ok": True, "reason": "100 of 100"}
        assert "python_info" in get(url + "/metrics")[1]
        assert get(url + "/")[0] == 404
        process.terminate()
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "4950\n", "")


def test_sigterm_ends_it_in_time_with_an_event_stream_open() -> None:
    """Faust alone would wait over a minute for the stream's end."""
    with (
        hosted("serve") as process,
        urllib.request.urlopen(address(process) + "/endless", timeout=5) as stream,
    ):
        assert stream.readline() == b"tick\n"
        started = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("mode", "status", "text"),
    [
        ("thread-dies", ProtocolError.exit_status, "router-failed: the thread died\n"),
        ("agent-raises", 1, "ValueError: fifty\n"),
    ],
)
def test_a_failure_in_a_thread_or_agent_ends_the_process(mode: str, status: int, text: str) -> None:
    """Faust itself would not notice the thread, and would restart the agent at the next value."""
    with hosted(mode) as process:
        _, err = process.communicate(timeout=20)
        assert process.returncode == status
        assert text in err


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    """Before anything is started that needs it."""
    with hosted("serve") as first:
        port = int(address(first).rsplit(":", 1)[1])
        with hosted("serve", port) as second:
            _, err = second.communicate(timeout=20)
            assert second.returncode == ForeshardError.exit_status
            assert err.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
            assert err.endswith("choose another port\n")
