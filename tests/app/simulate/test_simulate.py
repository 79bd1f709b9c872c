"""`foreshard simulate`: from the command line to figures, charts and what-if."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main

QUICK = ["--hours", "0.5", "--warm-days", "0.05", "--clusters", "3"]


def simulate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """16 shards and a planner that never sheds below 95 %."""
    path = tmp_path / "foreshard.toml"
    path.write_text("[sharding]\nshards = 16\n\n[balancer]\nfloor = 0.95\nceil = 0.97\nretfloor = 0.9\n")
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two hours of three series; the third triples for the last forty minutes."""
    lines = ["time,series,requests"]
    for minute in range(120):
        for name, rate in (("a", 12_000), ("b", 9_000), ("c", 3_000 if minute < 80 else 9_000)):
            lines.append(f"{1_000_020 + 60 * minute},{name},{rate}")
    path = tmp_path / "export.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_scenario_is_simulated_and_shown(config: Path) -> None:
    """What was simulated in words, then one line per policy."""
    shown = simulate("-c", config, "--scenario", "type-campaigns", *QUICK)
    assert shown.exit_code == 0, shown.output
    for word in ("0.5 h of type-campaigns", "16 shards, 3 clusters", "static", "reactive", "predictive"):
        assert word in shown.output


def test_another_configuration_is_another_result(config: Path, trace: Path) -> None:
    """What-if: settings as shipped move more of the same trace than lax ones; a seed repeats."""

    def moves(path: Path) -> list[float]:
        shown = simulate("-c", path, "--trace", trace, "--clusters", "3", "--policies", "reactive", "--json")
        assert shown.exit_code == 0, shown.output
        rows = json.loads(shown.stdout)["rows"]
        return [row["moves_per_h"] for row in rows]

    shipped = config.with_name("shipped.toml")
    shipped.write_text("[sharding]\nshards = 16\n")
    assert moves(shipped) == moves(shipped)
    assert moves(shipped)[0] > moves(config)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policies", "psychic"], "no policy psychic"),
        (["--scenario", "doomsday"], "no scenario doomsday"),
        (["--round-s", "7"], "rounds every 7.0 s"),
        (["--clusters", "a=500"], "capacities are for a trace"),
        (["--clusters", "none"], "--clusters takes a number"),
        (["--clusters", "0"], "0 is not above 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: list[str], said: str) -> None:
    """Before anything runs, with what there is instead."""
    shown = simulate(*arguments)
    assert shown.exit_code in (2, 3)
    assert said in shown.output


def test_charts_are_drawn(config: Path, trace: Path, tmp_path: Path) -> None:
    """A picture, and a page with figures, chart and moves in one file."""
    pytest.importorskip("matplotlib")
    png, page = tmp_path / "load.png", tmp_path / "report.html"
    shown = simulate("-c", config, "--trace", trace, "--clusters", "3", "--png", png, "--html", page)
    assert shown.exit_code == 0, shown.output
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    for word in ("<svg", "violations_pct", "predictive", "cost units/s"):
        assert word in text
    assert "http://" not in text.partition("<svg")[0], "nothing is loaded from elsewhere"
