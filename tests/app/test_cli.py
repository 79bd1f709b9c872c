"""The command line without a broker: help, exit statuses, configuration, keys, what is refused at once."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from app import operators
from app.cli import main
from app.cli.common import print_table
from app.cli.rounds import show_details
from schemas.errors import ForeshardError
from schemas.records import Decision, JudgedMove, Mode, Prediction, Reactive

ROOT = Path(__file__).parents[2]
NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
CONFIGURATION = """
[kafka]
"bootstrap.servers" = "127.0.0.1:1"
[[request_types]]
name = "order"
key = ["json:tenant", "json:user.id"]
[[request_types]]
name = "*"
key = ["key"]
"""
MACHINERY = ("river", "faust", "scipy", "aiohttp")


def foreshard(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb with its path: ("clusters", "add"), ..."""
    for name, command in sorted(group.commands.items()):
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))


ALL = dict(verbs(main))


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration with two request types, whose broker is not there."""
    path = tmp_path / "foreshard.toml"
    path.write_text(CONFIGURATION)
    return str(path)


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_verb_and_every_option_says_what_it_is(path: tuple[str, ...]) -> None:
    """--help ends well, begins with one sentence, and no option is without a word."""
    shown = foreshard(*path, "--help")
    assert shown.exit_code == 0
    assert ALL[path].help
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"


def test_the_verbs_are_those_of_the_main_job() -> None:
    """A verb that is not there yet does not exist."""
    assert {" ".join(path) for path, command in ALL.items() if not isinstance(command, click.Group)} == {
        *(
            "router",
            "balancer",
            "reporter",
            "demo",
            "bench balance",
            "bench chaos",
            "bench forecast",
            "bench plan",
            "bench router",
            "config check",
            "key explain",
            "key shard",
            "simulate",
        ),
        *("topics create", "topics check", "clusters add", "clusters list", "clusters drain"),
        *("clusters down", "clusters activate", "clusters remove", "clusters rescue"),
        *("events post", "events list", "events cancel", "mode", "freeze", "resume"),
        *("mapping show", "mapping owner", "mapping accept-rules", "rounds list", "rounds show"),
        *("rehome", "load export"),
    }


def test_whatever_shows_something_shows_it_as_json_too() -> None:
    """`--json` is an option of every verb that lists, shows or checks."""
    shows = {"list", "show", "check", "owner", "shard", "explain", "create"}
    for path, command in ALL.items():
        if path[-1] in shows:
            assert "--json" in {name for parameter in command.params for name in parameter.opts}, path


def test_the_help_documents_every_exit_status_and_no_other() -> None:
    """The statuses of all errors, 0, and click's 2 for wrong usage."""

    def statuses(error: type[ForeshardError]) -> set[int]:
        return {error.exit_status}.union(*(statuses(child) for child in error.__subclasses__()))

    text = foreshard("--help").output.partition("Exit status")[2].partition("Options:")[0]
    documented = {int(number) for number in re.findall(r"(?:^|\s)(\d+)  ", text)}
    assert documented == statuses(ForeshardError) | {0, 2}


def test_help_loads_neither_forecaster_nor_web() -> None:
    """`foreshard --help` and everything but the processes start without river (1.7 s, 100 MB) and Faust."""
    code = f"import app.cli, sys; print([name for name in {MACHINERY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_router_loads_no_forecaster() -> None:
    """river would cost every router 100 MB."""
    code = "import app.host, app.cli.processes, streams.router, sys; print('river' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_every_command_in_the_documents_exists() -> None:
    """Each `foreshard ...` line of README and docs is understood, options and arguments included."""
    found = 0
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for line in re.findall(r"^foreshard (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE):
            command: click.Command = main
            words = shlex.split(line, comments=True)
            while isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            command.make_context("foreshard", words)
            found += 1
    assert found > 10


# ---------------------------------------------------------------------------- config check, key shard


def test_config_check_says_what_it_found(config: str) -> None:
    """A good file: its types and the hash of its rules, as text and as JSON."""
    text = foreshard("config", "check", "-c", config)
    found = json.loads(foreshard("config", "check", "-c", config, "--json").output)
    assert text.exit_code == 0
    assert "good; 256 shards, request types order, *" in text.output
    assert found["rules_hash"] in text.output
    assert found["types"] == ["order", "*"]


def test_config_check_lists_all_mistakes_and_ends_with_3(tmp_path: Path) -> None:
    """Three mistakes, three numbered lines on stderr, nothing on stdout."""
    path = tmp_path / "wrong.toml"
    path.write_text("[topics]\nprefx = 'a'\n[web]\nport = -1\n[sharding]\nshards = 0\n")
    answer = foreshard("config", "check", "-c", str(path))
    assert answer.exit_code == 3
    assert answer.stdout == ""
    assert [line[:5] for line in answer.stderr.splitlines()[1:]] == ["  1. ", "  2. ", "  3. "]


def test_every_verb_refuses_a_wrong_configuration(tmp_path: Path) -> None:
    """Not only `config check`: a process does not start with it either."""
    path = tmp_path / "wrong.toml"
    path.write_text("[topics]\nprefx = 'a'\n")
    for verb in (["topics", "check"], ["router"], ["balancer"], ["key", "shard", "a", "--type", "b"]):
        assert foreshard(*verb, "-c", str(path)).exit_code == 3


def test_key_shard_names_the_place_of_a_key(config: str) -> None:
    """Text and JSON agree; a number and its text are the same key."""
    text = foreshard("key", "shard", "acme", "7", "--type", "order", "-c", config)
    found = json.loads(
        foreshard("key", "shard", "acme", "7", "--type", "order", "-c", config, "--json").output
    )
    assert text.output == f"shard {found['shard']} of 256, slot {found['slot']} of 256\n"
    assert found["global_slot"] == found["shard"] * 256 + found["slot"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["acme", "7"], "say which request type with --type; configured: order, *"),
        (["acme", "--type", "order"], "type order has 2 key fields (json:tenant, json:user.id), not 1"),
        (["a", "b", "--type", "other"], "type other has 1 key fields (key), not 2"),
        ([], "Missing argument"),
    ],
)
def test_key_shard_refuses_what_is_no_key(config: str, arguments: list[str], said: str) -> None:
    """Wrong input is status 2, with what was expected."""
    answer = foreshard("key", "shard", *arguments, "-c", config)
    assert answer.exit_code == 2
    assert said in answer.stderr


# ---------------------------------------------------------------------------- refused before anything is sent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uplift", "2"], "needs exactly one of types, keys, cluster; given: []"),
        (["--type", "order", "--cluster", "c1", "--uplift", "2"], "given: ['types', 'cluster']"),
        (
            ["--type", "order"],
            "needs exactly one of ['uplift', 'requests_per_s', 'capacity_factor']; given: []",
        ),
        (["--type", "order", "--uplift", "2", "--rps", "5"], "given: ['uplift', 'requests_per_s']"),
        (["--type", "order", "--total", "2", "--rps", "5"], "--rps and --total say the same thing"),
        (
            ["--type", "order", "--capacity-factor", ".5"],
            "scope types does not take the effect capacity_factor",
        ),
        (["--cluster", "c1", "--uplift", "2"], "scope cluster does not take the effect uplift"),
        (["--type", "order", "--uplift", "nan"], "uplift: Input should be a finite number"),
        (["--type", "order", "--total", "nan"], "requests_per_s: Input should be a finite number"),
        (["--type", "order", "--uplift", "-1"], "uplift: "),
        (["--type", "order", "--rps", "-1"], "requests_per_s: "),
        (["--type", "nothing", "--uplift", "2"], "names type nothing; the types are: order, *"),
        (["--key", "order", "--rps", "2"], "'order' names no key; write TYPE:VALUE"),
        (["--key", "order:acme", "--rps", "2"], "type order has 2 key fields"),
        (["--type", "order", "--uplift", "2", "--id", "a b"], "id: String should match"),
        (["--type", "order", "--uplift", "2", "--at", "noon"], "'noon' is no time"),
        (["--type", "order", "--uplift", "2", "--at", "25:00"], "'25:00' is no time"),
        (["--type", "order", "--uplift", "2", "--for", "-5m"], "'-5m' is no duration"),
        (["--type", "order", "--uplift", "2", "--for", "0s"], "'0s' is no duration between 0 and a year"),
        (["--type", "order", "--uplift", "2", "--for", "9999999d"], "is no duration between"),
    ],
)
def test_a_wrong_event_is_refused_before_a_broker_is_asked(
    config: str, arguments: list[str], said: str
) -> None:
    """Status 2 and what is wrong, although this broker does not answer at all."""
    given = ["--kind", "campaign", "-c", config, *arguments]
    for option, value in (("--at", "now"), ("--for", "2h")):
        given += [] if option in arguments else [option, value]
    answer = foreshard("events", "post", *given)
    assert answer.exit_code == 2
    assert said in answer.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 0),
        ("+15m", 900),
        (" +1.5h ", 5400),
        ("22:14", 40),
        ("22:13", 86_400 - 20),  # 20 s ago: the next one
        ("today 22:13", -20),
        ("tomorrow 22:13", 86_400 - 20),
        ("2023-11-14T22:13:20Z", 0),
        ("2023-11-14 23:13:20+01:00", 0),
        ("2023-11-15", 6400),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    """All in UTC; a time of day alone is the next one."""
    assert operators.moment(text, NOW) == NOW + seconds


def test_a_time_that_was_shown_can_be_given_back() -> None:
    """And a time that no calendar has is shown all the same."""
    assert operators.moment(operators.shown_time(NOW), 0) == NOW
    assert operators.shown_time(1e18) == "1e+18 s"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["reporter", "--cluster", "c 1"], 2, "'c 1' is no name"),
        (["reporter", "--cluster", "c1", "--instance", "a/b"], 2, "'a/b' is no name"),
        (["reporter", "--cluster", "c1", "--pid", "999999999"], 2, "there is no process 999999999"),
        (["reporter", "--cluster", "c1", "--capacity", "-1"], 2, "Invalid value for '--capacity'"),
        (["router", "--index", "60000"], 3, "web.port 6066 leaves no port"),
        (["balancer", "--index", "600"], 3, "web.port 6066 leaves no port"),
        (["balancer", "--index", "-1"], 2, "Invalid value for '--index'"),
    ],
)
def test_a_process_that_could_never_work_does_not_start(
    config: str, arguments: list[str], status: int, said: str
) -> None:
    """Said before any broker is asked."""
    answer = foreshard(*arguments, "-c", config)
    assert answer.exit_code == status
    assert said in answer.stderr


# ---------------------------------------------------------------------------- tables


def test_a_table_that_is_piped_has_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    """However long a cell is, nothing folds; numbers align at the right; markup is text."""
    print_table(["name", "load>"], [("a" * 500, 5), ("[red]b", 1234)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "load"]
    assert first == "a" * 500 + "     5"
    assert second.split() == ["[red]b", "1234"]
    assert len(header) == len(first) == len(second)


def test_an_empty_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A heading over nothing helps nobody."""
    print_table(["name"], [], empty="none yet; type `x`")
    assert capsys.readouterr().out == "none yet; type `x`\n"


def test_a_round_shows_what_prediction_was_worth(capsys: pytest.CaptureFixture[str]) -> None:
    """How many moves were made ahead, and the verdict on each that is known."""
    judged = [
        JudgedMove(plan="1.7", shard=3, source="a", target="b", load_cps=9.5, reactive=reactive, lead_s=lead)
        for reactive, lead in ((Reactive.LATER, 110.0), (Reactive.NEVER, 0.0))
    ]
    seen = Prediction(ahead=2, unjudged=5, judged=judged, avoided_overload_s=30.0)
    show_details(Decision(epoch=1, round=9, at=NOW, mode=Mode.AUTO, version=4, prediction=seen))
    said = capsys.readouterr().out
    assert "made ahead of load: 2 of its moves; not judged yet: 5; overload avoided" in said
    assert [line.split()[-1] for line in said.splitlines()[2:]] == ["later", "never"]
    assert "110 s later" in said
