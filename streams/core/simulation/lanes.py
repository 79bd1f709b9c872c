"""Policies in a closed loop: the production balancer with several views of the load, and what it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from schemas.records import SLOTS, Cluster, ClusterMetrics, MappingRecord, Mode, Move, Reason
from streams.core.mapping import homes
from streams.core.plans import first_mapping
from streams.core.round_settings import RoundSettings
from streams.core.rounds import Rounds
from streams.core.simulation.backends import Backends
from streams.core.simulation.bounded import Bounded
from streams.core.simulation.views import Measured, View
from streams.core.simulation.workload import BIN_S, Floats, Ints, Workload

SWITCH_S = 1
"""Seconds until all routers use a new mapping."""
REPORT_S = 10.0
"""Interval of the reporters."""


class Policy(StrEnum):
    """Who decides where the load goes."""

    STATIC = "static"
    """Nobody: every shard is served by its home, homes given by the load of the days before."""
    HASH = "hash"
    """Nobody: homes by hash and capacity alone."""
    BOUNDED = "bounded-load hash"
    """Consistent hashing with bounded loads, request by request: keeps no order."""
    REACTIVE = "reactive"
    UNORDERED = "reactive, order-free"
    """Moved slots do not wait for the old cluster: what keeping the order costs."""
    PREDICTIVE = "predictive"
    NO_EVENTS = "predictive without events"
    ORACLE = "oracle"


UNMOVED = frozenset({Policy.STATIC, Policy.HASH, Policy.BOUNDED})
"""Policies without a balancer."""


@dataclass
class Record:
    """What happened under one policy, by bin."""

    load: list[Floats] = field(default_factory=list)
    """float64[clusters] per bin: cost units/s that came, as a part of the capacity that was there."""
    requests: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """Requests that wait more than 1 s."""
    away: list[float] = field(default_factory=list)
    """Part of the load that is away from home."""
    moves: list[tuple[float, Move, float]] = field(default_factory=list)
    """(time, move, its part of the whole load then)."""


class Lane:
    """One policy: its clusters, and whoever moves load between them. Here: nobody."""

    def __init__(self, work: Workload, policy: Policy, round_s: float, homes_: Ints) -> None:
        self.work, self.policy, self.round_s = work, policy, round_s
        self.homes = homes_
        """int64[shards], rows of clusters."""
        self.record = Record()
        self._costs = work.cell_costs()
        owners = homes_.repeat(SLOTS).astype(np.uint16)
        self.backends = Backends(
            work.cells, self._costs, owners, len(work.clusters), hold=policy is not Policy.UNORDERED
        )

    def advance(self, number: int, requests: Floats) -> None:
        """Lets a bin pass: requests float64[seconds, cells]."""
        before, over = self.backends.arrived.copy(), self.backends.waits.over.copy()
        capacity = self.capacity(number)
        self._serve(requests, capacity)
        sums = requests.sum(axis=0)
        load = sums * self._costs
        self.record.load.append((self.backends.arrived - before) / BIN_S / capacity)
        self.record.requests.append(float(sums.sum()))
        self.record.late.append(float(self.backends.waits.over[0] - over[0]))
        away = load @ (1.0 - self.backends.at(self.homes))
        self.record.away.append(float(away / load.sum()) if load.any() else 0.0)

    def _serve(self, requests: Floats, capacity: Floats) -> None:
        self.backends.advance(requests, capacity)

    def capacity(self, number: int) -> Floats:
        """Returns float64[clusters], cost units/s that are there in a bin."""
        there: Floats = self.work.capacity_cps * self.work.capacity_factor[number]
        return there

    def decide(self, number: int) -> None:
        """Acts at the beginning of a bin."""


class Spilling(Lane):
    """Consistent hashing with bounded loads."""

    def __init__(self, work: Workload, policy: Policy, round_s: float, homes_: Ints) -> None:
        super().__init__(work, policy, round_s, homes_)
        self._bounded = Bounded(
            work.rules.shards, dict(zip(work.clusters, work.capacity_cps.tolist(), strict=True))
        )

    def _serve(self, requests: Floats, capacity: Floats) -> None:
        by_shard = self.work.by_shard(requests * self._costs)
        mean_cost = float((requests * self._costs).sum() / max(requests.sum(), 1e-9)) or 1.0
        for second in range(len(requests)):
            cost = self._bounded.spread(by_shard[second], self.backends.queue)
            self.backends.pour(cost / mean_cost, cost, capacity)


@dataclass(frozen=True)
class Seen:
    """What was to be read of the clusters at one time."""

    at: float
    arrived: Floats
    """Requests since the beginning."""
    waiting: Floats
    """Requests."""
    busy: Floats
    """Part of the last seconds in which the cluster worked."""


class Balanced(Lane):
    """A policy with the production balancer: streams/core/rounds.py, fed with late readings."""

    def __init__(
        self,
        work: Workload,
        policy: Policy,
        homes_: Ints,
        settings: RoundSettings,
        knows: tuple[Measured, View, View],
    ) -> None:
        """knows: what is measured; whose forecasts; whose events."""
        super().__init__(work, policy, settings.round_s, homes_)
        measured, view, announced = knows
        self.rows = {name: row for row, name in enumerate(work.clusters)}
        self.rounds = Rounds(work.rules, settings, ingest_partitions=1)
        for name, capacity in zip(work.clusters, work.capacity_cps.tolist(), strict=True):
            self.rounds.on_cluster(
                Cluster(name=name, topic=f"requests.{name}", group=name, capacity_cps=capacity, partitions=1)
            )
        self.rounds.load, self.rounds.outlook, self.rounds.events = measured, view, announced.events
        self.rounds.mode = Mode.AUTO
        self._first_mapping()
        self.rounds.take_over()
        self._seen: list[Seen] = []
        self._served = np.zeros(len(work.clusters))
        self._moves: list[Move] = []
        """Decided, but no router has seen them yet."""

    def _first_mapping(self) -> None:
        records, meta = first_mapping(
            self.work.rules.shards,
            self.rounds.weights(),
            self.rounds.mapped(),
            epoch=1,
            rules_hash=self.work.rules.rules_hash(),
            plan="1.0",
        )
        for record in records:
            self.rounds.builder.apply(_at_home(record, self.work.clusters[self.homes[record.shard]]))
        self.rounds.builder.apply(meta)

    def advance(self, number: int, requests: Floats) -> None:
        super().advance(number, requests)
        capacity = self.capacity(number)
        cost = max(float(requests.sum()), 1e-9)
        mean_cost = float((requests * self._costs).sum()) / cost or 1.0
        arrived = self.backends.arrived_requests.copy()
        waiting = np.minimum(self.backends.queue / mean_cost, arrived)
        busy = self._served / (capacity * len(requests))
        self._seen.append(Seen(self.work.time(number + 1), arrived, waiting, busy))

    def _serve(self, requests: Floats, capacity: Floats) -> None:
        """The first second still goes where the mapping before said."""
        self._served = self.backends.advance(requests[:SWITCH_S], capacity)
        self._switch()
        self._served = self._served + self.backends.advance(requests[SWITCH_S:], capacity)

    def _switch(self) -> None:
        snapshot = self.rounds.snapshot
        if self._moves and snapshot is not None:
            self.backends.move(self._moves, self.rows, snapshot.owners, snapshot.version)
        self._moves = []

    def decide(self, number: int) -> None:
        """Reads what is 10 s old, and has a round if it is time for one."""
        now = self.work.time(number)
        self._read()
        since_start = (number - self.work.warm_bins) * BIN_S
        if since_start % self.round_s or any(span.holds(now) for span in self.work.leaderless):
            return
        snapshot = self.rounds.snapshot
        version = snapshot.version if snapshot else 0
        self.rounds.on_settled({0: self.backends.settled(version)})
        self.rounds.evaluate(now)
        after, decision = self.rounds.snapshot, self.rounds.last
        if after is not None and decision is not None and after.version > version:
            self._moves = decision.moves
            total = max(float(self.work.rate[number] @ self._costs), 1e-9)
            self.record.moves += [(now, move, move.load_cps / total) for move in decision.moves]

    def _read(self) -> None:
        """Takes the clusters' offsets and reports as they were 10 s ago."""
        if len(self._seen) < 2:
            return
        seen = self._seen.pop(0)
        silent = {name for name, span in self.work.silent if span.holds(seen.at)}
        for name, row in self.rows.items():
            end = int(seen.arrived[row])
            self.rounds.on_lag(name, {0: end - min(int(seen.waiting[row]), end)}, {0: end}, seen.at)
            if name not in silent:
                report = ClusterMetrics.model_construct(
                    cluster=name,
                    instance="1",
                    at=seen.at,
                    interval_s=REPORT_S,
                    cpu=min(float(seen.busy[row]), 1.0),
                )
                self.rounds.on_metrics(report)


def _at_home(record: MappingRecord, home: str) -> MappingRecord:
    return record.model_copy(
        update={"home": home, "segments": [(0, SLOTS, home)], "reason": Reason.FIRST_START.value}
    )


def homes_by_load(load: Floats, capacity: Floats) -> Ints:
    """Returns int64[shards], rows of clusters: the largest shard first, each to where it fills least."""
    filled = np.zeros(len(capacity))
    found = np.zeros(len(load), dtype=np.int64)
    for shard in np.lexsort((np.arange(len(load)), -load)).tolist():
        found[shard] = int(np.argmin((filled + load[shard]) / capacity))
        filled[found[shard]] += load[shard]
    return found


def homes_by_hash(shards: int, capacities: Mapping[str, float]) -> Ints:
    """Returns int64[shards], rows of the sorted clusters: rendezvous hashing weighted by capacity."""
    rows = {name: row for row, name in enumerate(sorted(capacities))}
    return np.array([rows[name] for name in homes(shards, capacities)], dtype=np.int64)
