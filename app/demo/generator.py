"""Seeded traffic with the statistics of real traffic. Each figure names where it was measured.

"NASA" is the NASA-HTTP log of August 1995, "clouds" the request rates of Microsoft's cloud monitoring
data set, "Azure" the 1.87 million arrivals of the Azure public data set V1 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from app.demo.traffic import (
    CAMPAIGN_SHARE,
    FULL_PASS_REQUESTS,
    FULL_PASS_S,
    STEP_S,
    FloatArray,
    IntArray,
    Keys,
    Traffic,
    make_campaign,
    merge,
    poisson_times,
)
from streams.core.keys import RequestType, parse_field

DAY_S = 86_400.0
HISTORY_DAYS = 3
WINDOW_START = datetime(2026, 3, 5, 11, 0, tzinfo=UTC).timestamp()
"""A Thursday at 11:00, on the flank of the daily peak; three whole weekdays before it are history."""

HOURLY = (
    0.69, 0.59, 0.49, 0.43, 0.41, 0.50, 0.69, 0.94, 1.23, 1.37, 1.46, 1.54,
    1.52, 1.54, 1.54, 1.42, 1.23, 1.08, 0.98, 0.91, 0.91, 0.91, 0.83, 0.77,
)  # fmt: skip
"""Requests of each hour over the day's mean: NASA, July 1995, mean of 27 days, local time."""

NOISE_SD = 0.10
"""Log deviation of 5-min rates from their hour's mean: clouds, median of 10 series (.025 to .29)."""
NOISE_MEMORY = 0.73
"""Correlation of that deviation with the next 5 min: clouds, median of the 10 series."""
NOISE_STEP_S = 300.0

BURSTS_PER_HOUR = 6.0
"""1 % of NASA's minutes are above 2.3 times their hour's median; here each is one key's burst."""
BURST_S = (60.0, 180.0)
BURST_SHARE = (0.01, 0.03)
"""A burst's rate over the mean rate of all traffic: small beside a cluster, large beside its key."""

ITEMS = 2_220
"""Different URLs of NASA."""
ITEM_SKEW = (2.1, 14.8)
"""share of rank r ~ (r + 14.8)^-2.1: gives NASA's 6.7 % for the top key and 43 % for the top ten."""
USERS = 20_000
USER_SKEW = (0.83, 0.0)
"""Slope of the clients' shares over their ranks in a public WordPress log (38 days, 8,799 clients)."""
TENANTS = 40

SHARDS = 256

CAMPAIGN_RANKS = slice(100, 1000)
"""A campaign's keys are of the middle ranks: what is promoted is not what sells anyway."""


@dataclass(frozen=True)
class Kind:
    """One request type of the generator: its rule, its part of the requests, its peak's shift."""

    rule: RequestType
    share: float
    shift_h: float
    population: str


def _kind(name: str, key: tuple[str, ...], keyspace: str, cost: float, share: float, shift_h: float) -> Kind:
    fields = tuple(parse_field(text) for text in key)
    return Kind(RequestType(name, fields, keyspace, cost=cost), share, shift_h, keyspace)


KINDS = (
    # Shares: the four commonest of Azure's 16 kinds, scaled to sum 1. Costs and shifts are assumptions.
    _kind("view", ("json:item.sku",), "item", 1.0, 0.51, 0.0),
    _kind("search", ("header:user",), "user", 1.5, 0.26, -1.0),
    _kind("cart", ("key",), "user", 1.0, 0.12, 1.0),
    _kind("order", ("json:account.tenant", "json:account.user"), "account", 2.0, 0.11, 2.0),
)


def generate(
    *, seconds: float, time_scale: float, seed: int, campaign_share: float = CAMPAIGN_SHARE
) -> Traffic:
    """Returns the requests of one pass of `seconds` on the wall, and three days of history before it."""
    rng = np.random.default_rng(seed)
    length_s = seconds * time_scale
    keys, members = make_keys(rng)
    popularity = {name: _popularity(len(own), *_skew(name)) for name, own in members.items()}
    steps = round(HISTORY_DAYS * DAY_S / STEP_S)
    grid = WINDOW_START + STEP_S * np.arange(-steps, int(np.ceil(length_s / STEP_S)) + 1, dtype=np.float64)
    rates = relative_rates(grid, rng)
    inside = slice(steps, None)
    wanted = FULL_PASS_REQUESTS * seconds / FULL_PASS_S
    covered = np.trapezoid(rates[inside].sum(axis=1), grid[inside]) / (grid[-1] - WINDOW_START) * length_s
    rates *= wanted * 1.01 / covered
    shard_of = keys.shards(SHARDS)
    parts = []
    for index, kind in enumerate(KINDS):
        times = poisson_times(grid[inside] - WINDOW_START, rates[inside, index], rng)
        own = members[kind.population][_draw(popularity[kind.population], len(times), rng)]
        parts.append((times, np.full(len(times), index), own))
    mean_rps = wanted / length_s
    burst_parts = [_burst(burst, mean_rps, rng) for burst in _bursts(0.0, length_s, members["item"], rng)]
    campaign = make_campaign(members["item"][CAMPAIGN_RANKS], length_s, campaign_share * mean_rps, rng)
    extra, extra_keys = campaign.sample(rng)
    parts += [*burst_parts, (extra, np.zeros(len(extra), dtype=np.int64), extra_keys)]
    at, types, chosen = merge(parts)
    inside_window = at < length_s
    history = _history(rates[:steps], grid[:steps], members, popularity, shard_of, mean_rps, rng)
    return Traffic(
        name="generated",
        rules=tuple(kind.rule for kind in KINDS),
        type_names=tuple(kind.rule.name for kind in KINDS),
        keys=keys,
        start=WINDOW_START,
        length_s=length_s,
        at=at[inside_window],
        type_index=types[inside_window],
        key=chosen[inside_window],
        campaign=campaign,
        history=history,
        shards=SHARDS,
        notes={"seed": seed, "bursts": len(burst_parts)},
    )


def make_keys(rng: np.random.Generator) -> tuple[Keys, dict[str, IntArray]]:
    """Returns all keys, and per keyspace the key numbers in the order of their popularity."""
    skus = [f"sku-{number:05d}" for number in range(ITEMS)]
    users = [f"user-{number:06d}" for number in range(USERS)]
    tenants = [f"tenant-{number % TENANTS:02d}" for number in range(USERS)]
    keys = Keys(
        spaces=["item"] * ITEMS + ["user"] * USERS + ["account"] * USERS,
        values=[*((sku,) for sku in skus), *((user,) for user in users), *zip(tenants, users, strict=True)],
        record_keys=skus + users + users,
        fields=[f'"item":{{"sku":"{sku}"}}' for sku in skus]
        + [f'"user":"{user}"' for user in users]
        + [f'"account":{{"tenant":"{t}","user":"{u}"}}' for t, u in zip(tenants, users, strict=True)],
    )
    members = {
        "item": rng.permutation(ITEMS),
        "user": ITEMS + rng.permutation(USERS),
        "account": ITEMS + USERS + rng.permutation(USERS),
    }
    return keys, members


def relative_rates(grid: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Returns float64[grid, types]: daily shape x noise x the type's share; only the ratios count."""
    columns = []
    hours = np.arange(-0.5, 25.0)
    shape = np.array([HOURLY[-1], *HOURLY, HOURLY[0]])
    coarse = np.arange(grid[0], grid[-1] + 2 * NOISE_STEP_S, NOISE_STEP_S)
    for kind in KINDS:
        hour = (grid / 3600.0 + kind.shift_h) % 24.0
        noise = np.interp(grid, coarse, _noise(len(coarse), rng))
        columns.append(kind.share * np.interp(hour, hours, shape) * np.exp(noise))
    return np.stack(columns, axis=1)


def _noise(count: int, rng: np.random.Generator) -> FloatArray:
    """Returns an autoregressive series with deviation `NOISE_SD`."""
    shocks = rng.normal(0.0, NOISE_SD * np.sqrt(1 - NOISE_MEMORY**2), count)
    values = np.empty(count)
    level = rng.normal(0.0, NOISE_SD)
    for index in range(count):
        level = NOISE_MEMORY * level + shocks[index]
        values[index] = level
    return values


def _skew(population: str) -> tuple[float, float]:
    return ITEM_SKEW if population == "item" else USER_SKEW


def _popularity(count: int, exponent: float, offset: float) -> FloatArray:
    weights = (np.arange(1, count + 1) + offset) ** -exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _draw(popularity: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """Returns `count` ranks drawn by popularity."""
    ranks = np.searchsorted(np.cumsum(popularity), rng.random(count))
    return np.minimum(ranks, len(popularity) - 1)


@dataclass(frozen=True)
class Burst:
    key: int
    start: float
    end: float
    share: float


def _bursts(start: float, end: float, items: IntArray, rng: np.random.Generator) -> list[Burst]:
    """Returns the unannounced bursts between two times, each of one random key."""
    count = rng.poisson((end - start) / 3600.0 * BURSTS_PER_HOUR)
    starts = rng.uniform(start, end, count)
    lengths = rng.uniform(*BURST_S, count)
    shares = rng.uniform(*BURST_SHARE, count)
    chosen = rng.choice(items, count)
    columns = zip(chosen.tolist(), starts.tolist(), lengths.tolist(), shares.tolist(), strict=True)
    return [Burst(key, begin, begin + length, share) for key, begin, length, share in columns]


def _burst(burst: Burst, mean_rps: float, rng: np.random.Generator) -> tuple[FloatArray, IntArray, IntArray]:
    count = rng.poisson(burst.share * mean_rps * (burst.end - burst.start))
    times = rng.uniform(burst.start, burst.end, count)
    return times, np.zeros(count, dtype=np.int64), np.full(count, burst.key)


def _history(
    rates: FloatArray,
    grid: FloatArray,
    members: dict[str, IntArray],
    popularity: dict[str, FloatArray],
    shard_of: IntArray,
    mean_rps: float,
    rng: np.random.Generator,
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """Returns uint32[steps, types, shards]: Poisson counts around the expected load of each shard."""
    shares = [
        np.bincount(shard_of[members[kind.population]], popularity[kind.population], SHARDS) for kind in KINDS
    ]
    counts = rng.poisson(rates[:, :, None] * STEP_S * np.stack(shares)[None, :, :])
    for burst in _bursts(grid[0], grid[-1], members["item"], rng):
        overlap = np.clip(np.minimum(burst.end, grid + STEP_S) - np.maximum(burst.start, grid), 0.0, None)
        counts[:, 0, shard_of[burst.key]] += rng.poisson(burst.share * mean_rps * overlap)
    return counts.astype(np.uint32)
