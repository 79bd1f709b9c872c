"""Global slot -> cluster, as routers read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from schemas.records.clusters import ClusterState
from schemas.records.record import (
    MAX_SHARDS,
    SLOTS,
    Count,
    Name,
    Record,
    Segment,
    Shard,
    parse,
)


def check_tiles(segments: list[Segment], shard: int) -> None:
    """Raises ValueError unless the segments tile 0..256 in order, without gap or overlap."""
    position = 0
    for start, stop, cluster in segments:
        if start != position or stop <= start:
            raise ValueError(
                f"segments of shard {shard} do not tile 0..{SLOTS}: "
                f"[{start}, {stop}) of {cluster} follows slot {position}"
            )
        position = stop
    if position != SLOTS:
        raise ValueError(f"segments of shard {shard} end at slot {position}, not {SLOTS}")


class PreviousSegments(BaseModel):
    """Segments that routers may still be using, in force up to `version`."""

    model_config = Record.model_config
    version: Count
    segments: list[Segment]


class MappingRecord(Record):
    """Where one shard's slots go. Topic `mapping`, key = shard number."""

    kind: Literal["shard"] = "shard"
    shard: Shard
    version: Count
    epoch: Count
    home: Name
    segments: list[Segment]
    previous: list[PreviousSegments] = []
    plan: str
    """epoch.round of the plan that wrote it."""
    reason: str

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        check_tiles(self.segments, self.shard)
        for old in self.previous:
            check_tiles(old.segments, self.shard)
        return self


class MappedCluster(BaseModel):
    """A cluster as the routers know it."""

    model_config = Record.model_config
    topic: Name
    group: Name
    partitions: Annotated[int, Field(ge=1)]
    state: ClusterState
    rescues: Count = 0


class MappingMeta(Record):
    """Last record of every plan: makes its shard records valid together. Key = "meta"."""

    kind: Literal["meta"] = "meta"
    version: Count
    epoch: Count
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    rules_hash: str
    clusters: dict[Name, MappedCluster]


_MAPPING: TypeAdapter[MappingRecord | MappingMeta] = TypeAdapter(
    Annotated[MappingRecord | MappingMeta, Field(discriminator="kind")]
)


def mapping_record(data: bytes | None) -> MappingRecord | MappingMeta:
    """Returns the mapping record in `data`; raises InvalidRecordError, also when it does not tile."""
    record: MappingRecord | MappingMeta = parse(_MAPPING, "mapping record", data)
    return record
