"""What reporters see of the backends."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.records.record import (
    Capacity,
    Count,
    Fraction,
    Name,
    Positive,
    Rate,
    Record,
)


class ClusterMetrics(Record):
    """What a reporter saw of one backend instance. Topic `metrics`, key = cluster."""

    cluster: Name
    instance: Name
    at: float
    interval_s: Positive
    cpu: Annotated[float, Field(ge=0, le=1.5)] | None = None
    """Fraction of the CPU that the process tree (or host) may use; a little over 1 is rounding."""
    memory: Fraction | None = None
    queue_depth: Count | None = None
    """The group's lag in offsets, transaction markers included."""
    throughput_rps: Rate | None = None
    latency_s: Rate | None = None
    latency_estimated: bool = False
    capacity_cps: Capacity | None = None
