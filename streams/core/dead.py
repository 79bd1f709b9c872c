"""Which clusters look dead: requests wait, nothing is committed, and no reporter speaks.

A backend that does not commit is not the only reason to stand still: the broker may be away, all
backends may wait for the same database, and what looks like waiting requests may be the markers of
transactions. So only fresh readings count (after a gap the count begins again), somebody else must be
well, and a request must have been seen in the topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from streams.core.capacity import LAG_FRESH_S

WELL_PART = 0.25
"""Part of the time to death within which a cluster must have got on to count as well."""


@dataclass
class _Watched:
    """What was last seen of one cluster."""

    read_at: float
    committed: Mapping[int, int]
    waits: bool
    """Whether offsets lie between what is committed and the end."""
    alive_at: float
    """When it last got on, had nothing to do, reported, or was first seen."""
    seen_waiting: bool = False
    """Whether a request, not just markers, was found in its topic since."""


@dataclass(frozen=True)
class Silent:
    """A cluster that gave no sign of life for as long as a dead one."""

    cluster: str
    for_s: float
    seen_waiting: bool
    """Only then it is dead: somebody has looked into its topic and found a request."""


class DeathWatch:
    """Knows when each cluster last gave a sign of life. Times are model time."""

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._clusters: dict[str, _Watched] = {}
        self._reports: dict[str, float] = {}

    def reading(self, cluster: str, now: float, committed: Mapping[int, int], end: Mapping[int, int]) -> None:
        """Takes one reading of a cluster's group: {partition: committed offset}, {partition: end}."""
        waits = any(offset > committed.get(partition, 0) for partition, offset in end.items())
        old = self._clusters.get(cluster)
        same = old is not None and old.waits and waits and old.committed == committed
        if old is None or not same or now - old.read_at > LAG_FRESH_S:
            self._clusters[cluster] = _Watched(now, dict(committed), waits, now)
        else:
            old.read_at = max(old.read_at, now)

    def report(self, cluster: str, at: float) -> None:
        """Takes the time of a reporter's record."""
        self._reports[cluster] = max(self._reports.get(cluster, at), at)

    def looked(self, cluster: str, now: float, waiting: bool) -> None:
        """Takes what a look into the cluster's topic has found; without a request it is well."""
        watched = self._clusters.get(cluster)
        if watched is not None:
            watched.seen_waiting = waiting
            watched.alive_at = watched.alive_at if waiting else now

    def forget(self, cluster: str) -> None:
        self._clusters.pop(cluster, None)
        self._reports.pop(cluster, None)

    def silent(self, now: float, among: Set[str]) -> list[Silent]:
        """Returns those of the clusters that look dead, by name."""
        found = []
        for name in sorted(among & set(self._clusters)):
            watched = self._clusters[name]
            for_s = now - max(watched.alive_at, self._reports.get(name, watched.alive_at))
            if watched.waits and self._fresh(watched, now) and for_s >= self._dead_after_s:
                found.append(Silent(name, for_s, watched.seen_waiting))
        return found

    def well(self, now: float, among: Set[str]) -> bool:
        """Returns whether one of the clusters surely gets on, or has nothing to do."""
        return any(
            self._fresh(watched, now)
            and (not watched.waits or now - watched.alive_at <= WELL_PART * self._dead_after_s)
            for name, watched in self._clusters.items()
            if name in among
        )

    def _fresh(self, watched: _Watched, now: float) -> bool:
        return now - watched.read_at <= LAG_FRESH_S
