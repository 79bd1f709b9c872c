"""What all records share: strict JSON both ways, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.errors import InvalidRecordError

SLOTS = 256
"""Slots per shard: the parts of a shard that move; one drift step is 1/256 of a shard."""

MAX_SHARDS = 4096

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"
"""Names of clusters, routers and events: what Kafka allows in a topic name, and short."""

MOST_COUNT = 2**53 - 1
"""Counts and offsets: what float64 and every JSON reader hold exactly."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Count = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Capacity = Annotated[float, Field(ge=1e-6, le=1e12)]
"""Cost units/s. Beyond these bounds sums and quotients of capacities leave the range of a float."""
Shard = Annotated[int, Field(ge=0, lt=MAX_SHARDS)]
Segment = tuple[int, int, Name]
"""A half-open range of slots and the cluster that owns it: (0, 64, "c5")."""


class Record(BaseModel):
    """One JSON record. `to_json` gives the bytes on the wire, `from_json` reads them back."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    schema_version: Literal[1] = Field(default=1, alias="schema")

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str | None) -> Self:
        """Returns the record in `data`; raises InvalidRecordError naming every wrong field."""
        record: Self = parse(TypeAdapter(cls), cls.__name__, data)
        return record


def parse(adapter: TypeAdapter[Any], what: str, data: bytes | str | None) -> Any:
    """Returns the record that the adapter finds in `data`; raises InvalidRecordError, `what` first."""
    if not data:
        raise InvalidRecordError(f"{what}: the value is empty; send one JSON object")
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise InvalidRecordError(f"{what}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Returns one line per wrong field, with its place and the value that was given."""
    parts = []
    for item in error.errors():
        place = ".".join(str(step) for step in item["loc"]) or "record"
        given = repr(item.get("input"))
        shown = given if len(given) <= 60 else given[:57] + "..."
        parts.append(f"{place}: {item['msg']} (given: {shown})")
    return "; ".join(parts)
