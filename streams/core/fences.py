"""Clusters by number, and tables of one offset per output partition: what fences are compared with.

A fence is the offset of the last record that was written somewhere; it is passed when the cluster's
group has committed *past* it. Snapshots of the mapping count clusters in their own sorted names,
which change; what a router remembers of a cluster is kept by a number that stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.records import MappedCluster

Ints = npt.NDArray[np.int64]

PENDING = 1 << 62
"""Fence of a record whose transaction is not committed: no committed offset is past it."""

NOTHING = -1
"""Fence where nothing was written: even a group that has committed offset 0 is past it."""


class ClusterNumbers:
    """Numbers clusters for the life of a process; one that comes back with another topic gets a new one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.topics: list[str] = []
        self.partitions: list[int] = []
        self.by_topic: dict[str, list[int]] = {}
        self._known: dict[tuple[str, str, int], int] = {}

    def number(self, name: str, cluster: MappedCluster) -> int:
        """Returns the cluster's number."""
        key = (name, cluster.topic, cluster.partitions)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self.names)
            self.names.append(name)
            self.topics.append(cluster.topic)
            self.partitions.append(cluster.partitions)
            self.by_topic.setdefault(cluster.topic, []).append(found)
        return found


class OffsetTable:
    """An offset per cluster and output partition; `unknown` where none was set."""

    def __init__(self, unknown: int = NOTHING) -> None:
        self._unknown = unknown
        self._table = np.full((0, 0), unknown, dtype=np.int64)

    def row(self, cluster: int) -> Ints:
        """Returns int64[partitions or more] of a cluster, a copy."""
        self._fit(cluster + 1, 0)
        found: Ints = self._table[cluster].copy()
        return found

    def set_row(self, cluster: int, offsets: Sequence[int] | Ints) -> None:
        """Sets the offsets of partitions 0, 1, ... of a cluster."""
        self._fit(cluster + 1, len(offsets))
        self._table[cluster, : len(offsets)] = offsets

    def set(self, cluster: int, partition: int, offset: int) -> None:
        """Sets one offset."""
        self._fit(cluster + 1, partition + 1)
        self._table[cluster, partition] = offset

    def at(self, cluster: Ints, partition: Ints) -> Ints:
        """Returns int64[n]: the offset at each (cluster, partition)."""
        if len(cluster):
            self._fit(int(cluster.max()) + 1, int(partition.max()) + 1)
        found: Ints = self._table[cluster, partition]
        return found

    def _fit(self, clusters: int, partitions: int) -> None:
        rows, columns = self._table.shape
        if clusters <= rows and partitions <= columns:
            return
        grown = np.full((max(clusters, rows), max(partitions, columns)), self._unknown, dtype=np.int64)
        grown[:rows, :columns] = self._table
        self._table = grown
