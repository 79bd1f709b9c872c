"""The configuration: one frozen value, read once. This module is the only reader of the environment.

Order of precedence: `FORESHARD_...` environment variables, then the TOML file, then defaults.
`FORESHARD_TOPICS__PREFIX=x.` sets `prefix` of `[topics]`; in `[kafka]` an underscore stands for a dot:
`FORESHARD_KAFKA__SASL_PASSWORD`. `FORESHARD_BOOTSTRAP` is short for `FORESHARD_KAFKA__BOOTSTRAP_SERVERS`.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from pydantic import ValidationError

from app.config_places import Option, Places
from app.config_sections import File, RequestTypeRule
from schemas import topics
from schemas.errors import ConfigError
from streams.clock import Clock
from streams.core.keys import KeyRules
from streams.core.round_settings import RoundSettings
from streams.kafka_settings import EVERY_CLIENT, refuse_reserved

NOT_CREATED = "Failed to create producer"
"""How librdkafka begins what it says of properties that do not go together."""
DEFAULT_FILE = Path("foreshard.toml")
ENV_PREFIX = "FORESHARD_"
ENV_FILE = "FORESHARD_CONFIG"
ENV_BOOTSTRAP = "FORESHARD_BOOTSTRAP"


class Config:
    """What every process starts from. Built by `load`; nothing in it changes afterwards."""

    def __init__(self, file: File, path: Path | None) -> None:
        self.file = file
        self.path = path

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """librdkafka properties of the user, with the bootstrap servers."""
        own = dict(self.file.kafka)
        return EVERY_CLIENT | {"bootstrap.servers": "127.0.0.1:9092", "client.id": "foreshard"} | own

    @property
    def prefix(self) -> str:
        return self.file.topics.prefix

    def topic(self, spec: topics.TopicSpec) -> str:
        """Returns the full name of one of our own topics."""
        return self.prefix + spec.name

    @property
    def ingest(self) -> str:
        return self.file.topics.ingest

    @cached_property
    def rules(self) -> KeyRules:
        return self.file.rules()

    @cached_property
    def clock(self) -> Clock:
        section = self.file.clock
        return Clock(start=section.start, t0=section.t0, time_scale=section.time_scale)

    @cached_property
    def rounds(self) -> RoundSettings:
        section = self.file.balancer
        return RoundSettings(
            planner=section.planner(),
            policy=section.policy,
            round_s=section.round_s,
            latency_objective_s=section.latency_objective_s * self.clock.time_scale,
            dead_after_s=section.dead_after_s * self.clock.time_scale,
            wait_for_handoff=section.wait_for_handoff,
        )

    def instance(self, role: str, index: int) -> str:
        """Returns the stable name of a process: configured, else host and index."""
        router = self.file.router
        name = (
            (role == "router" and router.instance_id)
            or router.instance
            or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
        )
        return f"{name}-{role}-{index}"


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Returns the configuration; raises ConfigError listing every mistake with file and line."""
    environment = os.environ if environment is None else environment
    named = environment.get(ENV_FILE)
    chosen = path or (Path(named) if named else None)
    if chosen is None and DEFAULT_FILE.exists():
        chosen = DEFAULT_FILE
    text = _read(chosen) if chosen else ""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{chosen}: not valid TOML: {error}"]) from None
    if isinstance(tables.get("kafka"), dict):
        tables["kafka"] = dict(_flat(tables["kafka"]))
    variables, mistakes = _overlay(tables, environment)
    places = Places(chosen, text, variables)
    mistakes += _kafka_mistakes(tables.get("kafka"), places)
    try:
        file = File.model_validate(tables)
    except ValidationError as error:
        mistakes += [_mistake(item, places) for item in error.errors()]
    if mistakes:
        raise ConfigError(mistakes)
    return Config(file, chosen)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8: {error.reason} at byte {error.start}"]) from None


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yields Kafka properties by their full name: without quotes, TOML takes their dots for tables."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _overlay(tables: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[Option, str], list[str]]:
    """Writes the environment's options into the tables; returns the variable of each, and mistakes."""
    variables: dict[Option, str] = {}
    mistakes = []
    for name, value in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX) or name == ENV_FILE:
            continue
        key = "KAFKA__BOOTSTRAP_SERVERS" if name == ENV_BOOTSTRAP else name[len(ENV_PREFIX) :]
        section, _, option = key.lower().partition("__")
        if section == "kafka":
            option = option.replace("_", ".")
        if section not in File.model_fields or section == "request_types" or not option:
            sections = [known for known in File.model_fields if known != "request_types"]
            mistakes.append(
                f"environment variable {name}: no such option; write {ENV_PREFIX}SECTION__OPTION, "
                f"with SECTION one of {', '.join(sections).upper()}"
            )
            continue
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[option] = value
            variables[section, option] = name
    return variables, mistakes


def _kafka_mistakes(table: object, places: Places) -> list[str]:
    """Returns one mistake per Kafka property that we reserve or that librdkafka refuses."""
    if not isinstance(table, dict):
        return []
    refused = {name: refuse_reserved({name: value}) for name, value in table.items()}
    free = {
        name: value
        for name, value in table.items()
        if isinstance(value, str | int | float) and not refused[name]
    }
    whole = _refused_by_client(free)
    if whole:
        for name, value in free.items():
            refused[name] = _refused_by_client({name: value})
            # Alone, a property may lack another one that it needs: then only the whole says what is wrong.
            refused[name] = [text for text in refused[name] if not text.startswith(NOT_CREATED)]
        if not any(refused.values()):
            refused[""] = [text.removeprefix(NOT_CREATED + ": ") for text in whole]
    return [
        f"{places.of(('kafka', name))}: kafka{'.' * bool(name)}{name}: {text}"
        for name, texts in refused.items()
        for text in (text.removeprefix(f"{name} ") for text in texts)
    ]


def _refused_by_client(properties: Mapping[str, Any]) -> list[str]:
    """Returns what librdkafka has against these properties; nothing is connected."""
    try:
        Producer({"log_level": 0} | {k: v for k, v in properties.items() if k != "bootstrap.servers"})
    except KafkaException as error:
        return [str(error.args[0].str()).strip()]
    return []


def _mistake(item: Any, places: Places) -> str:
    option = tuple(str(step) for step in item["loc"])
    given = repr(item.get("input"))
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(option[-1], _options(option[:-1]), n=1)
        text = "there is no such option" + (f"; did you mean {near[0]}?" if near else "")
        given = ""
    # A table may hold a secret, and so may anything in [kafka].
    shown = "" if not given or option[:1] in ((), ("kafka",)) or len(given) > 80 else f" (given: {given})"
    return f"{places.of(option)}: {'.'.join(option) or 'file'}: {text}{shown}"


def _options(table: Option) -> list[str]:
    """Returns the names of the options of a table."""
    if not table:
        return list(File.model_fields)
    section = RequestTypeRule if table[0] == "request_types" else type(getattr(File(), table[0]))
    return list(section.model_fields)
