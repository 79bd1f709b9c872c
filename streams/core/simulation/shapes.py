"""How series go up and down over days, mean 1: the generator's, for runs without recorded traffic."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streams.core.simulation.workload import BIN_S, Floats

DAY_S = 86_400.0
KNOT_S = 60.0
"""Noise is drawn every minute, and linear between."""


class Shapes(Protocol):
    """A source of load shapes."""

    def draw(self, rng: np.random.Generator, bins: int, shift_s: float) -> Floats:
        """Returns float64[bins], mean 1; its day begins `shift_s` later than the first bin."""


class Generated:
    """Days with two or three waves, a level that wanders, and noise that stays for some minutes."""

    def draw(self, rng: np.random.Generator, bins: int, shift_s: float) -> Floats:
        time = np.arange(bins) * BIN_S - shift_s
        depth = rng.uniform(0.3, 0.7)
        log = np.zeros(bins)
        for wave in range(1, 4):
            size = depth / wave**1.5 * rng.uniform(0.5, 1.0)
            log += size * np.cos(2 * np.pi * wave * (time / DAY_S - rng.normal(0.6, 0.05)))
        knots = int(bins * BIN_S / KNOT_S) + 2
        at = np.arange(bins) * BIN_S / KNOT_S
        for memory, size in ((3.0, rng.uniform(0.01, 0.05)), (120.0, rng.uniform(0.02, 0.08))):
            log += np.interp(at, np.arange(knots), wander(rng, knots, memory, size))
        rate = np.exp(log)
        shape: Floats = rate / rate.mean()
        return shape


def wander(rng: np.random.Generator, knots: int, memory: float, size: float) -> Floats:
    """Returns float64[knots]: a random walk that comes back to 0 (AR(1)), standard deviation `size`."""
    keep = np.exp(-1.0 / memory)
    steps = rng.standard_normal(knots) * size
    steps[1:] *= np.sqrt(1.0 - keep * keep)
    found = np.empty(knots)
    level = 0.0
    for knot in range(knots):
        level = (keep * level if knot else 0.0) + steps[knot]
        found[knot] = level
    return found
