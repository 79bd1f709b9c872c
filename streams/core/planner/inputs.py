"""What the planner takes in and gives back: values only, no rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from schemas.records import ClusterState, MappingRecord, Move, Skip, Stuck

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlannerSettings:
    """The constants of the planner; fractions are of available capacity unless said otherwise."""

    band: float = 0.15
    """A cluster sheds load above (1 + band) x mean utilisation."""
    minband: float = 0.05
    """The band never closes further than this, however full all clusters are."""
    floor: float = 0.78
    """Below this utilisation nothing is shed: imbalance without overload costs nobody anything."""
    ceil: float = 0.93
    """Above this utilisation a queue grows at the first burst: load is shed whatever the mean is."""
    damp: float = 0.5
    """Shedding goes down to (1 + band x damp) x mean, so that the next round does not begin again."""
    margin: float = 0.04
    """Least distance between where shedding starts and where it ends."""
    retfloor: float = 0.68
    """A home stays below this after a return: well under `floor`, so that it does not shed again."""
    backlog_clear_s: float = 60.0
    """Seconds: a backlog counts as the load that would clear it in this time."""
    budget: float = 0.09
    """Part of the whole load that one round may move: what receivers' caches can follow."""
    max_moves: int = 16
    """Moves per round that shed load."""
    max_returns: int = 16
    """Moves per round that return slots home."""
    cooldown_s: float = 90.0
    """Seconds that slots stay where they arrived: three forecast steps, then the effect is measured."""
    dwell_s: float = 900.0
    """Seconds from a shard's last move to its return: longer than most bursts."""
    max_targets: int = 4
    """Clusters besides its home that may hold slots of one shard."""
    min_load: float = 0.002
    """Of the mean capacity: moves of less are not worth a handoff."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value >= 0:
                raise ValueError(f"planner setting {item.name} must be 0 or more, not {value}")
        if not self.retfloor <= self.floor <= self.ceil:
            raise ValueError(
                "planner settings need retfloor <= floor <= ceil, "
                f"not {self.retfloor}, {self.floor}, {self.ceil}"
            )
        if self.backlog_clear_s <= 0:
            raise ValueError(f"planner setting backlog_clear_s must be over 0, not {self.backlog_clear_s}")


@dataclass(frozen=True)
class ClusterInput:
    """One cluster as a round sees it."""

    name: str
    state: ClusterState
    known: bool
    """False: its capacity or backlog is not known, so it is neither source nor target."""
    capacity: Floats
    """float64[columns], available cost units/s; column 0 is now."""
    backlog: float
    """Cost units that wait in its topic."""
    closed: str = ""
    """Why it may not be a target: "memory", "latency", or "" when it may."""


@dataclass(frozen=True)
class PlanInput:
    """Everything one plan depends on."""

    now: float
    load: Floats
    """float64[shards, columns], cost units/s; column 0 is measured, the others forecast."""
    skew: Mapping[int, Floats]
    """float64[256] per skewed shard: each slot's part of the shard's load, sum 1. Absent = uniform."""
    records: Sequence[MappingRecord]
    """Index = shard."""
    clusters: Sequence[ClusterInput]
    arrived: Mapping[tuple[int, str], float] = field(default_factory=dict)
    """(shard, cluster) -> time at which slots of the shard last arrived there."""
    moved: Mapping[int, float] = field(default_factory=dict)
    """shard -> time of its last move."""
    pending: Set[int] = frozenset()
    """Shards with a handoff that is not finished."""
    event_shards: Set[int] = frozenset()
    """Shards whose load an announced event changes within the window."""
    joined: Set[int] = frozenset()
    """Shards that are away from home because a new cluster became their home."""
    rehomed: Set[int] = frozenset()
    """Shards that are away from home because an operator gave them another home."""


def measured_only(inputs: PlanInput) -> PlanInput:
    """Returns what a planner without any forecast sees: every column of load and capacity is column 0.

    Where an announcement shapes the skew of a shard its slots count as equal: what is measured of
    them is not known here.
    """
    still = np.zeros(inputs.load.shape[1], dtype=np.int64)
    return replace(
        inputs,
        load=inputs.load[:, still],
        skew={shard: skew for shard, skew in inputs.skew.items() if shard not in inputs.event_shards},
        clusters=[replace(cluster, capacity=cluster.capacity[still]) for cluster in inputs.clusters],
        event_shards=frozenset(),
    )


@dataclass(frozen=True)
class Plan:
    """What one round would do, and why."""

    moves: list[Move]
    skip: Skip | None
    """Why there is no move; None when there are moves."""
    detail: str
    """One plain sentence with numbers."""
    stuck: list[Stuck]
    score_before: dict[str, float]
    """Per cluster: highest (load + backlog / backlog_clear_s) / capacity of the window."""
    score_after: dict[str, float]
    demand: dict[str, Floats]
    """Per cluster before the moves: float64[columns], load + backlog / backlog_clear_s, cost units/s."""
