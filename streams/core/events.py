"""Announced events: what they add to the load of series and shards, and take from capacities.

The model of a series' load, used both ways (forecast and `deflate`):
observed = base x uplift of its type x factor of the shard + what is added to the type or to single keys.

What an event says of a type goes for the series of all its values (streams/core/series.py): each is
multiplied; what is added is divided over them as their requests are.

Effects ramp: an event rises over 2 minutes centred on its start, and falls likewise at its end. Of a
declared effect the part kappa is expected (streams/core/trust.py): uplift^kappa, kappa x what is added.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadRequestError, InvalidRecordError
from schemas.records import SLOTS, Event
from streams.core.keys import KeyRules, locate, value_series
from streams.core.series import SeriesRows
from streams.core.trust import Effect, Trust

Floats = NDArray[np.float64]

RAMP_S = 120.0
"""An effect's rise and fall: campaigns and imports start within a minute or two of the announced time."""
SMALL_UPLIFT = 1.05
"""A relative effect up to this is ignored: it cannot be told from noise."""
HEADROOM_S = 90.0
"""This near its start, an event may be on early: its full effect (that of start + 60 s) is expected."""
PUNCTUAL_S = 120.0
"""Events start and end within this of their announced times, mostly (standard deviation 45 s)."""
PLAIN = 0.1
"""An effect of less than a tenth disturbs no forecast."""
KEPT_S = 28 * 86_400.0
"""How long a past event is kept: stored history is learned again at every start."""
SAMPLES = 6
"""Times at which an effect is looked at within a step: every 5 s of 30, against a ramp of 120."""


class _Key(NamedTuple):
    """A key of an event, found."""

    series: str
    """That of its value, where the key says it; else the type's, which stands for all its values."""
    shard: int
    slot: int
    """Global slot."""


@dataclass(frozen=True)
class _Placed:
    """An event with its keys found."""

    event: Event
    series: tuple[str, ...]
    """Types, and values' series."""
    keys: tuple[_Key, ...]

    def strength(self, times: Floats, headroom: bool) -> Floats:
        """Returns float64[n]: which part of the effect is expected at each time, 0 to 1."""
        usual = _trapezoid(times, self.event.start, self.event.end)
        if headroom:
            usual[(np.abs(times - self.event.start) < HEADROOM_S) & (times < self.event.end)] = 1.0
        return usual

    def factor(self, times: Floats, headroom: bool, kappa: float) -> Floats:
        """Returns float64[n]: the multiplier at each time; 1 for an event that adds, or a small one."""
        uplift = self.event.uplift or 1.0
        if uplift <= SMALL_UPLIFT:
            return np.ones(len(times))
        factor: Floats = np.exp(kappa * np.log(uplift) * self.strength(times, headroom))
        return factor

    def effect(self, times: Floats, step_s: float) -> Effect:
        """Returns what is declared for a step with these times in it."""
        if self.event.requests_per_s:
            return Effect(
                added=float(self.strength(times, headroom=False).mean()) * self.event.requests_per_s * step_s
            )
        return Effect(factor=float(np.log(self.factor(times, headroom=False, kappa=1.0).mean())))

    def full(self, step_s: float) -> Effect:
        """Returns what is declared for a step at its height."""
        if self.event.requests_per_s:
            return Effect(added=self.event.requests_per_s * step_s)
        return Effect(factor=float(np.log(self.event.uplift or 1.0)))


def _trapezoid(times: Floats, start: float, end: float) -> Floats:
    """Returns float64[n]: 0 before, 1 during, 0 after; its area is that of the event, `end - start`."""
    ramp = min(RAMP_S, end - start)
    rise = np.clip((times - start) / ramp + 0.5, 0.0, 1.0)
    fall = np.clip((end - times) / ramp + 0.5, 0.0, 1.0)
    shape: Floats = np.minimum(rise, fall)
    return shape


class EventBook:
    """All announced events by id, and their effects at given times (model time, float64[n])."""

    def __init__(self, rules: KeyRules, clusters: Container[str], series: SeriesRows | None = None) -> None:
        """series: those of the outlook that asks; else its own, of which no value has a row."""
        self._rules, self._clusters = rules, clusters
        self._series = series or SeriesRows.of(rules)
        self._placed: dict[str, _Placed] = {}
        self.trust = Trust()
        self._left_out = ""
        """Event that is taken to have no effect just now."""

    def add(self, event: Event) -> None:
        """Takes the event in place of an earlier one of its id; InvalidRecordError if it fits nothing."""
        if event.cluster is not None and event.cluster not in self._clusters:
            what = f"event {event.id} names cluster {event.cluster}"
            raise InvalidRecordError(f"{what}, which is not registered")
        for name in event.types:
            if not self._series.known(name):
                known = ", ".join(self._series.types)
                raise InvalidRecordError(f"event {event.id} names type {name}; the types are: {known}")
        series = tuple(sorted(set(event.types)))
        keys = tuple(self._place(event, number) for number in range(len(event.keys)))
        self._placed[event.id] = _Placed(event, series, keys)

    def _place(self, event: Event, number: int) -> _Key:
        key = event.keys[number]
        try:
            _, rule = self._rules.rule(key.type)
            shard, slot = locate(self._rules, key.type, key.values)
        except BadRequestError as error:
            what = f"event {event.id}, key {number + 1} (type {key.type})"
            raise InvalidRecordError(f"{what}: {error}") from None
        return _Key(value_series(rule, key.values), shard, slot)

    def withdraw(self, event_id: str) -> None:
        """Forgets the event, if it is known."""
        self._placed.pop(event_id, None)
        self.trust.forget(event_id)

    def expire(self, now: float) -> None:
        """Forgets events that ended before any stored history."""
        for name in [name for name, placed in self._placed.items() if placed.event.end < now - KEPT_S]:
            self.withdraw(name)

    def _near(self, start: float, end: float) -> list[_Placed]:
        """Returns the events whose effect, ramp and headroom included, touches [start, end]."""
        return [
            placed
            for placed in self._placed.values()
            if placed.event.start - HEADROOM_S < end and placed.event.end + RAMP_S / 2 > start
        ]

    def _rows(self, placed: _Placed) -> list[int]:
        """Returns the rows of the types and values that the event names."""
        return sorted({row for name in placed.series for row in self._series.scope(name)})

    def _key_rows(self, series: str) -> list[int]:
        """Returns the rows in which the requests of keys of a series count."""
        return self._series.scope(series) or [self._series.row(series)]

    def _scope(self, placed: _Placed, counts: Floats) -> Floats:
        """Returns those of float64[rows, shards] on which the event acts."""
        if placed.series:
            return counts[self._rows(placed)]
        if placed.event.requests_per_s:
            pairs = {(row, key.shard) for key in placed.keys for row in self._key_rows(key.series)}
            rows, shards = zip(*sorted(pairs), strict=True)
            return counts[list(rows), list(shards)]
        return counts[:, sorted({key.shard for key in placed.keys})]

    def _at(self, times: Floats) -> list[_Placed]:
        return self._near(float(times.min()), float(times.max())) if len(times) else []

    def all(self) -> list[Event]:
        """Returns the events that are not over, by start."""
        found = (placed.event for placed in self._placed.values())
        return sorted(found, key=lambda event: (event.start, event.id))

    def touching(self, start: float, end: float) -> list[str]:
        """Returns the ids, sorted, of the events whose effect touches [start, end]."""
        return sorted(placed.event.id for placed in self._near(start, end))

    def uplift(self, series: str, times: Floats, headroom: bool = True) -> Floats:
        """Returns float64[n] by which events on a series, or its type, multiply its load; 1 = nothing."""
        factor = np.ones(len(times))
        row = self._series.row(series)
        for placed in self._at(times):
            if row in self._rows(placed):
                factor *= self._factor(placed, times, headroom)
        return factor

    def _factor(self, placed: _Placed, times: Floats, headroom: bool) -> Floats:
        return placed.factor(times, headroom, self._kappa(placed.event, headroom))

    def _strength(self, placed: _Placed, times: Floats, headroom: bool) -> Floats:
        return self._kappa(placed.event, headroom) * placed.strength(times, headroom)

    def _kappa(self, event: Event, headroom: bool) -> float:
        """Returns the part of an event to expect; with headroom the part to make room for.

        A campaign on a few keys that is larger than declared overloads the cluster that has them; one on a
        whole type is spread over all shards, and too much room for it is taken from everybody.
        """
        if event.id == self._left_out:
            return 0.0
        return self.trust.cautious(event) if headroom and event.keys else self.trust.kappa(event)

    def added_series(
        self, series: str, times: Floats, headroom: bool = True, requests: Floats | None = None
    ) -> Floats:
        """Returns float64[n], requests/s that events on a series, or its type, add to it.

        Several types share equally; the rows of a type as `requests` says, float64[rows] in any unit. Where
        a type has none, its own row takes all.
        """
        added = np.zeros(len(times))
        row = self._series.row(series)
        for placed in self._at(times):
            if not placed.event.requests_per_s:
                continue
            for name in placed.series:
                part = _part(row, self._series.scope(name), requests)
                if part > 0:
                    rate = placed.event.requests_per_s / len(placed.series) * part
                    added += rate * self._strength(placed, times, headroom)
        return added

    def added(self, times: Floats, costs: Floats, headroom: bool = True) -> dict[int, Floats]:
        """Returns global slot -> float64[n], cost units/s that events on its keys add; costs by type."""
        added: dict[int, Floats] = {}
        for (series, slot), rate in self._added_requests(times, headroom).items():
            cost = costs[self._series.type_index(series)]
            added[slot] = added.get(slot, np.zeros(len(times))) + rate * cost
        return added

    def added_on_keys(self, series: str, times: Floats) -> Floats:
        """Returns float64[n], requests/s that events on single keys add to the series, in all.

        Keys that do not say their value count for the row of their type.
        """
        total = np.zeros(len(times))
        row = self._series.row(series)
        for (name, _), rate in self._added_requests(times, headroom=False).items():
            if self._series.row(name) == row:
                total += rate
        return total

    def _added_requests(self, times: Floats, headroom: bool) -> dict[tuple[str, int], Floats]:
        """Returns (series, global slot) -> float64[n], requests/s that events on its keys add."""
        added: dict[tuple[str, int], Floats] = {}
        for placed in self._at(times):
            if not placed.event.requests_per_s or not placed.keys:
                continue
            rate = placed.event.requests_per_s / len(placed.keys) * self._strength(placed, times, headroom)
            for series, _, slot in placed.keys:
                added[series, slot] = added.get((series, slot), np.zeros(len(times))) + rate
        return added

    def shard_factor(self, times: Floats, headroom: bool = True) -> dict[int, Floats]:
        """Returns shard -> float64[n] by which relative events on its keys multiply its whole load."""
        factors: dict[int, Floats] = {}
        for placed in self._at(times):
            if (placed.event.uplift or 1.0) <= SMALL_UPLIFT:
                continue
            for shard in sorted({key.shard for key in placed.keys}):
                factors[shard] = factors.get(shard, np.ones(len(times))) * self._factor(
                    placed, times, headroom
                )
        return factors

    def capacity_factor(self, cluster: str, times: Floats) -> Floats:
        """Returns float64[n] by which the cluster's capacity is multiplied: from start up to end, no ramp."""
        factor = np.ones(len(times))
        for placed in self._at(times):
            event = placed.event
            if event.cluster == cluster and event.capacity_factor is not None:
                on = (times >= event.start) & (times < event.end)
                factor = np.where(on, factor * event.capacity_factor, factor)
        return factor

    def deflate(self, start: float, step_s: float, counts: Floats) -> Floats:
        """Returns the requests of one step without announced effects: what forecasters and shares learn.

        counts: float64[rows, shards], requests in [start, start + step_s). Additions are subtracted
        (never below 0; those of a type in proportion to the counts of its rows and shards), factors
        divided out.
        """
        times = _within(start, step_s)
        if not self._at(times):
            return counts
        base = counts.astype(np.float64)
        for (series, slot), rate in self._added_requests(times, headroom=False).items():
            rows, shard = self._key_rows(series), slot // SLOTS
            there = base[rows, shard]
            if there.any():
                part = there / there.sum()
                base[rows, shard] = np.maximum(there - float(rate.mean()) * step_s * part, 0.0)
        requests = base.sum(axis=1)
        for row in np.flatnonzero(~self._series.reserve).tolist():
            name, total = self._series.names[row], float(base[row].sum())
            added = float(self.added_series(name, times, False, requests).mean()) * step_s
            if added > 0 and total > 0:
                base[row] *= max(total - added, 0.0) / total
            base[row] /= float(self.uplift(name, times, headroom=False).mean())
        for shard, factor in self.shard_factor(times, headroom=False).items():
            base[:, shard] /= float(factor.mean())
        return base

    def unsure(self, start: float, step_s: float, counts: Floats) -> NDArray[np.bool_]:
        """Returns bool[rows]: whose requests in a step cannot be told apart from an event's.

        So near its start or end an event may be on or not, and `deflate` takes out what is not there,
        or leaves what is. counts: as in `deflate`.
        """
        middle = start + step_s / 2
        found = np.zeros(len(self._series.names), dtype=np.bool_)
        for placed in self._near(start - PUNCTUAL_S, start + step_s + PUNCTUAL_S):
            event = placed.event
            if min(abs(middle - event.start), abs(middle - event.end)) < PUNCTUAL_S:
                groups = [self._series.scope(name) for name in placed.series]
                groups += [self._key_rows(name) for name in sorted({key.series for key in placed.keys})]
                for rows in groups:
                    total = float(counts[rows].sum())
                    full = placed.full(step_s)
                    size = full.factor or full.added / max(total, 1.0)
                    found[rows] |= size > PLAIN
        return found

    def learn(self, start: float, step_s: float, counts: Floats, usual: Floats, expected: Floats) -> None:
        """Learns from the requests of one step how far the events that are near or on can be trusted.

        counts: as in `deflate`; usual: float64[rows, shards], the usual requests at this time, in any unit,
        or NaN; expected: likewise, the requests that were forecast for this step without events.
        """
        middle, times = start + step_s / 2, _within(start, step_s)
        for placed in list(self._placed.values()):
            event = placed.event
            if (event.uplift or 0.0) <= SMALL_UPLIFT and not event.requests_per_s:
                continue
            if placed.series and not self._rows(placed):
                continue  # no value that it names has a row yet
            if self.trust.near(event, middle):
                self._left_out = event.id
                try:
                    load = float(self._scope(placed, self.deflate(start, step_s, counts)).sum())
                finally:
                    self._left_out = ""
                effects = placed.effect(times, step_s), placed.full(step_s)
                logs = [_log(float(self._scope(placed, loads).sum())) for loads in (usual, expected)]
                self.trust.learn(event, (middle, step_s), load, *effects, *logs)


def _within(start: float, step_s: float) -> Floats:
    """Returns float64[SAMPLES], times at which a step is looked at."""
    times: Floats = start + step_s * (np.arange(SAMPLES) + 0.5) / SAMPLES
    return times


def _part(row: int, rows: list[int], requests: Floats | None) -> float:
    """Returns the part of one of these rows in their requests, float64[rows]; 0 of any other row."""
    if row not in rows:
        return 0.0
    total = 0.0 if requests is None else float(requests[rows].sum())
    if len(rows) == 1 or requests is None or total <= 0:
        return float(row == rows[0])
    return float(requests[row]) / total


def _log(load: float) -> float:
    return float(np.log(load)) if load > 0 else float("nan")
