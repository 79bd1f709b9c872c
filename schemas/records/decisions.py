"""What a round of the balancer saw and did, and answers to commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from schemas.records.clusters import ClusterState, Mode
from schemas.records.record import (
    Count,
    Name,
    Rate,
    Record,
    Shard,
    parse,
)


class Reason(StrEnum):
    """Why a move was made."""

    FIRST_START = "first-start"
    PREDICTED_OVERLOAD = "predicted-overload"
    EVENT = "event"
    OVERLOAD = "overload"
    DRAIN = "drain"
    DOWN = "down"
    JOIN = "join"
    REHOME = "rehome"
    RETURN = "return"


class Skip(StrEnum):
    """Why a round moved nothing, or why a cluster over its limit could not be helped."""

    BALANCED = "balanced"
    WITHIN_BAND = "within-band"
    COOLDOWN = "cooldown"
    BUDGET = "budget"
    NO_ROOM = "no-room"
    UNSPLITTABLE_KEY = "unsplittable-key"
    HANDOFF_PENDING = "handoff-pending"
    SINGLE_CLUSTER = "single-cluster"
    FROZEN = "frozen"
    OBSERVE_MODE = "observe-mode"
    INCOMPLETE_METRICS = "incomplete-metrics"


class Move(BaseModel):
    """Slots of one shard that change cluster."""

    model_config = Record.model_config
    shard: Shard
    source: Name
    target: Name
    slots: list[tuple[int, int]]
    """Half-open slot ranges."""
    load_cps: Rate
    """Load that moves, measured now."""
    reason: Annotated[Reason, Field(strict=False)]


class ClusterView(BaseModel):
    """One cluster as a round saw it; loads in cost units/s."""

    model_config = Record.model_config
    name: Name
    state: Annotated[ClusterState, Field(strict=False)]
    known: bool
    capacity_cps: Rate
    load_cps: Rate
    forecast_cps: Rate
    """Highest predicted load of the window."""
    backlog: Rate
    """Cost units that wait in the cluster's topic."""
    score_before: Rate
    score_after: Rate
    notes: list[str] = []


class SeriesView(BaseModel):
    """One forecast series as a round saw it; requests/s."""

    model_config = Record.model_config
    name: str
    of_type: str = ""
    """Request type, where the series is that of one value of its `forecast_by`; empty for a type's own."""
    cost: Rate = 1.0
    """Cost units per request, as configured or as learned."""
    now_rps: Rate
    forecast_rps: Rate
    """At the horizon."""
    relative_mae: Rate | None = None
    """MAE / MAE of the last value at the horizon, over the last 24 h; below 1 beats it."""
    trusted: bool
    why_not: str = ""


class CostsView(BaseModel):
    """How well the costs of requests explain the CPU that clusters report."""

    model_config = Record.model_config
    learned: bool
    """True: costs are learned from CPU; False: as configured."""
    cpu_error: Rate | None = None
    """Usual error of the CPU that learned costs explain, part of what is used; absent before any sample."""


class Stuck(BaseModel):
    """A cluster over its limit that the planner could not relieve."""

    model_config = Record.model_config
    cluster: Name
    reason: Annotated[Skip, Field(strict=False)]
    short_cps: Rate
    """Load over its target that found no place."""


class Reactive(StrEnum):
    """When the planner would have made a move if it had planned on measured load alone."""

    AT_ONCE = "at-once"
    LATER = "later"
    NEVER = "never"


class JudgedMove(BaseModel):
    """A move made ahead of its load, judged by what became of that load."""

    model_config = Record.model_config
    plan: Name
    """epoch.round of the plan that made it."""
    shard: Shard
    source: Name
    target: Name
    load_cps: Rate
    """Load that moved, measured then."""
    reactive: Annotated[Reactive, Field(strict=False)]
    lead_s: Rate = 0.0
    """By how much later it would have been made."""


class Prediction(BaseModel):
    """What a round shows of the worth of forecasts and announcements."""

    model_config = Record.model_config
    ahead: Count = 0
    """Moves of this round that would not have been made now on measured load alone."""
    unjudged: Count = 0
    """Moves made ahead of which it is open whether they were needed, those of this round included."""
    judged: list[JudgedMove] = []
    """Moves of this and earlier rounds of which it is known now; each is in one decision."""
    avoided_overload_s: Rate = 0.0
    """Seconds since the round before, summed over clusters, in which one would have been over its
    capacity and was not, by the model."""


class Decision(Record):
    """One round of the balancer. Topic `decisions`, key = epoch.round."""

    kind: Literal["decision"] = "decision"
    epoch: Count
    round: Count
    at: float
    mode: Annotated[Mode, Field(strict=False)]
    version: Count
    """Mapping version after the round."""
    skip: Annotated[Skip, Field(strict=False)] | None = None
    """Why nothing was moved; absent when `moves` were made."""
    detail: str = ""
    moves: list[Move] = []
    """Made, or in observe mode and when frozen: what would have been made."""
    clusters: list[ClusterView] = []
    series: list[SeriesView] = []
    costs: CostsView | None = None
    """Absent where a round did not get to measuring."""
    stuck: list[Stuck] = []
    events: list[Name] = []
    """Ids of the events that touch the window."""
    prediction: Prediction | None = None
    """Absent where no move was made ahead of its load of late."""
    offsets: dict[str, list[tuple[Count, Count]]] = {}
    """topic -> (partition, next offset): what the round had read, so that its inputs can be read again."""
    command: Name | None = None
    """Id of the command whose work ended with this round: of a rescue, which outlasts its answer."""

    @property
    def id(self) -> str:
        return f"{self.epoch}.{self.round}"


class Answer(Record):
    """The answer to one command. Topic `decisions`, key = command id."""

    kind: Literal["answer"] = "answer"
    command: Name
    at: float
    epoch: Count
    accepted: bool
    code: str = ""
    text: str


_DECISION: TypeAdapter[Decision | Answer] = TypeAdapter(
    Annotated[Decision | Answer, Field(discriminator="kind")]
)


def decision_record(data: bytes | None) -> Decision | Answer:
    """Returns the decision or answer in `data`; raises InvalidRecordError."""
    record: Decision | Answer = parse(_DECISION, "decision", data)
    return record
