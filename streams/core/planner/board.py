"""The board on which one plan is worked out: who holds what, how full, and what has moved so far."""

from __future__ import annotations

from itertools import chain

import numpy as np
import numpy.typing as npt

from schemas.records import SLOTS, ClusterState, Move, Reason
from streams.core.mapping import ranges
from streams.core.planner.inputs import ClusterInput, Floats, PlanInput, PlannerSettings
from streams.core.planner.limits import Limits, fullness, limits

EPS = 1e-9
"""Slack for sums of floats, in parts of a shard or cost units/s."""


class Board:
    """Working state of one plan. Clusters are row numbers, in order of their names.

    A cluster that the mapping names but the registry does not is a row of its own, not known.
    """

    def __init__(self, inputs: PlanInput, settings: PlannerSettings) -> None:
        self.inputs = inputs
        self.settings = settings
        self.load: Floats = np.where(inputs.load > EPS, inputs.load, 0.0)
        """float64[shards, columns], cost units/s; what an EWMA leaves of a load long gone is none."""
        self.clusters = sorted(_with_strangers(inputs), key=lambda cluster: cluster.name)
        self.names = [cluster.name for cluster in self.clusters]
        self.row = {name: number for number, name in enumerate(self.names)}
        self._read_clusters()
        self._read_mapping()
        self._owners: dict[int, npt.NDArray[np.int64]] = {}
        backlog = np.array([cluster.backlog for cluster in self.clusters])
        self.demand = self._held_load() + (backlog / settings.backlog_clear_s)[:, None]
        self.limits = self._limits()
        total = float(self.load[:, 0].sum())
        self.budget = settings.budget * total
        self.budget_left = self.budget
        self.sources: set[int] = set()
        self.receivers: set[int] = set()
        self.touched: set[int] = set()
        self.forced_cps = 0.0
        """Load that had to leave its cluster and was placed over its target's limit."""
        self.moves: list[Move] = []

    def _read_clusters(self) -> None:
        rows = self.clusters
        active = np.array([cluster.state is ClusterState.ACTIVE for cluster in rows], dtype=bool)
        self.known = np.array([cluster.known for cluster in rows], dtype=bool)
        self._least = np.array([float(np.min(cluster.capacity)) for cluster in rows])
        self.capacity: Floats = np.where(active, self._least, 0.0)
        """float64[clusters]: the least available capacity of the window, 0 for those that leave."""
        self.source_ok = active & self.known
        self.leaving = ~active
        shut = np.array([bool(cluster.closed) for cluster in rows], dtype=bool)
        self.target_ok = self.source_ok & ~shut & (self.capacity > 0)
        taking_part = self.capacity[self.source_ok]
        self.mean_capacity = float(taking_part.mean()) if taking_part.size else 0.0

    def _read_mapping(self) -> None:
        """Fills `home`, `members` (cluster -> shard -> share of load), `_spread` (the reverse) and `away`.

        Most shards are whole at home: they are in `members` only.
        """
        self.home = [self.row[record.home] for record in self.inputs.records]
        self.members: list[dict[int, float]] = [{} for _ in self.clusters]
        self._spread: dict[int, dict[int, float]] = {}
        self.away: set[int] = set()
        for shard, record in enumerate(self.inputs.records):
            home, segments = self.home[shard], record.segments
            if len(segments) == 1 and segments[0][2] == record.home:
                self.members[home][shard] = 1.0
                continue
            shares = self._spread[shard] = self._shares(shard, segments)
            if set(shares) != {home}:
                self.away.add(shard)
            for cluster, share in shares.items():
                self.members[cluster][shard] = share

    def _shares(self, shard: int, segments: list[tuple[int, int, str]]) -> dict[int, float]:
        weights = self.inputs.skew.get(shard)
        shares: dict[int, float] = {}
        for start, stop, name in segments:
            part = (stop - start) / SLOTS if weights is None else float(weights[start:stop].sum())
            cluster = self.row[name]
            shares[cluster] = shares.get(cluster, 0.0) + part
        return shares

    def holders(self, shard: int) -> dict[int, float]:
        """Returns cluster -> share of the shard's load, for every cluster that has slots of it."""
        return self._spread.get(shard) or {self.home[shard]: 1.0}

    def _held_load(self) -> Floats:
        """Returns the load that each cluster holds, float64[clusters, columns]."""
        count = len(self.clusters)
        rows = np.repeat(np.arange(count), [len(members) for members in self.members])
        shards = np.fromiter(chain.from_iterable(self.members), dtype=np.int64, count=len(rows))
        shares = chain.from_iterable(members.values() for members in self.members)
        parts = np.fromiter(shares, dtype=np.float64, count=len(rows))[:, None] * self.load[shards]
        return np.stack([np.bincount(rows, column, count) for column in parts.T], axis=1)

    def _limits(self) -> Limits:
        """Returns the limits over known clusters; load on leaving ones counts, as it must go there."""
        backlog = np.array([cluster.backlog for cluster in self.clusters])
        held = self.demand - (backlog / self.settings.backlog_clear_s)[:, None]
        taking_part = self.source_ok | self.leaving
        capacity = float(self.capacity[self.source_ok].sum())
        return limits(held[taking_part].sum(axis=0), capacity, self.settings)

    def full(self) -> Floats:
        """Returns how full each cluster is, float64[clusters, columns]."""
        return fullness(self.demand, self.capacity)

    def scores(self) -> dict[str, float]:
        """Returns the load score of every cluster of the registry.

        Of one that leaves: against what it can still work off, though it may take nothing more.
        """
        highest = fullness(self.demand, self._least).max(axis=1)
        listed = {cluster.name for cluster in self.inputs.clusters}
        return {name: float(highest[row]) for name, row in self.row.items() if name in listed}

    def slots_at(self, shard: int, cluster: int, *, last_first: bool) -> npt.NDArray[np.int64]:
        """Returns the shard's slot numbers at the cluster in the order in which they move.

        Drifts take the lowest slots first and returns give back the highest first, so that
        lowering a drift returns what was added last.
        """
        slots = np.flatnonzero(self._slot_owners(shard) == cluster)
        return slots[::-1] if last_first else slots

    def _slot_owners(self, shard: int) -> npt.NDArray[np.int64]:
        owners = self._owners.get(shard)
        if owners is None:
            owners = np.empty(SLOTS, dtype=np.int64)
            for start, stop, name in self.inputs.records[shard].segments:
                owners[start:stop] = self.row[name]
            self._owners[shard] = owners
        return owners

    def weights(self, shard: int, slots: npt.NDArray[np.int64]) -> Floats:
        """Returns each slot's part of the shard's load, float64[slots]."""
        skew = self.inputs.skew.get(shard)
        return np.full(len(slots), 1 / SLOTS) if skew is None else np.asarray(skew[slots])

    def takes(self, shard: int, clusters: npt.NDArray[np.int64], below: Floats) -> Floats:
        """Returns the part of the shard's load that each cluster can take on top of what it has.

        `below` is float64[columns]: the fraction of capacity that must not be exceeded.
        """
        room = below * self.capacity[clusters][:, None] - self.demand[clusters]
        return parts(room, self.load[shard])

    def foreign(self, shard: int) -> set[int]:
        """Returns the clusters besides its home that hold slots of the shard."""
        return set(self.holders(shard)) - {self.home[shard]}

    def locked(self, shard: int, cluster: int) -> bool:
        """Returns whether slots of the shard arrived at the cluster too recently to leave it."""
        arrived = self.inputs.arrived.get((shard, self.names[cluster]))
        return arrived is not None and self.inputs.now - arrived < self.settings.cooldown_s

    def move(self, shard: int, ends: tuple[int, int], slots: npt.NDArray[np.int64], reason: Reason) -> float:
        """Moves the slots from ends[0] to ends[1] and returns their part of the shard's load."""
        source, target = ends
        share = float(self.weights(shard, slots).sum())
        owners = self._slot_owners(shard)
        owners[slots] = target
        left = bool((owners == source).any())
        held = self._spread.setdefault(shard, self.holders(shard))
        if not left:
            share = held[source]
        self._set(shard, source, held[source] - share if left else None)
        self._set(shard, target, held.get(target, 0.0) + share)
        moved = share * self.load[shard]
        self.demand[source] = np.maximum(self.demand[source] - moved, 0.0)
        self.demand[target] += moved
        self.receivers.add(target)
        self.touched.add(shard)
        self.moves.append(
            Move(
                shard=shard,
                source=self.names[source],
                target=self.names[target],
                slots=ranges(slots),
                load_cps=max(float(moved[0]), 0.0),
                reason=reason,
            )
        )
        return share

    def _set(self, shard: int, cluster: int, share: float | None) -> None:
        if share is None:
            del self._spread[shard][cluster], self.members[cluster][shard]
        else:
            self._spread[shard][cluster] = self.members[cluster][shard] = max(share, 0.0)


def parts(room: Floats, load: Floats) -> Floats:
    """Returns the part of `load` (float64[columns]) that fits into each row of `room`, 0 or more.

    Infinite where the shard has no load.
    """
    loaded = load > 0
    if not loaded.any():
        return np.where((room > 0).all(axis=1), np.inf, 0.0)
    fits: Floats = np.maximum((room[:, loaded] / load[loaded]).min(axis=1), 0.0)
    return fits


def pick(weights: Floats, wanted: float, most: float) -> npt.NDArray[np.int64]:
    """Returns the positions of the fewest slots, in order, whose parts reach `wanted` within `most`.

    A slot that alone does not fit into what is left of `most` is passed over: a hot key cannot be
    split, so it moves whole or not at all.
    """
    most += EPS
    running = np.cumsum(weights)
    count = min(int(np.searchsorted(running, wanted - EPS)) + 1, len(weights))
    if count == 0 or running[count - 1] <= most:
        return np.arange(count)
    fitting = int(np.searchsorted(running, most, side="right"))
    total = float(running[fitting - 1]) if fitting else 0.0
    chosen = list(range(fitting))
    for position in (np.flatnonzero(weights[fitting:] <= most - total) + fitting).tolist():
        weight = float(weights[position])
        if total + weight <= most:
            chosen.append(position)
            total += weight
            if total >= wanted - EPS:
                break
    return np.array(chosen, dtype=np.int64)


def _with_strangers(inputs: PlanInput) -> list[ClusterInput]:
    """Returns the clusters, and one that is not known for each other name in the mapping."""
    named = {record.home for record in inputs.records}
    named.update(segment[2] for record in inputs.records for segment in record.segments)
    listed = {cluster.name for cluster in inputs.clusters}
    columns = inputs.load.shape[1]
    strangers = [
        ClusterInput(name, ClusterState.ACTIVE, False, np.zeros(columns), 0.0) for name in named - listed
    ]
    return [*inputs.clusters, *strangers]
