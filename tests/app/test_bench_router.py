"""The router's benchmark on a real broker: small, but every step of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.bench import latency
from app.bench.latency import latency_floor, measure_latency
from app.bench.running import environments
from app.bench.stage import NAME, Job, Stage
from app.bench.variants import chosen
from app.local_kafka import LocalKafka

pytestmark = pytest.mark.broker
BARE = chosen("bare-eos")[0]


@pytest.fixture
def stage(kafka: LocalKafka, tmp_path: Path) -> Stage:
    """A stage on the shared broker, whose topics' names no other test has."""
    return Stage(kafka.bootstrap, tmp_path)


@pytest.mark.slow
def test_bench_router_reports_a_router_and_a_bare_loop(tmp_path: Path) -> None:
    """Both pass the gate, both have figures, and the targets that rest on them are judged."""
    rows = tmp_path / "rows.json"
    command = [*(sys.executable, "-m", "app.cli", "bench", "router", "--sizes", "220"), "--no-latency"]
    options = ["--messages", "150000", "--variants", "bare-eos,foreshard-eos", "--runs", "1"]
    ran = subprocess.run(
        [*command, *options, "--json", str(rows)], capture_output=True, text=True, check=False, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(rows.read_text())
    assert [row["name"] for row in report["rows"]] == ["bare-eos", "foreshard-eos"]
    assert all(row["requests_per_s"] > 1000 and row["cpu_us_per_request"] > 0.5 for row in report["rows"])
    (cpu,) = [entry for entry in report["targets"] if entry["measure"] == "CPU / bare loop, exactly-once"]
    assert cpu["measured"] > 0
    assert report["command"].startswith("foreshard bench router --sizes 220")
    assert report["missing"] == report["failed"] == {}


@pytest.mark.slow
def test_latency_is_measured_at_each_rate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short phases of one process: percentiles rise, and most of what was sent is counted."""
    monkeypatch.setattr(latency, "MEASURE_S", 2.0)
    monkeypatch.setattr(latency, "SETTLE_S", 1.0)
    job = Job(BARE, f"{NAME}.live", f"{NAME}-live")
    home = environments({"bare"})["bare"]
    assert not hasattr(home, "reason")
    phases = measure_latency(stage, job, home, [500.0, 1000.0])  # type: ignore[arg-type]
    assert [round(phase.requests_per_s, -2) for phase in phases] == [500, 1000]
    for phase, sent in zip(phases, (1000, 2000), strict=True):
        assert 0 < phase.latency_ms["p50"] <= phase.latency_ms["p99"] <= phase.latency_ms["p999"]
        assert 0.8 * sent < phase.counted < 1.2 * sent


@pytest.mark.slow
def test_the_floor_is_measured_without_a_router(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its consumer reads what the producer wrote."""
    monkeypatch.setattr(latency, "MEASURE_S", 1.0)
    monkeypatch.setattr(latency, "SETTLE_S", 1.0)
    assert 0 < latency_floor(stage)["p50"] < 10_000


def test_another_runs_topics_are_deleted(stage: Stage) -> None:
    """A second stage on the same broker begins with empty topics."""
    stage.write_requests(f"{NAME}.left", 220, 100)
    again = Stage(stage.bootstrap, stage.folder)
    assert f"{NAME}.left" not in again.admin.list_topics(timeout=10).topics
