"""What routers report: load now, and the stored history."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from schemas.records.record import (
    Count,
    Name,
    Positive,
    Record,
    Shard,
    parse,
)


class Counts(BaseModel):
    """Requests per (series, shard) that are not 0: three columns of one length."""

    model_config = Record.model_config
    series: list[Count] = []
    shard: list[Shard] = []
    count: list[Count] = []

    @model_validator(mode="after")
    def _columns_match(self) -> Self:
        if not len(self.series) == len(self.shard) == len(self.count):
            raise ValueError(
                "columns differ in length: "
                f"series {len(self.series)}, shard {len(self.shard)}, count {len(self.count)}"
            )
        return self


def check_series(counts: Counts, names: list[str]) -> None:
    """Raises ValueError where a series index of the counts has no name."""
    most = max(counts.series, default=-1)
    if most >= len(names):
        raise ValueError(f"series index {most} has no name: {len(names)} names")


class OffsetRange(BaseModel):
    """Offsets `[from_offset, to_offset)` of one ingest partition, forwarded and committed."""

    model_config = Record.model_config
    partition: Count
    from_offset: Count
    to_offset: Count

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_offset < self.from_offset:
            raise ValueError(f"to_offset {self.to_offset} is before from_offset {self.from_offset}")
        return self


class PartitionLoad(OffsetRange):
    """What one router did with one ingest partition during one window."""

    requests: Count
    bytes: Count
    lag: Count
    """Records of the partition not read yet at the window's end (position, not committed offset)."""
    forwarded: Counts
    """Requests forwarded in this window, by (series, shard), whenever they were produced."""


class HandoffLoad(BaseModel):
    """What of a router's slots is on its way to another cluster: (ingest partition, slot) pairs."""

    model_config = Record.model_config
    watch: Count = 0
    hold: Count = 0
    held_requests: Count = 0


class HotKeyLoad(BaseModel):
    """A busy key of a window, by the hash of its key bytes: its value is nobody's business here."""

    model_config = Record.model_config
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    slot: Count
    """Global slot."""
    requests: Count
    """Estimate from a sample."""
    error: Count = 0
    """By how much it may be too high."""


class LoadReport(Record):
    """A router's report of one window: what it forwarded and committed. Topic `load`, key = router."""

    kind: Literal["report"] = "report"
    router: Name
    window_from: float
    window_to: float
    epoch: Count
    version: Count
    series: list[str]
    partitions: list[PartitionLoad]
    clusters: dict[Name, list[Count]] = {}
    """Requests forwarded per cluster and output partition."""
    hot_slots: list[tuple[Count, Count]] = []
    """(global slot, requests) of the busiest slots of the window."""
    hot_keys: list[HotKeyLoad] = []
    dead_letters: Count = 0
    handoffs: HandoffLoad = HandoffLoad()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window_to <= self.window_from:
            raise ValueError(f"window ends at {self.window_to}, not after {self.window_from}")
        for part in self.partitions:
            check_series(part.forwarded, self.series)
        return self


class LoadHistory(Record):
    """A router's part of one forecast step, by record timestamp. Topic `load`, key = router.

    The sum over routers (and over late corrections) is the stored history.
    """

    kind: Literal["history"] = "history"
    router: Name
    step: Count
    """Index of the step: it covers [step * step_s, (step + 1) * step_s) of model time."""
    step_s: Positive
    ranges: list[OffsetRange] = []
    """Offsets that this router counted since its previous history record."""
    series: list[str]
    arrivals: Counts

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_series(self.arrivals, self.series)
        return self


LoadRecord = Annotated[LoadReport | LoadHistory, Field(discriminator="kind")]
_LOAD: TypeAdapter[LoadReport | LoadHistory] = TypeAdapter(LoadRecord)


def load_record(data: bytes | None) -> LoadReport | LoadHistory:
    """Returns the record of the `load` topic in `data`; raises InvalidRecordError."""
    record: LoadReport | LoadHistory = parse(_LOAD, "load record", data)
    return record
