"""The configuration: one frozen value, read once. This module is the only reader of the environment.

Order of precedence: `FORESHARD_...` environment variables, then the TOML file, then defaults.
`FORESHARD_TOPICS__PREFIX=x.` sets `prefix` of `[topics]`; in `[kafka]` an underscore stands for a dot:
`FORESHARD_KAFKA__SASL_PASSWORD`. `FORESHARD_BOOTSTRAP` is short for `FORESHARD_KAFKA__BOOTSTRAP_SERVERS`.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas import topics
from schemas.errors import ConfigError
from schemas.records import MAX_SHARDS, NAME_PATTERN
from streams.clock import Clock
from streams.core.keys import KeyField, KeyRules, RequestType, parse_field
from streams.core.planner import PlannerSettings
from streams.core.round_settings import RoundSettings
from streams.kafka_settings import refuse_reserved

DEFAULT_FILE = Path("foreshard.toml")
ENV_PREFIX = "FORESHARD_"
ENV_FILE = "FORESHARD_CONFIG"

Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A table of the file: unknown options are mistakes, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Topics(Section):
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "foreshard."
    ingest: Annotated[str, Field(pattern=NAME_PATTERN)] = topics.REQUESTS
    replication_factor: Annotated[int, Field(ge=1)] = 3
    cluster_partitions: Annotated[int, Field(ge=1)] = topics.CLUSTER_PARTITIONS
    partitions: dict[str, Annotated[int, Field(ge=1)]] = {}
    retention_days: Annotated[float, Field(gt=0)] = 28

    @field_validator("partitions")
    @classmethod
    def _known(cls, value: dict[str, int]) -> dict[str, int]:
        fixed = {spec.name for spec in topics.OWN_TOPICS if spec.partitions == 1}
        free = {spec.name for spec in topics.OWN_TOPICS} - fixed
        wrong = sorted(set(value) - free)
        if wrong:
            raise ValueError(f"{wrong} cannot be set; topics whose partitions can be: {sorted(free)}")
        return value


class Sharding(Section):
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 256
    type_from: list[str] = ["header:type", "json:type"]

    @field_validator("type_from")
    @classmethod
    def _fields(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_field(text)
        if not value:
            raise ValueError("needs at least one place, such as header:type")
        return value


class RequestTypeRule(Section):
    name: Annotated[str, Field(min_length=1)]
    key: Annotated[list[str], Field(min_length=1)]
    keyspace: str = ""
    order: Literal["key", "none"] = "key"
    missing: Literal["dead-letter", "empty"] = "dead-letter"
    cost: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("key")
    @classmethod
    def _fields(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_field(text)
        return value


class ClockSection(Section):
    start: float = 0.0
    t0: float = 0.0
    time_scale: Annotated[float, Field(gt=0)] = 1.0


class RouterSection(Section):
    group: Annotated[str, Field(pattern=NAME_PATTERN)] = "foreshard-router"
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    guarantee: Literal["exactly-once"] = "exactly-once"


class BalancerSection(Section):
    """Times in seconds of model time; loads in cost units/s; `_share`s are fractions."""

    round_s: Seconds = 10
    latency_objective_s: Seconds = 1.0
    band: Share = 0.15
    minband: Share = 0.05
    floor: Share = 0.78
    ceil: Share = 0.93
    damp: Share = 0.5
    margin: Share = 0.04
    retfloor: Share = 0.68
    backlog_clear_s: Seconds = 60
    budget: Share = 0.09
    max_moves: Annotated[int, Field(ge=1)] = 16
    max_returns: Annotated[int, Field(ge=0)] = 16
    cooldown_s: Annotated[float, Field(ge=0)] = 90
    dwell_s: Annotated[float, Field(ge=0)] = 900
    max_targets: Annotated[int, Field(ge=1)] = 4
    min_load: Share = 0.002

    @model_validator(mode="after")
    def _ordered(self) -> BalancerSection:
        if self.floor > self.ceil:
            raise ValueError(f"floor {self.floor} is above ceil {self.ceil}")
        return self


class Web(Section):
    port: Port = 6066
    """Base port: the balancer takes it, router I takes port + 1 + I. 0 = a free one, printed."""


class File(Section):
    """The whole file, as written."""

    kafka: dict[str, str | int | float | bool] = {}
    topics: Topics = Topics()
    sharding: Sharding = Sharding()
    request_types: list[RequestTypeRule] = [RequestTypeRule(name="*", key=["key"])]
    clock: ClockSection = ClockSection()
    router: RouterSection = RouterSection()
    balancer: BalancerSection = BalancerSection()
    web: Web = Web()

    @field_validator("kafka")
    @classmethod
    def _not_reserved(cls, value: dict[str, Any]) -> dict[str, Any]:
        mistakes = refuse_reserved(value)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return value

    @field_validator("request_types")
    @classmethod
    def _unique(cls, value: list[RequestTypeRule]) -> list[RequestTypeRule]:
        names = [rule.name for rule in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"request types named twice: {twice}")
        if not names:
            raise ValueError('needs at least one request type; name = "*" takes every other type')
        return value


class Config:
    """What every process starts from. Built by `load`; nothing in it changes afterwards."""

    def __init__(self, file: File, path: Path | None) -> None:
        self.file = file
        self.path = path

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """librdkafka properties of the user, with the bootstrap servers."""
        return {"bootstrap.servers": "127.0.0.1:9092", "client.id": "foreshard", "log_level": 2} | dict(
            self.file.kafka
        )

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
        return KeyRules(
            shards=self.file.sharding.shards,
            type_from=tuple(parse_field(text) for text in self.file.sharding.type_from),
            types=tuple(_request_type(rule) for rule in self.file.request_types),
        )

    @cached_property
    def clock(self) -> Clock:
        section = self.file.clock
        return Clock(start=section.start, t0=section.t0, time_scale=section.time_scale)

    @cached_property
    def rounds(self) -> RoundSettings:
        section = self.file.balancer
        names = PlannerSettings.__dataclass_fields__
        planner = PlannerSettings(**{name: getattr(section, name) for name in names})
        return RoundSettings(
            planner=planner,
            round_s=section.round_s,
            latency_objective_s=section.latency_objective_s * self.clock.time_scale,
        )

    def instance(self, role: str, index: int) -> str:
        """Returns the stable name of a process: configured, else host and index."""
        name = self.file.router.instance or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
        return f"{name}-{role}-{index}"


def _request_type(rule: RequestTypeRule) -> RequestType:
    fields: tuple[KeyField, ...] = tuple(parse_field(text) for text in rule.key)
    return RequestType(
        name=rule.name,
        key=fields,
        keyspace=rule.keyspace,
        order=rule.order,
        missing=rule.missing,
        cost=rule.cost,
    )


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Returns the configuration; raises ConfigError listing every mistake with file and line."""
    environment = os.environ if environment is None else environment
    chosen = path or (Path(environment[ENV_FILE]) if ENV_FILE in environment else None)
    if chosen is None and DEFAULT_FILE.exists():
        chosen = DEFAULT_FILE
    text = _read(chosen) if chosen else ""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{chosen}: not valid TOML: {error}"]) from None
    mistakes = _overlay(tables, environment)
    try:
        file = File.model_validate(tables)
    except ValidationError as error:
        mistakes += [_mistake(item, chosen, text) for item in error.errors()]
    if mistakes:
        raise ConfigError(mistakes)
    return Config(file, chosen)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None


def _overlay(tables: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Writes the environment's options into the tables; returns the mistakes found."""
    mistakes = []
    for name, value in sorted(environment.items()):
        if not name.startswith(ENV_PREFIX) or name == ENV_FILE:
            continue
        key = "KAFKA__BOOTSTRAP_SERVERS" if name == "FORESHARD_BOOTSTRAP" else name[len(ENV_PREFIX) :]
        section, _, option = key.lower().partition("__")
        if section not in File.model_fields or section == "request_types" or not option:
            mistakes.append(f"environment variable {name}: no such option; write FORESHARD_SECTION__OPTION")
            continue
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table[option.replace("_", ".") if section == "kafka" else option] = value
    return mistakes


def _mistake(item: Any, path: Path | None, text: str) -> str:
    place = [str(step) for step in item["loc"]]
    given = repr(item.get("input"))
    secret = place[:1] == ["kafka"]
    shown = "" if secret or len(given) > 80 else f" (given: {given})"
    line = _line(text, place)
    where = f"{path}:{line}" if path and line else str(path or "defaults and environment")
    return f"{where}: {'.'.join(place) or 'file'}: {item['msg'].removeprefix('Value error, ')}{shown}"


def _line(text: str, place: list[str]) -> int:
    """Returns the line (from 1) of the option named by `place`, or of its table; 0 if not found."""
    table, option = place[0] if place else "", place[-1] if len(place) > 1 else ""
    wanted = int(place[1]) if len(place) > 2 and place[1].isdigit() else 0
    current, seen, best = "", -1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line)
        if header:
            current = header[1]
            seen += current == table
            if current == table and seen == wanted:
                best = number
        elif current == table and max(seen, 0) == wanted and option:
            if re.match(rf"\s*\"?{re.escape(option)}\"?\s*=", line):
                return number
    return best
