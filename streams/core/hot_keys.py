"""The busiest keys of a window, from a sample, in bounded memory.

Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams"
(2005): a full table gives the place of its smallest counter to a newcomer, who inherits the count as
his error. With k counters and n counted, no key of more than n / k is missed, and no count is too
high by more than its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COUNTERS = 128
"""A key with 1 % of a router's requests is never missed."""

SAMPLE = 64
"""Requests looked at per batch at most: in 100 batches a key with 1 % of them is seen 64 times."""


@dataclass(frozen=True)
class HotKey:
    """One busy key, by its hash."""

    hash: int
    requests: int
    """Estimate, too high by `error` at most as far as the sample goes."""
    error: int


class HotKeys:
    """Counts the keys of sampled requests until they are taken."""

    def __init__(self, counters: int = COUNTERS, sample: int = SAMPLE) -> None:
        self._counters = counters
        self._sample = sample
        self._count: dict[int, int] = {}
        self._error: dict[int, int] = {}
        self._phase = 0

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Counts uint64[n], a batch: every stride-th of it, for stride requests each."""
        if not len(hashes):
            return
        stride = -(-len(hashes) // self._sample)
        self._phase = (self._phase + 1) % stride
        keys, counts = np.unique(hashes[self._phase :: stride], return_counts=True)
        for key, count in zip(keys.tolist(), (counts * stride).tolist(), strict=True):
            self._add(key, count)

    def _add(self, key: int, count: int) -> None:
        if key not in self._count and len(self._count) >= self._counters:
            least = min(self._count, key=self._count.__getitem__)
            inherited = self._count.pop(least)
            del self._error[least]
            self._count[key], self._error[key] = inherited, inherited
        self._count[key] = self._count.get(key, 0) + count
        self._error.setdefault(key, 0)

    def take(self, most: int) -> list[HotKey]:
        """Returns the busiest keys whose count is more than its error, busiest first; starts anew."""
        found = [HotKey(key, count, self._error[key]) for key, count in self._count.items()]
        self._count, self._error = {}, {}
        sure = [one for one in found if one.requests > 2 * one.error]
        return sorted(sure, key=lambda one: (-one.requests, one.hash))[:most]
