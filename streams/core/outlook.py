"""What the next minutes will ask of every shard: forecasts x shares x costs, plus announced events."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.records import SLOTS, SeriesView
from streams.core.events import EventBook
from streams.core.forecast import Costs, Forecaster, Skill
from streams.core.keys import KeyRules
from streams.core.load import Shares, Step, newest_sd
from streams.core.series import SeriesRows
from streams.core.steps import STEP_S
from streams.core.surges import Surges

Floats = NDArray[np.float64]

HORIZON = 10
"""Steps ahead: 5 minutes."""
COLUMNS = HORIZON + 1
"""Columns of a load matrix: now, then every step ahead."""
HOT_FACTOR = 4.0
"""A slot counts as hot when it carries this many times the mean slot of its shard."""
EVENT_PART = 0.05
"""A shard's rise is put down to events when they add more than this part of its load."""
MOST_UPLIFT = 1e6
"""Events that multiply one another must not make a load infinite."""
FAR_OFF = 2.0
"""A series that measures over this many times what was forecast for now ..."""
FAR_OFF_SD = 4.0
"""... and so many standard deviations of a Poisson count more, is expected to stay as it is at least."""
LEAST_PLAIN = 0.5
"""Less of a series on plain shards says nothing of the whole."""
NOTHING, ONE = np.zeros(1), np.ones(1)
"""The effect now of an event that is not on: nothing added, nothing multiplied."""


@dataclass(frozen=True)
class Demand:
    """Load per shard over the window, with what is known about single slots and series."""

    load: Floats
    """float64[shards, 11], cost units/s: [:, 0] measured now, [:, j] expected j steps ahead."""
    skew: Mapping[int, Floats]
    """shard -> float64[256], the slots' parts of its load (sum 1); absent = uniform."""
    event_shards: Set[int]
    """Shards whose load announced events raise within the window."""
    series: list[SeriesView] = field(default_factory=list)


@dataclass(frozen=True)
class _Look:
    """What is measured at one time, by row; `times` are those looked at, the first of them now."""

    times: Floats
    rates: Floats
    """float64[rows, shards], requests/s."""
    weights: Floats
    """float64[rows]: as these, what is added to a type is divided over its rows."""
    costs: Floats
    """float64[rows], cost units per request."""
    events: EventBook
    factors: Mapping[int, Floats]
    """shard -> float64[times] by which events on its keys multiply its load."""
    factors_now: Mapping[int, Floats]
    """The same of the first time, as far as they have risen."""
    plain: NDArray[np.bool_]
    """bool[shards]: those that are as their series are: neither surging, nor with an event on their keys."""


class Outlook:
    """Forecasts and shares of all series; learns closed steps, answers with a Demand."""

    def __init__(self, rules: KeyRules, series: SeriesRows | None = None) -> None:
        """series: shared with whoever else counts or announces by row; else its own."""
        self.rules = rules
        self.series = series or SeriesRows.of(rules)
        rows = len(self.series.names)
        self.forecaster = Forecaster(rows, STEP_S, HORIZON)
        self.costs = Costs(rules.costs())
        self.shares = Shares(rows, rules.shards)
        self._surges = Surges()
        self.newest_step: int | None = None
        self.learned = 0
        """Steps learned since the start, stored history included."""

    def learn(self, step: Step, events: EventBook) -> None:
        """Takes in one closed step; announced effects are taken out first."""
        counts = None
        if step.counts is not None:
            self.series.assign(step.values, step.counts[len(self.series.types) :].sum(axis=1))
            observed = self.series.by_row(step.counts, step.values)
            usual = np.exp(self.forecaster.usual(step.index))[:, None] * self.shares.share
            expected = self.forecaster.forecast()[:, 1:2] * self.shares.share
            # A young value must not hide what its type is used to.
            values = slice(len(self.series.types), None)
            usual[values] = np.where(np.isnan(usual[values]), expected[values], usual[values])
            events.learn(step.index * STEP_S, STEP_S, observed, usual, expected)
            counts = events.deflate(step.index * STEP_S, STEP_S, observed)
            unsure = events.unsure(step.index * STEP_S, STEP_S, counts)
            counts = np.where(unsure[:, None], np.nan, counts)
            self.shares.update(np.nan_to_num(counts))
            self.costs.count(self.series.by_type(observed.sum(axis=1)) / STEP_S)
        requests = np.full(self.forecaster.series, np.nan) if counts is None else counts.sum(axis=1)
        requests[self.series.reserve] = np.nan
        self.forecaster.learn(step.index, requests)
        self.newest_step = step.index
        self.learned += 1

    def costs_by_row(self) -> Floats:
        """Returns float64[rows], cost units per request now: those of the row's type."""
        by_row: Floats = self.costs.now()[self.series.type_of]
        return by_row

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the whole state by name; whoever `restore`s it under the same rules continues exactly."""
        shares = {f"shares.{name}": value for name, value in self.shares.to_arrays().items()}
        counts = np.array(
            [-1 if self.newest_step is None else self.newest_step, self.learned], dtype=np.int64
        )
        arrays = self.forecaster.to_arrays() | self.costs.to_arrays() | shares
        return arrays | {"outlook": counts}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Takes a state; ValueError where it is that of other series or shards, and nothing was taken."""
        shares = {name: arrays.get(f"shares.{name}", np.zeros(0)) for name in self.shares.to_arrays()}
        if shares["share"].shape != self.shares.share.shape or "outlook" not in arrays:
            raise ValueError(f"the saved shares are not those of {self.rules.shards} shards")
        self.forecaster.restore(arrays)
        self.costs.restore(arrays)
        self.shares = Shares.from_arrays(shares)
        step, self.learned = (int(value) for value in arrays["outlook"])
        self.newest_step = None if step < 0 else step

    def demand(self, now: float, rates: Floats, hot: Mapping[int, float], events: EventBook) -> Demand:
        """Returns the Demand at `now` (model time).

        rates: float64[rows, shards], requests/s forwarded now; hot: global slot -> requests/s.
        A series whose forecast is not trusted contributes its measured part to every column.
        """
        times = now + STEP_S * np.arange(COLUMNS, dtype=np.float64)
        costs, skills = self.costs_by_row(), self.forecaster.skill()
        trusted = np.array([skill.trusted for skill in skills], dtype=np.bool_) & ~self.series.reserve
        factors_now = events.shard_factor(times[:1], headroom=False)
        extra, on_now = events.added(times, costs), events.added(times[:1], costs, headroom=False)
        on_keys = {slot // SLOTS for slot in on_now} | set(factors_now)
        surging = self._surges.expect(now, self.shares.share, rates * trusted[:, None], costs, on_keys)
        plain = surging <= 0
        plain[list(on_keys)] = False
        weights, factors = self._weights(rates), events.shard_factor(times)
        look = _Look(times, rates, weights, costs, events, factors, factors_now, plain)
        measured = costs[:, None] * rates
        load = np.zeros((self.rules.shards, COLUMNS))
        announced = np.zeros(self.rules.shards)
        views = []
        paths = self.forecaster.forecast()
        for row, skill in enumerate(skills):
            if self.series.reserve[row]:
                continue
            part, quiet, view = self._series(row, look, self._rps(paths[row], times), skill)
            load += part
            announced += (part - quiet).max(axis=1)
            views.append(view)
        load[:, 0] = measured.sum(axis=0)
        gated = measured[~trusted].sum(axis=0)
        load[:, 1:] += surging[:, None]
        to_come = {slot: rate - float(on_now.get(slot, NOTHING)[0]) for slot, rate in extra.items()}
        for slot, rate in extra.items():
            shard = slot // SLOTS
            seen = gated[shard] / load[shard, 0] if load[shard, 0] > 0 else 0.0
            load[shard, 1:] += np.maximum(rate + seen * (to_come[slot] - rate), 0.0)[1:]
            announced[shard] += rate.max()
        raised = np.flatnonzero(announced > EVENT_PART * load.max(axis=1))
        parts = _skew_to_come(rates.sum(axis=0), load[:, 0], hot, to_come)
        return Demand(load, parts, set(raised.tolist()), views)

    def _weights(self, rates: Floats) -> Floats:
        """Returns float64[rows]: requests now; where a type has none, most of the last day, or any ever."""
        weights: Floats = (
            rates.sum(axis=1) + 1e-6 * self.forecaster.largest() + 1e-12 * self.shares.share.sum(axis=1)
        )
        return weights

    def _series(
        self, index: int, look: _Look, base: Floats, skill: Skill
    ) -> tuple[Floats, Floats, SeriesView]:
        """Returns one series' part of the load matrix, the same without events, and its view.

        What is measured now contains the events that are on, as far as they have risen: headroom is
        for what is to come only, or an event about to start would count as measured already.
        """
        name, times, events = self.series.names[index], look.times, look.events
        rates, cost = look.rates[index], float(look.costs[index])
        uplift = np.minimum(events.uplift(name, times), MOST_UPLIFT)
        added = events.added_series(name, times, requests=look.weights)
        uplift_now = min(float(events.uplift(name, times[:1], headroom=False)[0]), MOST_UPLIFT)
        added_now = float(events.added_series(name, times[:1], False, look.weights)[0])
        share = self.shares.share[index]
        now_rps = float(rates.sum())
        if skill.trusted:
            expected = base * uplift + added
            short = _short(rates, share, look.plain, expected)
            expected += short
            quiet = np.outer(share, (base + short) * cost)
            part = np.outer(share, expected * cost)
        else:
            to_come = np.maximum(added - added_now, 0.0)
            expected = now_rps * uplift / uplift_now + to_come
            quiet = np.outer(rates, np.full(COLUMNS, cost))
            part = quiet * (uplift / uplift_now) + np.outer(share, to_come * cost)
        for shard, factor in look.factors.items():
            seen = 1.0 if skill.trusted else min(float(look.factors_now.get(shard, ONE)[0]), MOST_UPLIFT)
            part[shard] *= np.minimum(factor, MOST_UPLIFT) / seen
        on_keys = events.added_on_keys(name, times)
        coming = float(on_keys[-1] - (0.0 if skill.trusted else on_keys[0]))
        kind = self.series.type_of[index]
        view = SeriesView(
            name=name,
            of_type="" if kind == index else self.series.types[kind],
            cost=cost,
            now_rps=now_rps,
            forecast_rps=max(float(expected[-1]) + coming, 0.0),
            relative_mae=skill.relative_mae,
            trusted=skill.trusted,
            why_not=skill.why_not,
        )
        return part, quiet, view

    def _rps(self, path: Floats, times: Floats) -> Floats:
        """Returns one series' forecast, given per step, interpolated to `times`: requests/s."""
        if self.newest_step is None:
            return np.zeros(len(times))
        ahead = times / STEP_S - (self.newest_step + 0.5)
        rps: Floats = np.interp(ahead, np.arange(COLUMNS), path) / STEP_S
        return rps


def _short(rates: Floats, share: Floats, plain: NDArray[np.bool_], expected: Floats) -> Floats:
    """Returns float64[11], requests/s that a forecast lacks of what is measured, where it is far off.

    After a pause of all requests a forecast needs minutes to believe that they are back, and an import
    that begins early is not in it yet. rates, share: float64[shards], of one series.
    """
    short, part = np.zeros(len(expected)), float(share[plain].sum())
    if part < LEAST_PLAIN:
        return short
    level, nearest = float(rates[plain].sum()) / part, float(expected[:2].max())
    chance = FAR_OFF_SD * float(newest_sd(level / part))
    far_off = level > max(FAR_OFF * nearest, nearest + chance)
    return np.maximum(level - expected, short) if far_off else short


def skew(rates: Floats, hot: Mapping[int, float]) -> dict[int, Floats]:
    """Returns the slots' parts, float64[256], of the shards that have a hot slot, as measured.

    rates: float64[rows, shards], requests/s; hot: global slot -> requests/s.
    """
    return _parts(_slot_rates(rates.sum(axis=0), hot))


def _skew_to_come(
    requests: Floats, cost: Floats, hot: Mapping[int, float], to_come: Mapping[int, Floats]
) -> dict[int, Floats]:
    """Returns the same with announced hot slots, and what they will have.

    requests, cost: float64[shards], requests/s and cost units/s measured; to_come: global slot ->
    float64[11], cost units/s not measured yet.
    """
    weights = {
        shard: rates * (cost[shard] / requests[shard]) for shard, rates in _slot_rates(requests, hot).items()
    }
    for global_slot, added in to_come.items():
        shard, slot = divmod(global_slot, SLOTS)
        weight = weights.setdefault(shard, np.full(SLOTS, cost[shard] / SLOTS))
        weight[slot] += max(float(added.max()), 0.0)
    return _parts(weights)


def _parts(weights: Mapping[int, Floats]) -> dict[int, Floats]:
    return {shard: weight / weight.sum() for shard, weight in weights.items() if weight.sum() > 0}


def _slot_rates(requests: Floats, hot: Mapping[int, float]) -> dict[int, Floats]:
    """Returns requests/s by slot, float64[256], of the shards that have a hot slot."""
    found: dict[int, Floats] = {}
    for shard, busy in _by_shard(hot, len(requests)).items():
        limit = HOT_FACTOR * requests[shard] / SLOTS
        slots = {slot: rate for slot, rate in busy.items() if rate > limit}
        if not slots or requests[shard] <= 0:
            continue
        rates = np.full(SLOTS, max(float(requests[shard]) - sum(slots.values()), 0.0) / SLOTS)
        for slot, rate in slots.items():
            rates[slot] += rate
        found[shard] = rates
    return found


def _by_shard(hot: Mapping[int, float], count: int) -> dict[int, dict[int, float]]:
    """Returns shard -> slot -> requests/s; slots that no shard below `count` has are left out."""
    shards: dict[int, dict[int, float]] = {}
    for global_slot, rate in sorted(hot.items()):
        shard, slot = divmod(global_slot, SLOTS)
        if shard < count:
            shards.setdefault(shard, {})[slot] = rate
    return shards
