"""The demo, short: real broker, all processes, both passes; every request once, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.demo.run import run_demo
from app.demo.traffic import DEFAULT_SEED
from app.local_kafka import LocalKafka

SECONDS = 20


@pytest.mark.broker
@pytest.mark.slow
def test_a_short_demo_loses_and_repeats_nothing(
    kafka: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both passes route every request exactly once; no process of the demo is left."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka.bootstrap)
    file = tmp_path / "figures.json"
    status = run_demo(
        seconds=SECONDS,
        json_path=file,
        trace=None,
        columns=None,
        window_from=None,
        keep=False,
        time_scale=10.0,
        seed=DEFAULT_SEED,
    )
    found = json.loads(file.read_text())
    assert status == 0
    for mode in ("auto", "observe"):
        figures = found["passes"][mode]
        assert figures["lost"] == figures["repeated"] == figures["not_delivered"] == 0
        assert figures["routed"] == figures["requests"] == found["requests"] > 34_000
        assert figures["dead_letters"] == 0
        assert figures["rounds"] > 10
    assert found["passes"]["observe"]["plans"] == 0
    assert found["history_days"] == 3
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "app.demo.backend" in line or "app.cli" in line]


@pytest.mark.broker
@pytest.mark.slow
def test_an_interrupted_demo_leaves_no_process(kafka: LocalKafka) -> None:
    """SIGTERM in the middle, and again while it stops: everything that was started ends."""
    script = (
        "import sys; from app.demo.run import run_demo; "
        "sys.exit(run_demo(seconds=60, json_path=None, trace=None, columns=None, window_from=None, "
        "keep=False, time_scale=10.0, seed=1))"
    )
    demo = psutil.Popen(
        [sys.executable, "-c", script],
        env={"KAFKA_BOOTSTRAP": kafka.bootstrap, "PYTHONPATH": ":".join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
    )
    started: list[psutil.Process] = []
    assert demo.stdout is not None
    for line in demo.stdout:
        if b"ready" in line and not started:
            started = demo.children(recursive=True)
            demo.terminate()
        if b"interrupted" in line:
            demo.terminate()
    assert demo.wait(60) == 130
    assert len(started) >= 16
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive
