"""What a balancer's successor needs to continue."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from schemas.records.clusters import Mode
from schemas.records.record import (
    Count,
    Name,
    Record,
    Shard,
    parse,
)


class Rescuing(BaseModel):
    """A rescue that has begun and is not over."""

    model_config = Record.model_config
    cluster: Name
    command: Name
    """Id of the command that asked for it."""


class BalancerState(Record):
    """What a successor needs to continue. Topic `state`, key = "balancer:state"."""

    kind: Literal["balancer"] = "balancer"
    mode: Annotated[Mode, Field(strict=False)]
    frozen: bool
    freeze_reason: str = ""
    epoch: Count
    round: Count
    arrived: list[tuple[Shard, Name, float]] = []
    """(shard, cluster, model time) of each newest arrival of slots at a cluster: the cooldown."""
    moved: list[tuple[Shard, float]] = []
    """(shard, model time) of each shard's last move: the dwell."""
    joined: list[Shard] = []
    """Shards whose slots still have to follow a new home."""
    rehomed: list[Shard] = []
    """The same, where an operator has commanded the home."""
    away: list[tuple[Shard, Name, float]] = []
    """(shard, cluster that has most of its slots, model time since when), for shards away from home."""
    answered: list[Name] = []
    """Ids of the newest commands applied, so that each is applied once."""
    rescue: Rescuing | None = None
    """What the successor goes on with."""
    offsets: dict[str, list[tuple[Count, Count]]] = {}
    """topic -> (partition, next offset) of what this state includes."""


class LearnedState(Record):
    """A part of what was learned of the load up to a step. Topic `state`, key = "learned:<part>"."""

    kind: Literal["learned"] = "learned"
    step: Count
    """Newest step that it includes."""
    part: Count
    parts: Count
    """Parts of the state of this step; all are written in one transaction."""
    data: str
    """Base64 of the part's bytes: streams/core/learned.py says of what."""


_STATE: TypeAdapter[BalancerState | LearnedState] = TypeAdapter(
    Annotated[BalancerState | LearnedState, Field(discriminator="kind")]
)


def state_record(data: bytes | None) -> BalancerState | LearnedState:
    """Returns the state record in `data`; raises InvalidRecordError."""
    record: BalancerState | LearnedState = parse(_STATE, "state record", data)
    return record
