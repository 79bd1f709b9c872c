"""A workload while it is drawn up: series with tenants, what happens to them, capacities; then its scale."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from schemas.records import SLOTS, Event, EventKey
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.simulation.shapes import DAY_S, Shapes, wander
from streams.core.simulation.workload import BIN_S, SPREAD, Cells, Floats, Singles, Span, Workload

START = 20_000 * DAY_S
"""Model time of the first bin: midnight."""
MEAN_CAPACITY = 1_000.0
"""Cost units/s of a cluster on average: 100 requests/s would be mostly chance, 10,000 none at all."""
TENANT_SKEW = 0.9
"""Zipf exponent of the tenants of a series."""
TENANT_WANDER, WANDER_S, WANDER_KNOTS_S = 0.25, 1_800.0, 300.0
"""A tenant's part of its series wanders by this (log, standard deviation), with this memory."""
HIGHEST_MEAN = 0.75
"""Mean utilisation is not above this, whatever the peak."""
PEAK = (0.92, 0.97)
"""The busiest minute's load, as a part of all capacity that is there: what perfect balance could serve."""
BASE = 0.85
"""The same of the base alone, before anything happens."""
MINUTE = round(60 / BIN_S)


@dataclass(frozen=True)
class Size:
    """How large a simulation is."""

    shards: int = 256
    clusters: int = 12
    warm_s: float = 3 * DAY_S
    length_s: float = DAY_S

    @property
    def bins(self) -> int:
        return round((self.warm_s + self.length_s) / BIN_S)

    @property
    def warm_bins(self) -> int:
        return round(self.warm_s / BIN_S)


@dataclass
class Draft:
    """Series, cells and capacities so far. Rates are requests/s; times are seconds since START."""

    rng: np.random.Generator
    size: Size
    shapes: Shapes
    start: float = START
    """Model time of the first bin."""
    given: KeyRules | None = None
    """Rules of request types, where they are not made up from the names."""
    capacity_cps: Floats = field(init=False)
    capacity_factor: Singles = field(init=False)
    names: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    silent: list[tuple[str, Span]] = field(default_factory=list)
    leaderless: list[Span] = field(default_factory=list)
    forecast_error_sd: float = 0.0
    expected: int = 12
    """How many series there will be: their tenants fill the shards about once."""
    _free: list[int] = field(default_factory=list)
    _cells: list[tuple[int, int, int]] = field(default_factory=list)
    _rates: list[Singles] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.capacity_cps = np.full(self.size.clusters, MEAN_CAPACITY)
        self.capacity_factor = np.ones((self.size.bins, self.size.clusters), dtype=np.float32)
        self.time: Floats = np.arange(self.size.bins, dtype=np.float64) * BIN_S
        self.clusters = tuple(f"c{number + 1:02}" for number in range(self.size.clusters))

    # ------------------------------------------------------------------ what there is

    def base(self, series: int, shifts_h: tuple[float, ...]) -> None:
        """Adds series with tenants; the shifts are those of their days, in turn."""
        self.expected = series
        weights = np.arange(1, series + 1) ** -0.6
        weights *= BASE * self.capacity_cps.sum() / weights.sum()
        shapes = [
            self.shapes.draw(self.rng, self.size.bins, 3600 * shifts_h[number % len(shifts_h)])
            for number in range(series)
        ]
        peak = (weights @ np.array([minutes(shape) for shape in shapes])).max() / weights.sum()
        for number, shape in enumerate(shapes):
            self.names.append(f"t{number + 1:02}")
            self.tenants(number, weights[number] / peak * shape)

    def tenants(self, series: int, rate: Floats) -> None:
        """Adds the cells of a series, float64[bins] requests/s in all: tenants of different sizes."""
        count = max(2, round(self.size.shards / max(self.expected, 1)))
        parts = np.arange(1, count + 1) ** -TENANT_SKEW
        knots = int(self.size.bins * BIN_S / WANDER_KNOTS_S) + 2
        for part in parts / parts.sum():
            own = wander(self.rng, knots, WANDER_S / WANDER_KNOTS_S, TENANT_WANDER)
            factor = np.exp(np.interp(self.time / WANDER_KNOTS_S, np.arange(knots), own))
            self.add(series, self._next_shard(), SPREAD, part * rate * factor)

    def _next_shard(self) -> int:
        """Returns a shard by chance; each comes once before any again: large tenants rarely share one."""
        if not self._free:
            self._free = self.rng.permutation(self.size.shards).tolist()
        return int(self._free.pop())

    def add(self, series: int, shard: int, slot: int, rate: Floats) -> int:
        """Adds a cell and returns its number; float64[bins]."""
        self._cells.append((series, shard, slot))
        self._rates.append(rate.astype(np.float32))
        return len(self._cells) - 1

    def add_series(self, name: str) -> int:
        """Adds a series without cells and returns its number."""
        self.names.append(name)
        return len(self.names) - 1

    def multiply(self, factor: Floats, *, series: int | None = None, shard: int | None = None) -> None:
        """Multiplies the cells of a series or a shard by float64[bins]."""
        for cell, (own_series, own_shard, _) in enumerate(self._cells):
            if own_series == series or own_shard == shard:
                self._rates[cell] = (self._rates[cell] * factor).astype(np.float32)

    def rate(self, *, series: int | None = None, shard: int | None = None) -> float:
        """Returns the mean rate of a series or a shard."""
        cells = [cell for cell, (one, other, _) in enumerate(self._cells) if one == series or other == shard]
        return float(sum(self._rates[cell].mean() for cell in cells))

    def small_shards(self) -> list[int]:
        """Returns the shards that have a load below the median, by number."""
        loads = np.bincount(
            [shard for _, shard, _ in self._cells],
            weights=[float(rate.mean()) for rate in self._rates],
            minlength=self.size.shards,
        )
        some = np.flatnonzero(loads > 0)
        return [int(shard) for shard in some if loads[shard] <= np.median(loads[some])]

    def hours(self, a_day: float) -> list[float]:
        """Returns times by chance, so many a day on average and at least one, over all days, in order."""
        count = max(1, round(a_day * self.size.bins * BIN_S / DAY_S))
        return sorted(self.rng.uniform(0, self.size.bins * BIN_S, count).tolist())

    # ------------------------------------------------------------------ keys

    def rules(self) -> KeyRules:
        """Returns the rules of the request types so far."""
        if self.given is not None:
            return self.given
        field_ = (parse_field("key"),)
        return KeyRules(
            shards=self.size.shards,
            type_from=(parse_field("header:type"),),
            types=tuple(RequestType(name, field_) for name in self.names),
        )

    def key(self, series: int, shard: int | None) -> tuple[EventKey, int, int]:
        """Returns a key of a series with its shard and slot; in the given shard, if any."""
        rules, name = self.rules(), self.names[series]
        first = int(self.rng.integers(1_000_000))
        for number in range(first, first + 100 * self.size.shards):
            values: list[str | int | bool] = [f"k{number}"]
            found, slot = locate(rules, name, values)
            if shard is None or found == shard:
                return EventKey(type=name, values=values), found, slot % SLOTS
        raise ValueError(f"no key of type {name} was found in shard {shard}")

    # ------------------------------------------------------------------ the result

    def finished(self, name: str, peak: float | None = None) -> Workload:
        """Returns the workload, scaled so that its busiest minute takes `peak` of the capacity."""
        peak = float(self.rng.uniform(*PEAK)) if peak is None else peak
        work = self.built(name)
        used = work.utilisation()
        scale = min(peak / float(minutes(used).max()), HIGHEST_MEAN / float(used.mean()))
        work.rate[:] *= np.float32(scale)
        events = [
            event.model_copy(update={"requests_per_s": event.requests_per_s * scale})
            if event.requests_per_s
            else event
            for event in work.events
        ]
        return replace(work, events=tuple(events))

    def built(self, name: str) -> Workload:
        """Returns the workload as it is."""
        series, shard, slot = (np.array(column, dtype=np.int64) for column in zip(*self._cells, strict=True))
        return Workload(
            name=name,
            rules=self.rules(),
            start=self.start,
            warm_bins=self.size.warm_bins,
            cells=Cells(series, shard, slot),
            rate=np.stack(self._rates, axis=1),
            clusters=self.clusters,
            capacity_cps=self.capacity_cps,
            capacity_factor=self.capacity_factor,
            events=tuple(self.events),
            silent=tuple(self.silent),
            leaderless=tuple(self.leaderless),
            forecast_error_sd=self.forecast_error_sd,
        )


def minutes(values: Floats) -> Floats:
    """Returns the means of whole minutes of float64[bins]."""
    whole = len(values) // MINUTE * MINUTE
    found: Floats = values[:whole].reshape(-1, MINUTE).mean(axis=1)
    return found


def trapezoid(time: Floats, start: float, end: float, ramp: float) -> Floats:
    """Returns float64[n]: 0 before, 1 from start to end, with ramps centred on both."""
    rise = np.clip((time - start) / ramp + 0.5, 0.0, 1.0)
    shape: Floats = np.minimum(rise, np.clip((end - time) / ramp + 0.5, 0.0, 1.0))
    return shape
