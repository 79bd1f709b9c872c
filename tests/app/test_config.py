"""The configuration: every mistake at once and where it is written, environment over file, secrets unsaid."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.config import Config, File, load
from app.config_places import option_lines
from app.config_sections import RequestTypeRule
from app.topic_admin import wanted
from schemas.errors import ConfigError
from streams.core.planner import PlannerSettings
from streams.core.round_settings import RoundSettings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "foreshard.example.toml"
SECRET = "hunter2"


def write(folder: Path, text: str) -> Path:
    path = folder / "foreshard.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | None, environment: dict[str, str] | None = None) -> list[str]:
    """Loads what cannot be loaded and returns the mistakes."""
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {})
    return caught.value.mistakes


# ---------------------------------------------------------------------------- all at once, with their place


def test_three_mistakes_are_reported_at_once_with_file_and_line(tmp_path: Path) -> None:
    """Different tables, one of them the second of an array: each mistake has its own line."""
    path = write(
        tmp_path,
        '[topics]\nprefix = "a b"\n[[request_types]]\nname = "x"\nkey = ["key"]\n'
        '[[request_types]]\nname = "y"\nkey = ["key"]\ncost = -1\n[web]\nport = 70000\n',
    )
    found = mistakes(path)
    assert [text.split(": ")[0] for text in found] == [f"{path}:{line}" for line in (2, 9, 11)]
    assert [text.split(": ")[1] for text in found] == ["topics.prefix", "request_types.1.cost", "web.port"]
    assert str(ConfigError(found)).startswith("the configuration has 3 mistakes:\n  1. ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[topics]\nprefx = 'x'\n", ":2: topics.prefx: there is no such option; did you mean prefix?"),
        ("[topcs]\nprefix = 'x'\n", ":1: topcs: there is no such option; did you mean topics?"),
        ("[[request_types]]\nname = 'a'\nkey = ['key']\ncosts = 2\n", "did you mean cost?"),
        ("[sharding]\nshards = 0\n", ":2: sharding.shards: "),
        ("[sharding]\nshards = 4097\n", ":2: sharding.shards: "),
        ("[sharding]\ntype_from = []\n", ":2: sharding.type_from: "),
        ("[sharding]\ntype_from = ['header:a', 'hdr:b']\n", ":2: sharding.type_from.1: 'hdr:b' is no field"),
        ("request_types = []\n", ":1: request_types: needs at least one"),
        (
            "[[request_types]]\nname = 'a'\nkey = ['json:']\n",
            ":3: request_types.0.key.0: 'json:' is no field",
        ),
        ("[[request_types]]\nname = 'a'\nkey = []\n", ":3: request_types.0.key: "),
        ("[[request_types]]\nkey = ['key']\n", ":1: request_types.0.name: Field required"),
        (
            '[[request_types]]\nname = "a"\nkey = ["key"]\nkeyspace = "b\\u0000"\n',
            "NUL in its name or keyspace",
        ),
        ("[[request_types]]\nname = 'a'\nkey = ['key']\ncost = nan\n", ":4: request_types.0.cost: "),
        ("[[request_types]]\nname = 'a'\nkey = ['key']\ncost = inf\n", ":4: request_types.0.cost: "),
        (2 * "[[request_types]]\nname = 'a'\nkey = ['key']\n", "named twice: ['a']"),
        (
            "[[request_types]]\nname = 'a'\nkey = ['key']\nforecast_by = 'tenant'\n",
            ":4: request_types.0.forecast_by: 'tenant' is no field",
        ),
        (
            "[[request_types]]\nname = 'a'\nkey = ['key']\nforecast_by = 'header:x'\n"
            "[[request_types]]\nname = 'a/b'\nkey = ['key']\n",
            "request type 'a/b' is named like a series of 'a'",
        ),
        ("[balancer]\nfloor = 0.5\n", ":1: balancer: planner settings need retfloor <= floor <= ceil"),
        ("[balancer]\nceil = 0.7\n", "need retfloor <= floor <= ceil"),
        ("[balancer]\nbacklog_clear_s = 0\n", ":2: balancer.backlog_clear_s: "),
        ("[topics]\npartitions = { mapping = 2 }\n", "['mapping'] cannot be set"),
        ("[topics.partitions]\nload = 0\n", ":2: topics.partitions.load: "),
        ("[clock]\ntime_scale = 0\n", ":2: clock.time_scale: "),
        ("[router]\nguarantee = 'at-most-once'\n", ":2: router.guarantee: "),
        ("topics = 3\n", ":1: topics: "),
        ("[[topics]]\nprefix = 'a'\n", ":1: topics: "),
        ("kafka = 3\n", ":1: kafka: "),
        ("a = [1,\n", ": not valid TOML: "),
    ],
)
def test_a_mistake_is_a_mistake_and_no_traceback(tmp_path: Path, text: str, said: str) -> None:
    """One wrong thing is one mistake, whoever would have refused it later: the rules, the planner, TOML."""
    path = write(tmp_path, text)
    (found,) = mistakes(path)
    assert found.startswith(str(path))
    assert said in found


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8: said in one line."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = '\xff'")
    assert mistakes(tmp_path / "none.toml") == [
        f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    ]
    assert mistakes(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    assert mistakes(binary) == [f"{binary}: is not UTF-8: invalid start byte at byte 5"]
    assert mistakes(None, {"FORESHARD_CONFIG": str(tmp_path)}) == mistakes(tmp_path)


def test_lines_are_found_in_every_way_of_writing_an_option() -> None:
    """Quoted, dotted and spaced names, comments, nested and repeated tables."""
    text = (
        '# [no]\n[kafka]\n"a.b" = 1\nc . d = 2\n\n'
        "[topics]  # here\n partitions.load = 4\n[[t]]\nx=1\n[[t]]\nx = 2\n"
    )
    assert option_lines(text) == {
        ("kafka",): 2,
        ("kafka", "a.b"): 3,
        ("kafka", "c.d"): 4,
        ("topics",): 6,
        ("topics", "partitions", "load"): 7,
        ("t",): 8,
        ("t", "0"): 8,
        ("t", "0", "x"): 9,
        ("t", "1"): 10,
        ("t", "1", "x"): 11,
    }


# ---------------------------------------------------------------------------- environment


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Numbers are read from text, a list is written with commas, an underscore in [kafka] is a dot."""
    path = write(
        tmp_path, "[topics]\nprefix = 'file.'\ningest = 'in'\n[kafka]\n'bootstrap.servers' = 'file:1'\n"
    )
    config = load(
        path,
        {
            "FORESHARD_TOPICS__PREFIX": "env.",
            "FORESHARD_BALANCER__ROUND_S": "5",
            "FORESHARD_SHARDING__TYPE_FROM": "header:kind,json:kind",
            "FORESHARD_BOOTSTRAP": "env:1",
            "FORESHARD_KAFKA__SASL_PASSWORD": SECRET,
            "OTHER": "x",
        },
    )
    assert (config.prefix, config.ingest, config.rounds.round_s) == ("env.", "in", 5.0)
    assert config.file.sharding.type_from == ["header:kind", "json:kind"]
    assert config.kafka["bootstrap.servers"] == "env:1"
    assert config.kafka["sasl.password"] == SECRET


def test_a_wrong_variable_is_named_as_the_place_of_its_mistake(tmp_path: Path) -> None:
    """Unknown section, unknown option, wrong value: each names the variable, not the file."""
    path = write(tmp_path, "[web]\nport = 1\n")
    found = mistakes(
        path,
        {"FORESHARD_TOPICS_PREFIX": "x", "FORESHARD_TOPICS__PREFX": "x", "FORESHARD_WEB__PORT": "many"},
    )
    assert [text.split(": ")[0] for text in found] == [
        f"environment variable FORESHARD_{name}" for name in ("TOPICS_PREFIX", "TOPICS__PREFX", "WEB__PORT")
    ]
    assert "write FORESHARD_SECTION__OPTION" in found[0]


def test_the_file_is_the_named_one_or_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, then FORESHARD_CONFIG, then ./foreshard.toml, then defaults."""
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).path is None
    here = write(tmp_path, "[topics]\nprefix = 'here.'\n")
    other = tmp_path / "other.toml"
    other.write_text("[topics]\nprefix = 'other.'\n")
    assert load(None, {}).prefix == "here."
    assert load(None, {"FORESHARD_CONFIG": ""}).prefix == "here."
    assert load(None, {"FORESHARD_CONFIG": str(other)}).prefix == "other."
    assert load(here, {"FORESHARD_CONFIG": str(other)}).prefix == "here."


# ---------------------------------------------------------------------------- Kafka properties


@pytest.mark.parametrize(
    "line",
    [
        "'isolation.level' = 'read_uncommitted'",
        "'enable.auto.commit' = true",
        "'auto.offset.reset' = 'latest'",
        "acks = 1",
        "'request.required.acks' = 1",
        "'enable.idempotence' = false",
        "'transactional.id' = 'mine'",
        "'partition.assignment.strategy' = 'range'",
    ],
)
def test_what_the_guarantees_rest_on_cannot_be_set(tmp_path: Path, line: str) -> None:
    """Each reserved property is refused with its reason, in the file and in the environment."""
    name, value = (part.strip(" '") for part in line.split("="))
    (in_file,) = mistakes(write(tmp_path, f"[kafka]\n{line}\n"))
    assert re.match(rf".*:2: kafka.{re.escape(name)}: .*cannot be set: ", in_file)
    variable = "FORESHARD_KAFKA__" + name.upper().replace(".", "_")
    (in_variable,) = mistakes(None, {variable: value})
    assert in_variable.startswith(f"environment variable {variable}: kafka.{name}: ")


def test_earliest_may_be_said_although_it_is_what_we_do(tmp_path: Path) -> None:
    """The one value of auto.offset.reset that keeps the promise is not refused."""
    assert load(write(tmp_path, "[kafka]\n'auto.offset.reset' = 'earliest'\n"), {})


def test_every_property_that_librdkafka_refuses_is_a_mistake(tmp_path: Path) -> None:
    """A wrong name, a wrong value, a list: three mistakes; a missing file of TLS is one."""
    path = write(
        tmp_path, "[kafka]\n'bootstrap.server' = 'x'\n'linger.ms' = 'soon'\nx = [1]\n'client.id' = 'me'\n"
    )
    found = mistakes(path)
    assert [text.split(": ")[0] for text in found] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert 'No such configuration property: "bootstrap.server"' in found[0]
    tls = write(tmp_path, "[kafka]\n'security.protocol' = 'ssl'\n'ssl.ca.location' = '/none'\n")
    (missing,) = mistakes(tls)
    assert f"{tls}:1: kafka: ssl.ca.location failed" in missing


def test_kafka_properties_may_be_written_without_quotes(tmp_path: Path) -> None:
    """TOML takes their dots for tables; they mean the same, and keep their lines."""
    path = write(
        tmp_path, "[kafka]\nbootstrap.servers = 'a:1'\nssl.endpoint.identification.algorithm = 'none'\n"
    )
    assert load(path, {}).kafka["ssl.endpoint.identification.algorithm"] == "none"
    wrong = write(tmp_path, "[kafka]\nclient.id = 'x'\nclient.ident = 'x'\n")
    assert mistakes(wrong)[0].startswith(f"{wrong}:3: kafka.client.ident: ")


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    """However wrong its table is, the value of a Kafka property appears in no mistake."""
    texts = [
        f"[kafka]\n'sasl.password' = ['{SECRET}']\n'linger.ms' = '{SECRET}'\n'no.such' = '{SECRET}'\n",
        f"kafka = '{SECRET}'\n",
        f"[[kafka]]\n'sasl.password' = '{SECRET}'\n",
        f"[kafka]\n'security.protocol' = 'ssl'\n'ssl.key.pem' = '{SECRET}'\n",
        f"[kafka]\n'security.protocol' = 'sasl_ssl'\n'sasl.mechanism' = 'x'\n'sasl.password' = '{SECRET}'\n",
    ]
    for text in texts:
        assert SECRET not in str(mistakes(write(tmp_path, text)))
    variables = {"FORESHARD_KAFKA__SASL_PASSWRD": SECRET, "FORESHARD_SECRET": SECRET}
    assert SECRET not in str(mistakes(None, variables))


# ---------------------------------------------------------------------------- the example, and defaults


def options(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


def test_the_example_has_every_option_with_its_default() -> None:
    """Each table of the example holds the options of its model, no more, no less, at their defaults."""
    tables = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert set(tables) == set(File.model_fields)
    default = load(None, {})
    assert tables["kafka"] == {"bootstrap.servers": default.kafka["bootstrap.servers"]}
    for name in set(tables) - {"kafka", "request_types"}:
        wanted = options(getattr(default.file, name))
        given = tables[name]
        if name == "topics":
            topics = {"load": 4, "metrics": 4, "dead-letter": 4}
            assert given.pop("partitions") == topics
            assert wanted.pop("partitions") == {}
        assert given == wanted, name
    rule = tables["request_types"][0]
    fields_of_rule = RequestTypeRule.model_fields
    assert set(rule) == set(fields_of_rule)
    optional = {"order", "missing", "cost", "forecast_by"}
    assert {name: rule[name] for name in optional} == {
        name: fields_of_rule[name].default for name in optional
    }
    assert default.file.request_types == [RequestTypeRule(**tables["request_types"][-1])]


def test_the_example_loads_and_says_what_the_program_does() -> None:
    """It is a working configuration; its partitions are those that topics have anyway."""
    config = load(EXAMPLE, {})
    assert config.rules.series == ("order", "*")
    assert config.file.topics.partitions == {"load": 4, "metrics": 4, "dead-letter": 4}


def test_every_setting_of_the_planner_is_an_option_with_the_same_default() -> None:
    """[balancer] changes nothing that nobody set."""
    config = Config(File(), None)
    assert config.rounds == RoundSettings(planner=PlannerSettings())
    assert {item.name for item in fields(PlannerSettings)} < set(type(config.file.balancer).model_fields)


def test_an_option_of_the_planner_reaches_the_planner() -> None:
    """And the latency objective, which is wall time, is turned into model time."""
    config = load(
        None,
        {
            "FORESHARD_BALANCER__DWELL_S": "180",
            "FORESHARD_BALANCER__POLICY": "reactive",
            "FORESHARD_BALANCER__LATENCY_OBJECTIVE_S": "2",
            "FORESHARD_CLOCK__TIME_SCALE": "10",
        },
    )
    assert config.rounds.planner.dwell_s == 180
    assert config.rounds.policy == "reactive"
    assert config.rounds.latency_objective_s == 20


def test_stored_history_is_kept_for_28_days_unless_said_otherwise() -> None:
    """Four whole weeks of load, in the setting that `topics create` makes and `topics check` compares."""
    for environment, days in ({}, 28), ({"FORESHARD_TOPICS__RETENTION_DAYS": "7"}, 7):
        config = load(None, environment)
        made = {item.name: item.settings for item in wanted(config, None)}
        assert made["foreshard.load"]["retention.ms"] == str(days * 86_400_000)
        assert made["foreshard.load"]["cleanup.policy"] == "delete"
