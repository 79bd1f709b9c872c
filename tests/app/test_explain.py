"""`foreshard key explain`: what rules make of sample requests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from schemas.errors import BadRequest

CONFIGURATION = """
[[request_types]]
name = "update"
key = ["json:user"]
forecast_by = "json:tenant"
[[request_types]]
name = "login"
key = ["header:session"]
[[request_types]]
name = "*"
key = ["key"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "foreshard.toml").write_text(CONFIGURATION)
    return tmp_path


def explain(folder: Path, lines: Iterable[object], *options: str) -> Result:
    """Runs the verb on these values."""
    sample = folder / "sample.jsonl"
    sample.write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    config = str(folder / "foreshard.toml")
    return CliRunner().invoke(main, ["key", "explain", str(sample), "-c", config, *options])


def updates(tenants: int, each: int = 1) -> list[dict[str, Any]]:
    return [
        {"type": "update", "user": number % 10, "tenant": f"t{number % tenants}"}
        for number in range(tenants * each)
    ]


def test_it_counts_keys_shards_and_values_of_forecast_by(folder: Path) -> None:
    """Per type; a value that has no series of its own is none."""
    lines = [*updates(20, each=2), {"type": "update", "user": 3, "tenant": None}]
    answer = json.loads(explain(folder, lines, "--json").output)
    update, login, _ = answer["types"]
    assert (update["type"], update["requests"], update["keys"], update["values"]) == ("update", 41, 10, 20)
    assert update["hottest_key"] == pytest.approx(5 / 41)
    assert update["fullest_shard"] >= 256 * 4 / 41
    assert update["warning"] is None
    assert (login["requests"], login["values"], login["forecast_by"]) == (0, 0, None)
    assert answer["refused"] == []


def test_it_warns_of_more_values_than_are_forecast_alone(folder: Path) -> None:
    """With their number, and what the largest have; 64 are not too many."""
    shown = explain(folder, [*updates(200), *updates(64, each=9)])
    assert shown.exit_code == 0
    wanted = "warning: update has 200 values of json:tenant, of which 64 get a forecast of their own"
    assert wanted in shown.output
    assert "the 64 largest have 82% of the requests" in shown.output
    assert "warning" not in explain(folder, updates(64)).output


def test_what_cannot_be_routed_is_named(folder: Path) -> None:
    """By code, with the first line of it and why."""
    lines = [{"type": "update", "user": None}, {"type": "update"}, {"user": 1}, {"type": "other"}]
    shown = explain(folder, lines).output
    assert (
        f"3 to the dead letters: {BadRequest.KEY_MISSING.value}, first line 1: json:user is missing" in shown
    )
    assert f"1 to the dead letters: {BadRequest.TYPE_MISSING.value}, first line 5: none of" in shown


def test_records_have_keys_and_headers(folder: Path) -> None:
    """What is in neither is missing; a line of another form is refused with its number."""
    lines = [
        {"value": {"tenant": 1}, "headers": {"type": "login", "session": "s"}},
        {"key": "k", "headers": {"type": "new"}},
        {"value": {"type": "update", "user": 1, "tenant": "acme"}},
    ]
    answer = json.loads(explain(folder, lines, "--records", "--json").output)
    assert [(one["requests"], one["values"]) for one in answer["types"]] == [(1, 1), (1, 0), (1, 0)]
    for wrong in ({"type": "update"}, [1], {"key": 3}, {"headers": [1]}):
        refused = explain(folder, [lines[0], wrong], "--records")
        assert refused.exit_code == 2
        assert "line 3 is no {" in refused.stderr
