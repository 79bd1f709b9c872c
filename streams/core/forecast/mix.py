"""The mix of experts: ML-Poly, which follows whichever was right, per series and step ahead.

Gaillard, Stoltz, van Erven: A second-order bound with excess losses (COLT 2014), with the gradient of the
absolute error for a loss, and feedback that comes as many steps later as the forecast looked ahead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.core.forecast.profile import Floats

Flags = NDArray[np.bool_]

MOST_REGRET = 5.0
"""One step counts at most 5 usual errors of the last value."""
MEMORY = 0.9995
"""What is left of a regret after a step: half of it after 12 h of 30-s steps."""
TINY = 1e-9
"""Requests per step below which an error is none."""
NAIVE_RATE = 0.01
"""The usual error of the last value remembers 100 steps."""


class Mix:
    """Weights of the experts, by their regrets so far. Arrays are [horizon, series, experts]."""

    def __init__(self, horizon: int, series: int, experts: int) -> None:
        self.regret = np.zeros((horizon, series, experts))
        self.bound = np.zeros((horizon, series, experts))
        self.naive = np.zeros((horizon, series))
        """Usual error of the last value."""
        self.seen = np.zeros((horizon, series), dtype=np.int64)

    def weights(self) -> Floats:
        """Returns float64[horizon, series, experts]; they sum to 1."""
        raw = np.maximum(self.regret, 0.0) / (1.0 + self.bound)
        total = raw.sum(axis=2, keepdims=True)
        even = 1.0 / raw.shape[2]
        weights: Floats = np.where(total > 0, raw / np.where(total > 0, total, 1.0), even)
        return weights

    def learn(self, scored: Flags, experts: Floats, mixed: Floats, last: Floats, truth: Floats) -> None:
        """Learns what came: `experts` and `mixed` had been issued for it, `last` was the value then.

        scored: bool[horizon, series]; truth: float64[series]; the others as the weights, or without experts.
        """
        self.seen += scored
        rate = np.maximum(NAIVE_RATE, 1.0 / np.maximum(self.seen, 1))
        error = np.abs(last - truth)
        self.naive += np.where(scored, rate * (error - self.naive), 0.0)
        scale = np.where(self.naive > TINY, self.naive, 1.0)
        lead = np.sign(mixed - truth)[..., None] * (experts - mixed[..., None]) / scale[..., None]
        regret = -np.minimum(np.maximum(lead, -MOST_REGRET), MOST_REGRET)
        regret[~scored] = 0.0
        self.bound = np.maximum(self.bound, regret * regret)
        self.regret = np.where(scored[..., None], MEMORY * self.regret + regret, self.regret)
