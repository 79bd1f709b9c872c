"""How full a cluster may get: where it sheds, what it is filled to, what its home takes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streams.core.planner.inputs import Floats, PlannerSettings

MAX_SCORE = 1000.0
"""The score of a cluster that has load but no capacity: finite, and above every other."""

NARROW = 0.005
"""Of capacity: shedding ends at least this far below where it begins, however full all are."""

NOTHING = 1e-9
"""Cost units/s: what sums of floats leave behind is no load."""


@dataclass(frozen=True)
class Limits:
    """Per column, as fractions of a cluster's capacity: float64[columns] each."""

    mean: Floats
    """Load of the clusters that take part / their capacity."""
    shed_above: Floats
    fill_to: Floats
    """Shedding goes down to here, and no move fills a target above it."""
    home_below: Floats
    """A home stays below this after a return."""


def limits(load: Floats, capacity: float, settings: PlannerSettings) -> Limits:
    """Returns the limits of a round.

    `load` is float64[columns] of all clusters that take part, `capacity` their sum; cost units/s.
    Column 0, the noisy newest measurement, is for emergencies only: its limits are not below
    `ceil`. Worked number: mean .6 sheds above .78 and fills to .74; mean .8 sheds above .92 and
    fills to .86.
    """
    mean = load / capacity if capacity > 0 else np.zeros_like(load)
    widest = np.maximum(mean * (1 + settings.band), settings.floor)
    shed_above = np.minimum(widest, np.maximum(settings.ceil, mean * (1 + settings.minband)))
    wanted = np.maximum(mean * (1 + settings.band * settings.damp), settings.floor - settings.margin)
    fill_to = np.minimum(wanted, np.maximum(shed_above - NARROW, mean + NARROW))
    shed_above[0] = max(shed_above[0], settings.ceil)
    fill_to[0] = max(fill_to[0], settings.ceil - settings.margin)
    home_below = np.minimum(np.maximum(mean, settings.retfloor), fill_to)
    return Limits(mean=mean, shed_above=shed_above, fill_to=fill_to, home_below=home_below)


def fullness(demand: Floats, capacity: Floats) -> Floats:
    """Returns demand / capacity, float64[clusters, columns], finite and at most MAX_SCORE.

    A cluster without capacity is MAX_SCORE full when it has load, else 0.
    """
    room = np.where(capacity > 0, capacity, 1.0)[:, None]
    full = np.where(capacity[:, None] > 0, demand / room, np.where(demand > NOTHING, MAX_SCORE, 0.0))
    return np.asarray(np.minimum(full, MAX_SCORE), dtype=np.float64)
