"""What a request of each type really costs, learned from the CPU that clusters report.

used = base x capacity + sum over types of cost[type] x requests/s, with used = CPU x registered capacity
(cost units/s): Bayesian linear regression (Bishop, Pattern Recognition and Machine Learning, 3.50) over
all clusters, with exponential forgetting of the samples. The prior, what is configured, is not forgotten:
it decides what the samples leave open, such as the costs of two types that always come together.
(river's forgets it, too, and inverts a singular matrix in the end.)

Only proportions are taken over: costs are scaled so that the mean request of the last day costs what it does
as configured, and capacities keep their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streams.core.forecast.profile import Floats

SMOOTHING = 0.998
"""A sample weighs half after 350 more: 3 h of one sample per step."""
PRIOR = 0.0001
"""Weight of what is configured: that of a twentieth of a sample."""
MOST_CPU = 0.95
"""From here on CPU says how much is there, not how much is needed."""
LEAST_SAMPLES = 240
"""Two hours of one sample per step."""
MOST_ERROR = 0.15
"""Learned costs count while they explain what is used this well (mean error / mean)."""
ERROR_RATE = 0.01
DAY_RATE = 30.0 / 86_400
"""The mix of the last day, by steps of 30 s."""
LEAST_PART, MOST_PART = 0.1, 10.0
"""A learned cost stays within these factors of the configured one."""


class Costs:
    """Cost units per request of every series; as configured until better is known."""

    def __init__(self, configured: Floats) -> None:
        self.configured = configured
        size = len(configured) + 1
        self._squares: Floats = np.zeros((size, size))
        """EW mean of the samples' outer products; the capacity comes first, then the series."""
        self._products: Floats = np.zeros(size)
        """EW mean of sample x used."""
        self.mix: Floats = np.zeros(len(configured))
        """Requests/s of each series, mean of the last day."""
        self.scale = 0.0
        """Use in the first sample, cost units/s: all samples are in units of it."""
        self.used, self.error = 0.0, 0.0
        """Usual use, and usual |used - explained|, in that unit."""
        self.samples = 0

    def learn(self, rps: Floats, capacity: float, cpu: float) -> None:
        """Learns from one cluster without a backlog: float64[series] requests/s, cost units/s, CPU 0 to 1."""
        usual = float(self.configured @ rps)
        if not (0 < cpu < MOST_CPU and capacity > 0 and usual > 0 and np.isfinite(usual)):
            return
        if not self.samples:
            self.scale = usual
        self.samples += 1
        sample = np.array([capacity, *rps]) / self.scale
        used = cpu * capacity / self.scale
        rate = max(ERROR_RATE, 1 / self.samples)
        self.used += rate * (used - self.used)
        self.error += rate * (abs(used - float(sample @ self._weights())) - self.error)
        weight = max(1 - SMOOTHING, 1 / self.samples)
        self._squares += weight * (np.outer(sample, sample) - self._squares)
        self._products += weight * (sample * used - self._products)

    def count(self, rps: Floats) -> None:
        """Takes all requests/s of one step, float64[series]: the mix by which the mean cost is kept."""
        self.mix += (DAY_RATE if self.mix.any() else 1.0) * (rps - self.mix)

    @property
    def relative_error(self) -> float | None:
        """Usual error of what is explained, as a part of what is used; None before any sample."""
        return self.error / self.used if self.samples else None

    @property
    def learned(self) -> bool:
        """Whether the learned costs count."""
        return self.samples >= LEAST_SAMPLES and self.error <= MOST_ERROR * self.used

    def now(self) -> Floats:
        """Returns float64[series], cost units per request."""
        if not self.learned:
            return self.configured
        held = np.clip(self._weights()[1:], LEAST_PART * self.configured, MOST_PART * self.configured)
        total = float(held @ self.mix)
        if total <= 0:
            return self.configured
        scaled: Floats = held * (float(self.configured @ self.mix) / total)
        return scaled

    def _weights(self) -> Floats:
        prior = np.array([0.0, *self.configured])
        kept = self._squares + PRIOR * np.eye(len(prior))
        return np.asarray(np.linalg.solve(kept, self._products + PRIOR * prior), dtype=np.float64)

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the whole state by name; whoever `restore`s it continues exactly."""
        return {
            "costs.squares": self._squares.copy(),
            "costs.products": self._products.copy(),
            "costs.mix": self.mix.copy(),
            "costs.rest": np.array([self.scale, self.used, self.error, self.samples]),
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Takes a state; ValueError where it is that of other series."""
        if arrays["costs.mix"].shape != self.mix.shape:
            raise ValueError(f"the saved costs are those of {len(arrays['costs.mix'])} series")
        self._squares, self._products = arrays["costs.squares"].copy(), arrays["costs.products"].copy()
        self.mix = arrays["costs.mix"].copy()
        self.scale, self.used, self.error = (float(value) for value in arrays["costs.rest"][:3])
        self.samples = int(arrays["costs.rest"][3])
