"""How much each cluster can take and how much waits in its topic, from what is known of it.

Known are: the registry, the reporters' records (optional), and the group's offsets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import UnknownClusterError
from schemas.records import Cluster, ClusterMetrics
from streams.core.planner.inputs import ClusterInput, Floats

WINDOW_S = 60.0
"""Growth of offsets is measured over this: long enough for groups that commit every 5 s."""

LAG_FRESH_S = 30.0
"""A cluster whose lag was not read for three rounds is not known."""

MISSED_REPORTS = 3
"""A reporter is stale after this many intervals without a record, and after 60 s in any case."""

MOST_FRESH_S = 60.0

BUSY_CPU = 0.6
"""Below this CPU, throughput / CPU says little of capacity: fixed work weighs too much."""

FULL_MEMORY = 0.95
"""From this part of its memory on, a cluster takes no more load."""

MIN_COMMITS = 4
"""Readings in which the group had moved on, for a rate: rarer commits alias with the readings."""


@dataclass(frozen=True)
class Reading:
    """Offsets of one cluster's group at one time: {partition: offset}, and requests forwarded so far."""

    at: float
    committed: Mapping[int, int]
    end: Mapping[int, int]
    forwarded: npt.NDArray[np.int64]

    def sent(self, partition: int) -> int:
        return int(self.forwarded[partition]) if partition < len(self.forwarded) else 0

    def done(self, partition: int) -> int:
        """Returns the committed offset; a group that never committed has done nothing."""
        return max(self.committed.get(partition, 0), 0)


@dataclass
class _Known:
    """What is known of one cluster."""

    cluster: Cluster
    reports: dict[str, deque[ClusterMetrics]]
    readings: deque[Reading]
    requests_per_offset: dict[int, float]
    """Newest ratio per output partition: the rest are transaction markers."""


class CapacityBook:
    """Keeps what was read about each cluster. Times are model time; nothing here reads a clock."""

    def __init__(self, lag_fresh_s: float = LAG_FRESH_S) -> None:
        self._lag_fresh_s = lag_fresh_s
        self._clusters: dict[str, _Known] = {}

    def register(self, cluster: Cluster) -> None:
        """Takes a new cluster, or new settings of one; what was read of it before stays."""
        old = self._clusters.get(cluster.name)
        if old is not None:
            old.cluster = cluster
        else:
            self._clusters[cluster.name] = _Known(cluster, {}, deque(), {})

    def forget(self, name: str) -> None:
        self._clusters.pop(name, None)

    def metrics(self, record: ClusterMetrics) -> None:
        """Takes one reporter's record; one that is older than the instance's newest is ignored."""
        reports = self._known(record.cluster).reports.setdefault(record.instance, deque())
        if reports and record.at <= reports[-1].at:
            return
        reports.append(record)
        while reports[0].at < record.at - WINDOW_S:
            reports.popleft()

    def lag(
        self,
        cluster: str,
        now: float,
        committed: Mapping[int, int],
        end: Mapping[int, int],
        forwarded: Sequence[int] | npt.NDArray[np.int64],
    ) -> None:
        """Takes one reading of a cluster's group.

        `committed` and `end` (last stable offsets) are {output partition: offset}; `forwarded`
        counts the requests that routers reported so far, per output partition.
        """
        known = self._known(cluster)
        reading = Reading(now, dict(committed), dict(end), np.asarray(forwarded, dtype=np.int64).copy())
        readings = known.readings
        if readings and now <= readings[-1].at:
            return
        readings.append(reading)
        while len(readings) > 2 and readings[1].at <= now - WINDOW_S:
            readings.popleft()
        for partition, offset in reading.end.items():
            grown = offset - readings[0].end.get(partition, offset)
            sent = reading.sent(partition) - readings[0].sent(partition)
            if grown > 0 and sent > 0:
                known.requests_per_offset[partition] = min(sent / grown, 1.0)

    def backlog(self, cluster: str, now: float) -> float | None:
        """Returns the requests that wait in the cluster's topic; None if its lag is not known.

        Lag counts offsets, and transaction markers take offsets: lag x requests per offset. A lag
        of one in a partition that got nothing lately is the marker of its last transaction.
        """
        known = self._known(cluster)
        if not self._lag_known(known, now):
            return None
        last, first = known.readings[-1], known.readings[0]
        waiting = 0.0
        for partition, offset in last.end.items():
            lag = max(offset - last.done(partition), 0)
            if lag == 1 and last.sent(partition) == first.sent(partition):
                continue
            waiting += lag * known.requests_per_offset.get(partition, 1.0)
        return waiting

    def processed_cps(self, cluster: str, mean_cost: float) -> float | None:
        """Returns what the group got done, cost units/s over the last 60 s; None if not known.

        Measured from the first to the last reading that showed a new commit, so that the pauses
        between commits do not count.
        """
        known = self._known(cluster)
        readings = list(known.readings)
        totals = [sum(r.done(p) for p in r.end) for r in readings]
        steps = [n for n in range(1, len(readings)) if totals[n] > totals[n - 1]]
        if len(steps) < MIN_COMMITS:
            return None
        first, last = readings[steps[0]], readings[steps[-1]]
        done = sum(
            max(last.done(p) - first.done(p), 0) * known.requests_per_offset.get(p, 1.0) for p in last.end
        )
        return done / (last.at - first.at) * mean_cost

    def input(
        self, cluster: str, now: float, factor: Floats, mean_cost: float, latency_objective_s: float
    ) -> ClusterInput:
        """Returns the cluster as the planner takes it in.

        `factor` is float64[columns], the announced part of its capacity per column; `mean_cost` is
        cost units per request.
        """
        known = self._known(cluster)
        requests = self.backlog(cluster, now)
        backlog = (requests or 0.0) * mean_cost
        capacity = self._available(known, now, factor, mean_cost)
        fresh = self._fresh(known, now)
        waited_s = backlog / capacity[0] if capacity[0] > 0 else 0.0
        latencies = [r.latency_s for r in fresh if r.latency_s is not None and not r.latency_estimated]
        closed = ""
        if any(r.memory is not None and r.memory >= FULL_MEMORY for r in fresh):
            closed = "memory"
        elif max(latencies, default=0.0) > latency_objective_s > waited_s:
            closed = "latency"
        return ClusterInput(
            name=cluster,
            state=known.cluster.state,
            known=requests is not None,
            capacity=capacity,
            backlog=backlog,
            closed=closed,
        )

    def _available(self, known: _Known, now: float, factor: Floats, mean_cost: float) -> Floats:
        """Returns the available capacity, float64[columns], cost units/s.

        The least of: registered x announced; reported; processed / CPU where the CPU is busy. The
        latter two are of now, so an announced change counts for them only where it is still to come.
        """
        to_come = np.minimum(factor / factor[0], 1.0) if factor[0] > 0 else np.ones_like(factor)
        capacity: Floats = known.cluster.capacity_cps * factor
        reported = [r.capacity_cps for r in self._fresh(known, now) if r.capacity_cps is not None]
        if reported:
            capacity = np.minimum(capacity, sum(reported) * to_come)
        cpu = self._cpu(known, now)
        if cpu is not None and cpu >= BUSY_CPU:
            processed = self.processed_cps(known.cluster.name, mean_cost)
            if processed is not None and processed > 0:
                capacity = np.minimum(capacity, processed / cpu * to_come)
        return capacity

    def cpu(self, cluster: str, now: float) -> float | None:
        """Returns the mean CPU of the cluster's instances over the last 60 s, 0 to 1; None if not known."""
        return self._cpu(self._known(cluster), now)

    def _cpu(self, known: _Known, now: float) -> float | None:
        """Returns the mean CPU of the fresh instances over the last 60 s, as `processed_cps`."""
        means = []
        for instance in [record.instance for record in self._fresh(known, now)]:
            values = [r.cpu for r in known.reports[instance] if r.cpu is not None and r.at > now - WINDOW_S]
            if values:
                means.append(sum(values) / len(values))
        return sum(means) / len(means) if means else None

    def _fresh(self, known: _Known, now: float) -> list[ClusterMetrics]:
        """Returns the newest record of each instance that still counts, by instance name."""
        newest = [reports[-1] for _, reports in sorted(known.reports.items())]
        return [r for r in newest if abs(now - r.at) <= min(MISSED_REPORTS * r.interval_s, MOST_FRESH_S)]

    def _lag_known(self, known: _Known, now: float) -> bool:
        return bool(known.readings) and now - known.readings[-1].at <= self._lag_fresh_s

    def _known(self, name: str) -> _Known:
        known = self._clusters.get(name)
        if known is None:
            raise UnknownClusterError(
                f"cluster {name} is not registered; add it with: foreshard clusters add {name}"
            )
        return known
