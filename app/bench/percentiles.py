"""Percentiles of latencies."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def percentiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Returns p50, p99 and p999 by nearest rank: the least value that so large a share does not exceed.

    Of 1, 2, ..., 1000: 500, 990 and 999. Raises ValueError where there is nothing.
    """
    if not len(values):
        raise ValueError("no request came: there are no percentiles")
    ordered = np.sort(values)
    return {
        name: round(float(ordered[max(0, math.ceil(share * len(ordered)) - 1)]), 2)
        for name, share in SHARES.items()
    }
