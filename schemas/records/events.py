"""Announced demand and capacity changes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from schemas.records.record import (
    Fraction,
    Name,
    Record,
)


class EventKey(BaseModel):
    """One key of a request type, as its key fields' values in the order of the rule."""

    model_config = Record.model_config
    type: str
    values: list[str | int | bool]


class Event(Record):
    """Announced demand or capacity change. Topic `events`, key = id; a tombstone withdraws it."""

    id: Name
    kind: Name
    """What sort of event: campaign, import, maintenance, ... Trust is learned per kind."""
    start: float
    end: float
    types: list[str] = []
    keys: list[EventKey] = []
    cluster: Name | None = None
    uplift: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Relative effect: load of the scope is multiplied by this."""
    requests_per_s: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Absolute effect: requests/s added to the scope, divided equally over its keys or types."""
    capacity_factor: Fraction | None = None
    """Capacity of the cluster is multiplied by this (0.7 = 30 % less)."""
    note: str = ""

    EFFECTS: ClassVar = ("uplift", "requests_per_s", "capacity_factor")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"event {self.id} ends at {self.end}, not after its start {self.start}")
        scopes = [name for name in ("types", "keys", "cluster") if getattr(self, name)]
        if len(scopes) != 1:
            raise ValueError(f"event {self.id} needs exactly one of types, keys, cluster; given: {scopes}")
        effects = [name for name in self.EFFECTS if getattr(self, name) is not None]
        if len(effects) != 1:
            raise ValueError(f"event {self.id} needs exactly one of {list(self.EFFECTS)}; given: {effects}")
        if (scopes[0] == "cluster") != (effects[0] == "capacity_factor"):
            raise ValueError(f"event {self.id}: scope {scopes[0]} does not take the effect {effects[0]}")
        return self
