"""Which part of a series' requests falls on each shard."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from streams.core.counts import Floats, Ints

SLOW = 0.05
"""Weight of one step in a share: a memory of 20 steps (10 min), long against counting noise."""
FAST = 0.4
"""Weight when a share is plainly off: half the change is taken in within 45 s."""
OFF = 4.0
"""Standard deviations (of a Poisson count) at which a share is off; 2 steps running decide."""
SURGE_PART = 0.15
"""A shard surges when it measures more than its share by this part of it ..."""
SURGE_SD = 4.0
"""... and by so many standard deviations of a Poisson count over 10 s."""
SURGE_COUNT_S = 10.0
SURGE_GROWTH = 2.0
"""A surge is planned for at this multiple of what is seen of it: it takes half a minute to see one and move
slots away, and most still grow then. 1 is a third worse than no forecasts at all (docs/forecasting.md)."""


class Shares:
    """Each shard's part of its series' requests: `share` is float64[series, shards], rows sum to 1 or 0."""

    def __init__(self, series: int, shards: int) -> None:
        self.share: Floats = np.zeros((series, shards))
        self._sign: NDArray[np.int8] = np.zeros((series, shards), dtype=np.int8)
        self._steps: Ints = np.zeros(series, dtype=np.int64)

    def update(self, counts: Floats | None) -> None:
        """Learns from one step, float64[series, shards]; a series without requests teaches nothing."""
        if counts is None:
            return
        total = counts.sum(axis=1)
        for series in np.flatnonzero(total > 0):
            self._learn(int(series), counts[series], float(total[series]))

    def _learn(self, series: int, counts: Floats, total: float) -> None:
        """The first 20 steps are averaged, then each weighs SLOW; FAST where it is off twice running."""
        share = self.share[series]
        self._steps[series] += 1
        expected = share * total
        off = counts - expected
        sign = np.where(np.abs(off) > OFF * np.sqrt(expected + 1.0), np.sign(off), 0).astype(np.int8)
        again = (sign != 0) & (sign == self._sign[series])
        weight = max(SLOW, 1.0 / float(self._steps[series]))
        share = share + np.where(again, max(FAST, weight), weight) * (counts / total - share)
        self.share[series] = share / share.sum()
        self._sign[series] = sign

    def surges(self, rates: Floats, costs: Floats, spared: Collection[int] = ()) -> Floats:
        """Returns float64[shards], cost units/s to expect beyond shares: of shards that became popular; or 0.

        rates: float64[series, shards], requests/s now; costs: float64[series]; spared: shards that are not
        judged, such as those on whose keys an event acts. Shares follow steps, which close a minute late; a
        whole series that grows is no surge of its shards.
        """
        judged = np.ones(rates.shape[1], dtype=np.bool_)
        judged[list(spared)] = False
        whole = self.share[:, judged].sum(axis=1)
        now = rates[:, judged].sum(axis=1) / np.where(whole > 0, whole, np.inf)
        more = costs @ rates - (costs * now) @ self.share
        chance = SURGE_SD * np.sqrt((costs * costs) @ rates / SURGE_COUNT_S)
        found = judged & (more > SURGE_PART * ((costs * now) @ self.share)) & (more > chance)
        return np.where(found, SURGE_GROWTH * more, 0.0)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Returns the whole state by name; `from_arrays` continues exactly."""
        return {"share": self.share.copy(), "sign": self._sign.copy(), "steps": self._steps.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Shares:
        """Returns the Shares that `to_arrays` was asked of."""
        made = cls(*arrays["share"].shape)
        made.share = arrays["share"].astype(np.float64)
        made._sign = arrays["sign"].astype(np.int8)
        made._steps = arrays["steps"].astype(np.int64)
        return made
