"""The scenarios of the balance bench: what happens to a load that follows the sun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

import numpy as np

from schemas.records import SLOTS, Event
from streams.core.simulation.draft import MEAN_CAPACITY, START, Draft, Size, trapezoid
from streams.core.simulation.shapes import DAY_S, Shapes
from streams.core.simulation.workload import SPREAD, Floats, Span, Workload

SERIES = (12, 28)
"""Fewest and most series of a day."""
SUN_H = (0.0, 8.0, 16.0)
"""By how much the days of three regions are shifted."""
WRONG = 1.6
"""A declared factor is up to this much too large or too small."""
JITTER_S = 45.0
"""Standard deviation of an announced start or end."""
CANCELLED = 0.06
"""Announced, but did not happen."""
LOSS, LOSS_S = 0.7, 1_200.0
"""A cluster has this part of its capacity for 20 min."""


def follow_the_sun(draft: Draft) -> None:
    """Nothing happens: three regions have their days."""
    draft.base(int(draft.rng.integers(SERIES[0], SERIES[1] + 1)), SUN_H)


def flash_crowds(draft: Draft) -> None:
    """Ten times a day a shard, or twice a day a whole series, becomes popular, without notice."""
    follow_the_sun(draft)
    for start in draft.hours(8):
        shard = int(draft.rng.choice(draft.small_shards()))
        extra = draft.rng.uniform(0.2, 0.6) * MEAN_CAPACITY
        factor = 1.0 + extra / max(draft.rate(shard=shard), 1.0)
        draft.multiply(1.0 + (factor - 1.0) * _surge(draft, start), shard=shard)
    for start in draft.hours(2):
        series = int(draft.rng.integers(len(draft.names)))
        draft.multiply(1.0 + draft.rng.uniform(0.5, 1.5) * _surge(draft, start), series=series)


def type_campaigns(draft: Draft) -> None:
    """Six announced campaigns a day on request types."""
    follow_the_sun(draft)
    for number, start in enumerate(draft.hours(6)):
        series = int(draft.rng.integers(len(draft.names)))
        declared = draft.rng.uniform(1.5, 3.0)
        end = start + draft.rng.uniform(1_200, 3_600)
        real = max(_wrong(draft, declared), 1.0)
        draft.events.append(_event(number, start, end, types=[draft.names[series]], uplift=declared))
        draft.multiply(np.exp(log(real) * _happens(draft, start, end)), series=series)


def tenant_campaigns(draft: Draft) -> None:
    """Sixteen announced campaigns a day on small tenants: of a shard's whole load, or on a few keys."""
    follow_the_sun(draft)
    for number, start in enumerate(draft.hours(16)):
        end = start + draft.rng.uniform(900, 2_700)
        extra = draft.rng.uniform(0.3, 0.9) * MEAN_CAPACITY
        if draft.rng.random() < 0.5:
            _on_shard(draft, number, (start, end), extra)
        else:
            _on_keys(draft, number, (start, end), extra)


def _on_shard(draft: Draft, number: int, when: tuple[float, float], extra: float) -> None:
    shard = int(draft.rng.choice(draft.small_shards()))
    key, _, _ = draft.key(int(draft.rng.integers(len(draft.names))), shard)
    real = min(1.0 + extra / max(draft.rate(shard=shard), 1.0), 60.0)
    declared = max(_wrong(draft, real), 1.2)
    draft.events.append(_event(number, *when, keys=[key], uplift=declared))
    draft.multiply(np.exp(log(real) * _happens(draft, *when)), shard=shard)


def _on_keys(draft: Draft, number: int, when: tuple[float, float], extra: float) -> None:
    series = int(draft.rng.integers(len(draft.names)))
    places = [draft.key(series, None) for _ in range(int(draft.rng.integers(4, 9)))]
    draft.events.append(
        _event(
            number,
            *when,
            kind="launch",
            keys=[key for key, *_ in places],
            requests_per_s=_wrong(draft, extra),
        )
    )
    rate = extra / len(places) * _happens(draft, *when)
    for _, shard, slot in places:
        draft.add(series, shard, slot, rate)


def imports(draft: Draft) -> None:
    """Three hourly and two daily imports, each a series of its own, never announced."""
    follow_the_sun(draft)
    for number in range(5):
        hourly = number < 3
        name = f"import-{'hourly' if hourly else 'daily'}-{number + 1}"
        period = 3_600.0 if hourly else DAY_S
        length = draft.rng.uniform(240, 480) if hourly else draft.rng.uniform(1_200, 2_400)
        extra = draft.rng.uniform(0.3, 0.7) * MEAN_CAPACITY * (1.0 if hourly else 1.5)
        offset = draft.rng.uniform(0, period)
        on: Floats = np.full(draft.size.bins, 0.02)
        for turn in range(int(draft.time[-1] / period) + 1):
            start = offset + turn * period + draft.rng.normal(0, 10)
            on += trapezoid(draft.time, start, start + length * draft.rng.uniform(0.9, 1.1), 20.0)
        shards = draft.rng.permutation(draft.size.shards)[:3]
        series = draft.add_series(name)
        for shard in shards.tolist():
            draft.add(series, shard, SPREAD, extra / len(shards) * on * draft.rng.uniform(0.95, 1.05))


def capacities(draft: Draft) -> None:
    """Clusters of 1 : 4; four times a day one loses 30 % for 20 min, announced every other time."""
    sizes = np.linspace(1.0, 4.0, draft.size.clusters)
    draft.capacity_cps = draft.rng.permutation(sizes / sizes.mean()) * MEAN_CAPACITY
    follow_the_sun(draft)
    for number, start in enumerate(draft.hours(4)):
        row = int(draft.rng.integers(draft.size.clusters))
        lost = (draft.time >= start) & (draft.time < start + LOSS_S)
        draft.capacity_factor[lost, row] = LOSS
        if number % 2 == 0:
            event = Event(
                id=f"maintenance-{number}",
                kind="maintenance",
                start=START + start,
                end=START + start + LOSS_S,
                cluster=draft.clusters[row],
                capacity_factor=LOSS,
            )
            draft.events.append(event)


def hot_shards(draft: Draft) -> None:
    """Sixteen times a day a shard becomes hot, slowly and for hours; most of it is one key, on one slot."""
    follow_the_sun(draft)
    for start in draft.hours(16):
        shard = int(draft.rng.integers(draft.size.shards))
        series = int(draft.rng.integers(len(draft.names)))
        ramp = draft.rng.uniform(300, 1_200)
        hot = trapezoid(draft.time, start, start + draft.rng.uniform(3_600, 10_800), ramp)
        extra = draft.rng.uniform(0.15, 0.4) * MEAN_CAPACITY
        draft.add(series, shard, int(draft.rng.integers(SLOTS)), 0.6 * extra * hot)
        draft.add(series, shard, SPREAD, 0.4 * extra * hot)


def even_load(draft: Draft) -> None:
    """Every shard has the same constant load: there is nothing to do."""
    series = draft.add_series("even")
    for shard in range(draft.size.shards):
        draft.add(series, shard, SPREAD, np.full(draft.size.bins, 1.0))


def reporters_lost(draft: Draft) -> None:
    """Flash crowds and losses of capacity; a third of the reporters is silent, for two hours all are."""
    flash_crowds(draft)
    first, end = START + draft.size.warm_s, START + draft.size.bins * 10.0
    middle = (first + end) / 2
    length = min(7_200.0, (end - first) / 6)
    draft.silent += [(name, Span(first, end)) for name in draft.clusters[::3]]
    draft.silent += [(name, Span(middle, middle + length)) for name in draft.clusters]


def balancer_lost(draft: Draft) -> None:
    """Type campaigns; four times a day nobody leads for 10 minutes."""
    type_campaigns(draft)
    for start in draft.hours(4):
        draft.leaderless.append(Span(START + start, START + start + 600.0))


def bad_forecast(draft: Draft) -> None:
    """Type campaigns on forecasts that are off by chance, standard deviation 0.6."""
    follow_the_sun(draft)
    draft.forecast_error_sd = 0.6


def _surge(draft: Draft, start: float) -> Floats:
    """Returns float64[bins]: rises to 1 in half a minute to 3, falls to a third in 5 to 20."""
    since = draft.time - start
    rise = np.clip(since / draft.rng.uniform(30, 180), 0.0, 1.0)
    fall = np.exp(-np.clip(since, 0.0, None) / draft.rng.uniform(300, 1_200))
    shape: Floats = rise * fall
    return shape


def _wrong(draft: Draft, value: float) -> float:
    return value * exp(draft.rng.uniform(-log(WRONG), log(WRONG)))


def _happens(draft: Draft, start: float, end: float) -> Floats:
    """Returns float64[bins], 0 to 1: how far an announced event is on; never, for one that is cancelled."""
    if draft.rng.random() < CANCELLED:
        return np.zeros(draft.size.bins)
    first, last = start + draft.rng.normal(0, JITTER_S), end + draft.rng.normal(0, JITTER_S)
    return trapezoid(draft.time, first, max(last, first + 60.0), draft.rng.uniform(30, 120))


def _event(number: int, start: float, end: float, kind: str = "campaign", **what: object) -> Event:
    return Event(id=f"{kind}-{number}", kind=kind, start=START + start, end=START + end, **what)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scenario:
    """One scenario of the bench."""

    draw: Callable[[Draft], None]
    main: bool = True
    """Whether it counts for the averages; the others have targets of their own."""
    peak: float | None = None


SCENARIOS = {
    "follow-the-sun": Scenario(follow_the_sun),
    "flash-crowds": Scenario(flash_crowds),
    "type-campaigns": Scenario(type_campaigns),
    "tenant-campaigns": Scenario(tenant_campaigns),
    "imports": Scenario(imports),
    "capacities": Scenario(capacities),
    "hot-shards": Scenario(hot_shards),
    "even-load": Scenario(even_load, main=False, peak=0.6),
    "reporters-lost": Scenario(reporters_lost, main=False),
    "balancer-lost": Scenario(balancer_lost, main=False),
    "bad-forecast": Scenario(bad_forecast, main=False),
}


def workload(name: str, seed: int, shapes: Shapes, size: Size) -> Workload:
    """Returns a scenario's load; the same seed gives the same."""
    scenario = SCENARIOS[name]
    number = list(SCENARIOS).index(name)
    draft = Draft(np.random.default_rng([seed, number]), size, shapes)
    scenario.draw(draft)
    return draft.finished(name, scenario.peak)
