"""Settings of a round, apart from its code: the configuration reads them without loading a forecaster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streams.core.planner import PlannerSettings


@dataclass(frozen=True)
class RoundSettings:
    """Settings of a round; durations in seconds of model time."""

    planner: PlannerSettings
    policy: Literal["predictive", "reactive"] = "predictive"
    """What rounds plan on: forecasts and announcements, or measured load only."""
    round_s: float = 10.0
    latency_objective_s: float = 1.0
    dead_after_s: float = 120.0
    """A cluster in whose topic requests wait is set down after so long without a sign of life."""
    wait_for_handoff: bool = True
    """Whether a shard stays until its last move is settled everywhere; off only to attack the handoff."""
