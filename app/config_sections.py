"""The tables of the configuration file: every option with its default, and what it may be.

Values die here, with their place: whatever a later constructor would refuse is refused while the file is
read. The options are described in deploy/foreshard.example.toml.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from schemas import topics
from schemas.records import MAX_SHARDS, NAME_PATTERN
from streams.core.handoff import HandoffSettings
from streams.core.keys import KeyRules, RequestType, parse_field
from streams.core.planner import PlannerSettings

Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _field(text: str) -> str:
    parse_field(text)
    return text


def _field_or_none(text: str) -> str:
    return _field(text) if text else text


def _listed(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _property(value: object) -> object:
    if not isinstance(value, str | int | float):
        raise ValueError("a librdkafka property is a text, a number, true or false")
    return value


FieldText = Annotated[str, AfterValidator(_field)]
Fields = Annotated[list[FieldText], Field(min_length=1), BeforeValidator(_listed)]
"""Places such as header:type; the environment writes several with commas."""


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
    type_from: Fields = ["header:type", "json:type"]


class RequestTypeRule(Section):
    name: Annotated[str, Field(min_length=1)]
    key: Fields
    keyspace: str = ""
    order: Literal["key", "none"] = "key"
    missing: Literal["dead-letter", "empty"] = "dead-letter"
    cost: Annotated[float, Field(gt=0)] = 1.0
    forecast_by: Annotated[str, AfterValidator(_field_or_none)] = ""

    @model_validator(mode="after")
    def _valid(self) -> RequestTypeRule:
        self.rule()
        return self

    def rule(self) -> RequestType:
        """Returns the rule as the core has it."""
        return RequestType(
            name=self.name,
            key=tuple(parse_field(text) for text in self.key),
            keyspace=self.keyspace,
            order=self.order,
            missing=self.missing,
            cost=self.cost,
            forecast_by=parse_field(self.forecast_by) if self.forecast_by else None,
        )


class ClockSection(Section):
    start: float = 0.0
    t0: float = 0.0
    time_scale: Annotated[float, Field(gt=0)] = 1.0


class RouterSection(Section):
    """Durations are seconds of wall time."""

    group: Annotated[str, Field(pattern=NAME_PATTERN)] = "foreshard-router"
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    instance_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    guarantee: Literal["exactly-once", "at-least-once"] = "exactly-once"
    first_wait_s: Seconds = 0.5
    watch_s: Seconds = 2.0
    hold_timeout_s: Seconds = 60
    dead_grace_s: Annotated[float, Field(ge=0)] = 30
    on_dead: Literal["available", "strict"] = "available"
    held_requests: Annotated[int, Field(ge=1)] = 200_000
    held_mb: Annotated[int, Field(ge=1)] = 512

    def handoff(self) -> HandoffSettings:
        """Returns the settings of handoffs."""
        return HandoffSettings(
            first_wait_s=self.first_wait_s,
            watch_s=self.watch_s,
            hold_timeout_s=self.hold_timeout_s,
            dead_grace_s=self.dead_grace_s,
            on_dead=self.on_dead,
            held_requests=self.held_requests,
            held_bytes=self.held_mb * 1024 * 1024,
        )


class BalancerSection(Section):
    """Durations are seconds of model time, or of wall time where the example says so.

    The others are fractions of available capacity, or counts.
    """

    policy: Literal["predictive", "reactive"] = "predictive"
    round_s: Seconds = 10
    latency_objective_s: Seconds = 1.0
    dead_after_s: Seconds = 120
    wait_for_handoff: bool = True
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
    def _valid(self) -> BalancerSection:
        self.planner()
        return self

    def planner(self) -> PlannerSettings:
        """Returns the planner's settings."""
        names = PlannerSettings.__dataclass_fields__
        return PlannerSettings(**{name: getattr(self, name) for name in names})


class Web(Section):
    port: Port = 6066
    """Base port: the balancer takes it, router I takes port + 1 + I. 0 = a free one, printed."""


class File(Section):
    """The whole file, as written."""

    kafka: dict[str, Annotated[Any, AfterValidator(_property)]] = {}
    topics: Topics = Topics()
    sharding: Sharding = Sharding()
    request_types: list[RequestTypeRule] = [RequestTypeRule(name="*", key=["key"])]
    clock: ClockSection = ClockSection()
    router: RouterSection = RouterSection()
    balancer: BalancerSection = BalancerSection()
    web: Web = Web()

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

    @model_validator(mode="after")
    def _valid(self) -> File:
        self.rules()
        return self

    def rules(self) -> KeyRules:
        """Returns what decides where a request goes."""
        return KeyRules(
            shards=self.sharding.shards,
            type_from=tuple(parse_field(text) for text in self.sharding.type_from),
            types=tuple(rule.rule() for rule in self.request_types),
        )
