"""The registry of clusters, and what operators command."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.records.record import (
    Capacity,
    Name,
    Record,
    parse,
)


class ClusterState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    DOWN = "down"


class Cluster(Record):
    """One backend cluster as registered. Topic `clusters`, key = name."""

    name: Name
    topic: Name
    group: Name
    capacity_cps: Capacity
    capacity_guessed: bool = False
    partitions: Annotated[int, Field(ge=1)]
    state: ClusterState = ClusterState.ACTIVE


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


class SetMode(CommandBase):
    kind: Literal["mode"] = "mode"
    mode: Annotated[Mode, Field(strict=False)]


class Freeze(CommandBase):
    kind: Literal["freeze"] = "freeze"
    reason: str = ""


class Resume(CommandBase):
    kind: Literal["resume"] = "resume"


Command = ClusterAdd | SetMode | Freeze | Resume
_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def command_record(data: bytes | None) -> Command:
    """Returns the command in `data`; raises InvalidRecordError."""
    record: Command = parse(_COMMAND, "command", data)
    return record
