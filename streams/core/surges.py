"""Shards that become popular by themselves: what to expect of them before their shares follow.

Shares follow steps, which close up to a minute late, and slowly. So what a shard measures is compared with
its share of what its series measure: a series that grows on all of its shards is no surge of any.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from streams.core.counts import Floats
from streams.core.load import newest_sd

LEAST_PART = 0.15
"""A shard surges when it measures more than its share by this part of it ..."""
LEAST_SD = 4.0
"""... and by so many standard deviations of a Poisson count over the newest windows."""
AHEAD = 2.0
"""What a surge has gained in half a minute is expected to come so many times again: slots have moved a good
half minute after a surge is seen, and most still grow then."""
NEAR_S, FAR_S = 25.0, 65.0
"""How long ago the gain is measured from: at rounds of 10 and of 30 s, 30 s ago."""


class Surges:
    """Looks at every round's rates. What was seen before is not saved: a new leader sees no gain at first."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, Floats]] = []
        """(model time, cost units/s beyond each shard's share)."""

    def expect(
        self, now: float, share: Floats, rates: Floats, costs: Floats, spared: Collection[int] = ()
    ) -> Floats:
        """Returns float64[shards], cost units/s to expect beyond shares; 0 where nothing surges.

        share, rates: float64[series, shards], the latter requests/s now; costs: float64[series]; spared:
        shards that are not judged, such as those on whose keys an event acts.
        """
        judged = np.ones(rates.shape[1], dtype=np.bool_)
        judged[list(spared)] = False
        whole = share[:, judged].sum(axis=1)
        usual = (costs * rates[:, judged].sum(axis=1) / np.where(whole > 0, whole, np.inf)) @ share
        more = costs @ rates - usual
        chance = LEAST_SD * newest_sd((costs * costs) @ rates)
        found = judged & (more > LEAST_PART * usual) & (more > chance)
        return np.where(found, more + AHEAD * self._gain(now, more), 0.0)

    def _gain(self, now: float, more: Floats) -> Floats:
        """Returns float64[shards], how much more is beyond the share than half a minute ago, at least 0."""
        self._seen = [(at, before) for at, before in self._seen if now - FAR_S < at < now]
        earlier = [before for at, before in self._seen if at <= now - NEAR_S]
        self._seen.append((now, more))
        return np.maximum(more - earlier[-1], 0.0) if earlier else np.zeros(len(more))
