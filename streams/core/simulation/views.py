"""What balancers may know of a load: measurements, forecasts of several kinds, or the future itself.

Everything that is the same for several policies is worked out once: measurements and forecasts depend on
what arrives, not on where it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from schemas.records import SLOTS, Counts, Event, LoadReport, PartitionLoad
from streams.core.events import EventBook
from streams.core.forecast import Forecaster, Skill
from streams.core.forecast.skill import Score
from streams.core.keys import KeyRules
from streams.core.load import WINDOW_S, LoadBook
from streams.core.outlook import COLUMNS, HORIZON, Demand, Outlook, skew
from streams.core.series import SeriesRows
from streams.core.simulation.workload import BINS_PER_STEP, Cells, Floats, Ints, Workload
from streams.core.steps import STEP_S, Step

NEAR_BINS = 1
"""The true load at a time is the mean over so many bins before and after: half a minute in all."""
CAPACITY_EVENT = "true-capacity"


class Measured(LoadBook):
    """The rates that all balancers measure, from the reports of one router for all of the load."""

    def __init__(self, rules: KeyRules) -> None:
        super().__init__(SeriesRows.of(rules), rules.shards, 1)
        self._rules = rules
        self._offset = 0
        self._known: tuple[float, Floats | None] = (float("nan"), None)

    def report(self, cells: Cells, counts: Floats, window_to: float) -> None:
        """Takes the requests of each cell in a window, float64[cells]."""
        flat = cells.series * self._rules.shards + cells.shard
        total = np.bincount(flat, weights=counts, minlength=len(self._rules.series) * self._rules.shards)
        (some,) = np.nonzero(total)
        series, shard = np.divmod(some, self._rules.shards)
        requests = int(counts.sum())
        on = cells.on_slots()
        busy = on[counts[on] > 0]
        part = PartitionLoad.model_construct(
            partition=0,
            from_offset=self._offset,
            to_offset=self._offset + requests,
            requests=requests,
            bytes=0,
            lag=0,
            forwarded=Counts.model_construct(
                series=series.tolist(), shard=shard.tolist(), count=total[some].tolist()
            ),
        )
        self._offset += requests
        hot = zip((cells.shard[busy] * SLOTS + cells.slot[busy]).tolist(), counts[busy].tolist(), strict=True)
        self.add(
            LoadReport.model_construct(
                router="router",
                window_from=window_to - WINDOW_S,
                window_to=window_to,
                epoch=1,
                version=1,
                series=list(self._rules.series),
                partitions=[part],
                clusters={},
                hot_slots=[(slot, int(count)) for slot, count in hot],
            )
        )

    def rates(self, now: float, costs: Floats | None = None) -> Floats | None:
        """Returns what LoadBook.rates does; asked again for the same time, the same."""
        if self._known[0] != now:
            self._known = now, super().rates(now, costs)
        return self._known[1]


class View(Outlook):
    """An Outlook that several balancers of the same rules share: its demand at a time is worked out once."""

    def __init__(self, rules: KeyRules, events: EventBook) -> None:
        super().__init__(rules)
        self.events = events
        self._known: tuple[float, Demand | None] = (float("nan"), None)

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns nothing: nobody takes over here, so there is nothing to save."""
        return {}

    def demand(self, now: float, rates: Floats, hot: Mapping[int, float], events: EventBook) -> Demand:
        """Returns the Demand at `now`; asked again for the same time, the same."""
        at, demand = self._known
        if demand is None or at != now:
            demand = self._look(now, rates, hot, events)
            self._known = now, demand
        return demand

    def _look(self, now: float, rates: Floats, hot: Mapping[int, float], events: EventBook, /) -> Demand:
        return super().demand(now, rates, hot, events)


class Blind(View):
    """What an Outlook says that has learned nothing and knows of no event, in a tenth of the time."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work.rules, EventBook(work.rules, work.clusters))

    def _look(self, _now: float, rates: Floats, hot: Mapping[int, float], _events: EventBook, /) -> Demand:
        measured = self.costs_by_row()[:, None] * rates
        load = np.repeat(measured.sum(axis=0)[:, None], COLUMNS, axis=1)
        return Demand(load, skew(rates, hot), frozenset())


class Truth(View):
    """The future as it will be: expected rates, and capacities also where nobody announced them."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work.rules, EventBook(work.rules, work.clusters))
        for event in _true_capacities(work):
            self.events.add(event)
        self._work = work
        self._costs = work.cell_costs()

    def _look(self, now: float, /, *_measured: object) -> Demand:
        rows = [self._cells_at(now, column) for column in range(COLUMNS)]
        load = self._work.by_shard(np.array(rows)).T
        return Demand(np.ascontiguousarray(load), self._slots(np.max(rows, axis=0)), frozenset())

    def _cells_at(self, now: float, column: int) -> Floats:
        """Returns float64[cells], cost units/s at a column's time: the bin that begins for column 0."""
        middle = round((now - self._work.start + column * STEP_S) / 10.0)
        first, last = (middle - NEAR_BINS, middle + NEAR_BINS) if column else (middle, middle)
        rate = self._work.rate[max(first, 0) : last + 1]
        mean: Floats = (rate if len(rate) else self._work.rate[-1:]).mean(
            axis=0, dtype=np.float64
        ) * self._costs
        return mean

    def _slots(self, cells: Floats) -> dict[int, Floats]:
        """Returns the slots' parts of the shards that hold hot keys."""
        where = self._work.cells
        found: dict[int, Floats] = {}
        for cell in where.on_slots().tolist():
            if cells[cell] > 0:
                shard = int(where.shard[cell])
                row = found.get(shard)
                if row is None:
                    spread = cells[(where.shard == shard) & (where.slot < 0)].sum()
                    row = found[shard] = np.full(SLOTS, spread / SLOTS)
                row[where.slot[cell]] += cells[cell]
        return {shard: row / row.sum() for shard, row in found.items()}


class Spoiled(Forecaster):
    """A forecaster whose forecasts are multiplied by chance; it is judged by what it says."""

    def __init__(self, series: int, sd: float, rng: np.random.Generator) -> None:
        super().__init__(series, STEP_S, HORIZON)
        self._sd, self._rng = sd, rng
        self._own = Score(series, STEP_S)
        self._steps = np.zeros(series, dtype=np.int64)
        self._factor = np.ones((series, 1))
        self._said: dict[int, Floats] = {}

    def learn(self, index: int, values: Floats) -> None:
        super().learn(index, values)
        known = np.isfinite(values)
        self._steps += known
        said = self._said.pop(index - HORIZON, None)
        if said is not None:
            seen = np.where(known, values, 0.0)
            self._own.add(index, known, np.abs(said[:, -1] - seen), np.abs(said[:, 0] - seen), seen)
        self._factor = np.exp(self._sd * self._rng.standard_normal((self.series, 1)))
        self._said[index] = self.forecast()

    def forecast(self) -> Floats:
        path = super().forecast()
        path[:, 1:] *= self._factor
        return path

    def skill(self) -> list[Skill]:
        return self._own.skills(self._steps, -1 if self.index is None else self.index)


def taught(work: Workload, events: Iterable[Event], steps: Iterable[Step], rng: np.random.Generator) -> View:
    """Returns a view that knows the events and has learned the steps."""
    view = View(work.rules, EventBook(work.rules, work.clusters))
    for event in events:
        view.events.add(event)
    if work.forecast_error_sd:
        view.forecaster = Spoiled(view.forecaster.series, work.forecast_error_sd, rng)
    for step in steps:
        view.learn(step, view.events)
    return view


def _true_capacities(work: Workload) -> list[Event]:
    """Returns one event per time in which a cluster has a constant part of its capacity."""
    found = []
    for row, name in enumerate(work.clusters):
        factor = work.capacity_factor[:, row]
        borders = [0, *(np.flatnonzero(np.diff(factor)) + 1).tolist(), len(factor)]
        for first, last in pairwise(borders):
            if factor[first] != 1.0:
                found.append(
                    Event(
                        id=f"{CAPACITY_EVENT}-{name}-{first}",
                        kind=CAPACITY_EVENT,
                        start=work.time(first),
                        end=work.time(last),
                        cluster=name,
                        capacity_factor=float(factor[first]),
                    )
                )
    return found


def warm_steps(work: Workload, rng: np.random.Generator) -> Iterable[Step]:
    """Yields the steps of the days that are only learned, with requests by chance."""
    first = round(work.start / STEP_S)
    for number in range(work.warm_bins // BINS_PER_STEP):
        rate = work.rate[number * BINS_PER_STEP : (number + 1) * BINS_PER_STEP].mean(axis=0, dtype=np.float64)
        yield Step(first + number, step_counts(work, rng.poisson(rate * STEP_S)))


def step_counts(work: Workload, requests: Floats | Ints) -> Floats:
    """Returns float64[series, shards], the requests of the cells."""
    shape = len(work.rules.series), work.rules.shards
    flat = work.cells.series * work.rules.shards + work.cells.shard
    weights: Floats = requests.astype(np.float64)
    counts: Floats = np.bincount(flat, weights, shape[0] * shape[1]).reshape(shape).astype(np.float64)
    return counts
