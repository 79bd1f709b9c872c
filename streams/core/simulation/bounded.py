"""Consistent hashing with bounded loads, the order-free reference.

Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018): a request goes to the
first cluster in its key's order that holds less than (1 + epsilon) times its fair part of all requests
that wait or are served.
"""

from __future__ import annotations

from collections.abc import Mapping

import mmh3
import numpy as np

from streams.core.simulation.workload import Floats

EPSILON = 0.25
"""The paper's example, and the default of proxies that implement it is near it."""


class Bounded:
    """Where each second's requests go; clusters are rows in the order of their names."""

    def __init__(self, shards: int, capacities: Mapping[str, float]) -> None:
        names = sorted(capacities)
        weights = np.array([capacities[name] for name in names])
        hashes = np.array(
            [
                [mmh3.hash64(f"{name}\0{shard}", 0, signed=False)[0] for name in names]
                for shard in range(shards)
            ],
            dtype=np.uint64,
        )
        unit = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)
        self._order = np.argsort(weights / np.log(unit), axis=1, kind="stable")
        """int64[shards, clusters]: rendezvous order, the home of streams/core/mapping.py first."""
        self._fair = weights / weights.sum()

    def spread(self, load: Floats, queue: Floats) -> Floats:
        """Returns float64[clusters], what of a second's load, float64[shards], goes to each cluster."""
        clusters = len(queue)
        room = np.maximum((1 + EPSILON) * (float(load.sum()) + float(queue.sum())) * self._fair - queue, 0.0)
        left, given = load, np.zeros(clusters)
        for rank in range(clusters):
            target = self._order[:, rank]
            wanted = np.bincount(target, weights=left, minlength=clusters)
            part = np.divide(np.minimum(wanted, room), wanted, out=np.zeros(clusters), where=wanted > 0)
            given += wanted * part
            room = room - wanted * part
            left = left * (1.0 - part[target])
            if left.sum() <= 1e-9:
                break
        whole: Floats = given + left.sum() * self._fair
        return whole
