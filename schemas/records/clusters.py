"""The registry of clusters, and what operators command."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from schemas.records.record import (
    MAX_SHARDS,
    Capacity,
    Count,
    Name,
    Record,
    Shard,
    parse,
)


class ClusterState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    DOWN = "down"


class WantedState(StrEnum):
    """What an operator may ask a cluster to be."""

    ACTIVE = "active"
    DRAINING = "draining"
    DOWN = "down"
    REMOVED = "removed"


class Cluster(Record):
    """One backend cluster as registered. Topic `clusters`, key = name."""

    name: Name
    topic: Name
    group: Name
    capacity_cps: Capacity
    capacity_guessed: bool = False
    partitions: Annotated[int, Field(ge=1)]
    state: ClusterState = ClusterState.ACTIVE
    rescues: Count = 0
    """How often the rest of its topic was re-routed."""


class Mode(StrEnum):
    OBSERVE = "observe"
    AUTO = "auto"


class CommandBase(Record):
    id: Name
    by: str = ""
    at: float


class ClusterAdd(CommandBase):
    """Register a cluster; its topic exists already (the CLI makes it)."""

    kind: Literal["cluster-add"] = "cluster-add"
    cluster: Name
    topic: Name
    group: Name
    capacity_cps: Capacity
    capacity_guessed: bool = False


class SetClusterState(CommandBase):
    """Empty a cluster, give it up, take it back, or forget it."""

    kind: Literal["cluster-state"] = "cluster-state"
    cluster: Name
    state: Annotated[WantedState, Field(strict=False)]


class Rescue(CommandBase):
    """Re-route what waits in the topic of a cluster that is down."""

    kind: Literal["rescue"] = "rescue"
    cluster: Name


class AcceptRules(CommandBase):
    """Let the mapping go on under other key rules; the shards stay as many."""

    kind: Literal["accept-rules"] = "accept-rules"
    rules_hash: Annotated[str, Field(min_length=1, max_length=100)]
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]


class Rehome(CommandBase):
    """Give shards other homes; their slots follow as returns."""

    kind: Literal["rehome"] = "rehome"
    homes: Annotated[list[tuple[Shard, Name]], Field(min_length=1, max_length=MAX_SHARDS)]
    """(shard, its new home), each shard once."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        shard, times = Counter(shard for shard, _ in self.homes).most_common(1)[0]
        if times > 1:
            raise ValueError(f"shard {shard} gets {times} homes")
        return self


class SetMode(CommandBase):
    kind: Literal["mode"] = "mode"
    mode: Annotated[Mode, Field(strict=False)]


class Freeze(CommandBase):
    kind: Literal["freeze"] = "freeze"
    reason: str = ""


class Resume(CommandBase):
    kind: Literal["resume"] = "resume"


Command = ClusterAdd | SetClusterState | Rescue | AcceptRules | Rehome | SetMode | Freeze | Resume
_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def command_record(data: bytes | None) -> Command:
    """Returns the command in `data`; raises InvalidRecordError."""
    record: Command = parse(_COMMAND, "command", data)
    return record
