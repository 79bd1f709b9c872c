"""What a simulation is given: expected requests of every part of the load, clusters, events, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.records import SLOTS, Event
from streams.core.keys import KeyRules
from streams.core.steps import STEP_S

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BIN_S = 10.0
"""Expected rates are constant for so long: ramps of a minute are seen, and a day stays in memory."""
BINS_PER_STEP = round(STEP_S / BIN_S)
SPREAD = -1
"""In place of a slot: the cell's requests are spread evenly over the slots of its shard."""


@dataclass(frozen=True)
class Cells:
    """The parts of the load that keep their place: of one series, in one shard, spread or on one slot."""

    series: Ints
    shard: Ints
    slot: Ints
    """0..255, or SPREAD."""

    def __post_init__(self) -> None:
        if not len(self.series) == len(self.shard) == len(self.slot):
            raise ValueError(
                f"{len(self.series)}, {len(self.shard)}, {len(self.slot)} entries of cells differ"
            )
        if len(self.slot) and (self.slot.min() < SPREAD or self.slot.max() >= SLOTS):
            raise ValueError(f"slots of cells are in {SPREAD}..{SLOTS - 1}, not up to {self.slot.max()}")

    def __len__(self) -> int:
        return len(self.series)

    def on_slots(self) -> Ints:
        """Returns the cells whose requests are all on one slot: hot keys."""
        return np.flatnonzero(self.slot != SPREAD)


@dataclass(frozen=True)
class Span:
    """Model times [start, end) in which something is away."""

    start: float
    end: float

    def holds(self, time: float) -> bool:
        return self.start <= time < self.end


@dataclass(frozen=True)
class Workload:
    """A few days of load: the first `warm_bins` are only learned, the rest is simulated."""

    name: str
    rules: KeyRules
    start: float
    """Model time of the first bin, a multiple of the forecast step."""
    warm_bins: int
    """A multiple of the bins of a forecast step."""
    cells: Cells
    rate: Singles
    """float32[bins, cells], expected requests/s."""
    clusters: tuple[str, ...]
    """Sorted names."""
    capacity_cps: Floats
    """float64[clusters], cost units/s as registered."""
    capacity_factor: Singles
    """float32[bins, clusters], the part of it that is really there."""
    events: tuple[Event, ...] = ()
    """What is announced, true or not."""
    silent: Sequence[tuple[str, Span]] = field(default_factory=tuple)
    """Clusters whose reporters say nothing for a time."""
    leaderless: Sequence[Span] = field(default_factory=tuple)
    """Times without a balancer."""
    forecast_error_sd: float = 0.0
    """Forecasts are multiplied by exp(this x a standard normal number): made bad on purpose."""

    def __post_init__(self) -> None:
        if self.start % STEP_S or self.warm_bins % BINS_PER_STEP:
            raise ValueError(f"start {self.start} or warm_bins {self.warm_bins} is not at a border of steps")
        if self.rate.shape[1] != len(self.cells) or not 0 <= self.warm_bins < len(self.rate):
            raise ValueError(
                f"rates {self.rate.shape} do not fit {len(self.cells)} cells, {self.warm_bins} warm"
            )
        if self.capacity_factor.shape != (len(self.rate), len(self.clusters)):
            raise ValueError(
                f"capacity factors {self.capacity_factor.shape} do not fit {self.rate.shape} rates"
            )
        if list(self.clusters) != sorted(set(self.clusters)) or len(self.capacity_cps) != len(self.clusters):
            raise ValueError(f"clusters {self.clusters} are not sorted, each once, each with a capacity")
        if not np.isfinite(self.rate).all() or self.rate.min(initial=0.0) < 0:
            raise ValueError("rates must be finite and 0 or more")

    @property
    def hours(self) -> float:
        """Simulated hours, without those that are only learned."""
        return (len(self.rate) - self.warm_bins) * BIN_S / 3600

    def utilisation(self) -> Floats:
        """Returns float64[bins]: the load of the simulated time as a part of all capacity that is there."""
        load = self.rate[self.warm_bins :] @ self.cell_costs()
        used: Floats = load / (self.capacity_factor[self.warm_bins :] @ self.capacity_cps)
        return used

    def time(self, number: int) -> float:
        """Returns the model time at which a bin begins."""
        return self.start + number * BIN_S

    def cell_costs(self) -> Floats:
        """Returns float64[cells], cost units per request."""
        costs: Floats = self.rules.costs()[self.cells.series]
        return costs

    def by_shard(self, values: npt.NDArray[np.floating]) -> Floats:
        """Returns float64[n, shards], sums over the cells of each shard of values[n, cells]."""
        order = np.argsort(self.cells.shard, kind="stable")
        starts = np.flatnonzero(np.diff(self.cells.shard[order], prepend=-1))
        sums = np.zeros((len(values), self.rules.shards))
        if len(order):
            sums[:, self.cells.shard[order][starts]] = np.add.reduceat(values[:, order], starts, axis=1)
        return sums

    def known_load(self) -> Floats:
        """Returns float64[shards], the mean load of the learned days (of all if none is), cost units/s."""
        mean = self.rate[: self.warm_bins or None].mean(axis=0, dtype=np.float64) * self.cell_costs()
        load: Floats = self.by_shard(mean[None, :])[0]
        return load
