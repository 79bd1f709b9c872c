"""The vocabulary of the demo's load: keys, requests sorted by time, a campaign, history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.records import Event, EventKey
from streams.core.keys import RequestType, hash_key, place

STEP_S = 30.0
"""Model seconds of one step of stored history: the balancer's forecast step."""

FULL_PASS_S = 120.0
"""Wall seconds of a pass for which `FULL_PASS_REQUESTS` is meant."""

FULL_PASS_REQUESTS = 210_000
"""Requests in a full pass: 1,750 a second on the wall, what six sample backends, two routers and a
broker carry beside each other on two cores with room to spare."""

CAMPAIGN_KEYS = 3
CAMPAIGN_WINDOW = (0.30, 0.60)
"""Part of the pass in which the campaign runs: before it the static picture, after it the return."""
CAMPAIGN_SHARE = 0.2
"""Extra requests of the campaign over the mean rate: what a planned push adds to a shop."""

CAMPAIGN_RAMP_S = 5.0
"""Model seconds in which a campaign's extra load rises, and falls again at its end: a push to all phones."""

DEFAULT_SEED = 72
"""Chosen so that, for the generator and for the NASA log of 1 August 1995 alike, fixed homes carry the
load until the campaign strikes: about a tenth of the requests are then late (1 to 20 % was wanted)."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """Every key that requests can have; index = key number."""

    spaces: Sequence[str]
    values: Sequence[tuple[str, ...]]
    """The key fields' values, in the order of the rules that use the keyspace."""
    record_keys: Sequence[str]
    fields: Sequence[str]
    """The part of the JSON value that holds the key fields, without braces: '"url":"/"'."""

    def __len__(self) -> int:
        return len(self.values)

    def shards(self, shards: int) -> IntArray:
        """Returns int64[keys]: each key's shard."""
        texts = ("\0".join((space, *values)) for space, values in zip(self.spaces, self.values, strict=True))
        hashes = np.fromiter((hash_key(text.encode()) for text in texts), dtype=np.uint64, count=len(self))
        return place(hashes, shards)[0]


@dataclass(frozen=True)
class Campaign:
    """Announced extra load on a few keys of one type; times are model seconds from the window's start."""

    type_index: int
    keys: tuple[int, ...]
    start: float
    end: float
    requests_per_s: float
    """Model requests/s in all, divided equally over the keys."""

    def sample(self, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
        """Returns (times sorted, keys) of the extra requests: a Poisson stream with ramps."""
        ramp = min(CAMPAIGN_RAMP_S, (self.end - self.start) / 2)
        grid = np.array([self.start, self.start + ramp, self.end - ramp, self.end])
        times = poisson_times(grid, self.requests_per_s * np.array([0.0, 1.0, 1.0, 0.0]), rng)
        return times, rng.choice(np.array(self.keys, dtype=np.int64), len(times))

    def event(self, keys: Keys, rules: Sequence[RequestType], start: float) -> Event:
        """Returns the announcement, for a window that begins at model time `start`."""
        name = rules[self.type_index].name
        return Event(
            id="demo-campaign",
            kind="campaign",
            start=start + self.start,
            end=start + self.end,
            keys=[EventKey(type=name, values=list(keys.values[key])) for key in self.keys],
            requests_per_s=self.requests_per_s,
            note="the demo's announced campaign",
        )


def make_campaign(pool: IntArray, length_s: float, extra_rps: float, rng: np.random.Generator) -> Campaign:
    """Returns a campaign on some keys of the pool, for a window of `length_s` model seconds."""
    keys = rng.choice(pool, min(CAMPAIGN_KEYS, len(pool)), replace=False)
    first, last = CAMPAIGN_WINDOW
    return Campaign(0, tuple(sorted(keys.tolist())), first * length_s, last * length_s, extra_rps)


@dataclass(frozen=True)
class Traffic:
    """One pass's requests, sorted by time, with all that is known about them."""

    name: str
    rules: tuple[RequestType, ...]
    type_names: tuple[str, ...]
    """Types as requests carry them; index = `type_index`. More than rules where "*" takes several."""
    keys: Keys
    start: float
    """Model time at which the window begins: a multiple of `STEP_S`."""
    length_s: float
    """Model seconds of the window."""
    at: FloatArray
    """Model seconds from the window's start, sorted."""
    type_index: npt.NDArray[np.uint8]
    key: npt.NDArray[np.int32]
    campaign: Campaign
    history: npt.NDArray[np.uint32]
    """uint32[steps, series, shards]: requests of the steps before the window."""
    shards: int
    notes: dict[str, str | int | float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.at)

    def costs(self) -> FloatArray:
        """Returns float64[requests], cost units."""
        return self.type_costs()[self.type_index]

    def type_costs(self) -> FloatArray:
        """Returns float64[types], cost units a request."""
        own = {rule.name: rule.cost for rule in self.rules}
        return np.array([own.get(name, own.get("*", 1.0)) for name in self.type_names])

    @property
    def mean_cps(self) -> float:
        """Mean load of the window, cost units per model second."""
        return float(self.costs().sum()) / self.length_s


def poisson_times(grid: FloatArray, rates: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Returns sorted times of a Poisson stream whose rate is linear between the grid's points."""
    fine = np.linspace(grid[0], grid[-1], 64 * len(grid))
    fine_rates = np.interp(fine, grid, rates)
    # Inverted as if the rate were constant within a fine cell: moves a request by a part of it at most.
    expected = np.concatenate([[0.0], np.cumsum(np.diff(fine) * (fine_rates[1:] + fine_rates[:-1]) / 2)])
    count = rng.poisson(expected[-1])
    times: FloatArray = np.interp(np.sort(rng.uniform(0.0, expected[-1], count)), expected, fine)
    return times


def merge(
    parts: Sequence[tuple[FloatArray, npt.NDArray[np.integer], npt.NDArray[np.integer]]],
) -> tuple[FloatArray, npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Returns (times, types, keys) of several streams as one, sorted by time."""
    at = np.concatenate([part[0] for part in parts])
    order = np.argsort(at, kind="stable")
    types = np.concatenate([part[1] for part in parts]).astype(np.uint8)
    keys = np.concatenate([part[2] for part in parts]).astype(np.int32)
    return at[order], types[order], keys[order]


def full_steps(model_s: float) -> float:
    """Returns the start of the step that holds a model time."""
    return model_s // STEP_S * STEP_S
