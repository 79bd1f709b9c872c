"""The demo's sample backends: unequal, and large enough together for the load that is coming."""

from __future__ import annotations

from collections.abc import Mapping

PROPORTIONS: Mapping[str, float] = {
    "cluster1": 1.0,
    "cluster2": 1.5,
    "cluster3": 2.0,
    "cluster4": 2.0,
    "cluster5": 2.5,
    "cluster6": 3.0,
}
"""Capacities relative to each other: the largest is three times the smallest."""

UTILISATION = 0.66
"""Mean load of a pass over all capacity: full enough that fixed homes overload somewhere, and that
moving load well is enough."""


def capacities(mean_cps: float, utilisation: float = UTILISATION) -> dict[str, float]:
    """Returns each cluster's capacity, cost units per model second, for a pass of this mean load."""
    scale = mean_cps / utilisation / sum(PROPORTIONS.values())
    return {name: part * scale for name, part in PROPORTIONS.items()}
