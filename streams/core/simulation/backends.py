"""Clusters as fluid queues: what arrives in a second is served first come, first served, at their capacity.

A slot that moves is handed over as in production (streams/core/handoff.py): fenced, then held until the
old cluster has served what it had of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.records import SLOTS, Move
from streams.core.simulation.workload import SPREAD, Cells, Floats, Ints

LIMITS_S = (1.0, 5.0)
"""A request that waits longer violates the objective."""
SERVED = 1e-6
"""Cost units by which sums of floats may be off."""


@dataclass
class Hold:
    """Slots of one shard on their way: their requests wait for the old cluster to pass the fence."""

    version: int
    """Of the mapping that moved them."""
    source: int
    target: int
    fence: float
    """Cost units that had come to the source by then."""
    cells: Ints
    part: Floats
    """float64[len(cells)]: the part of each cell that is on these slots."""
    since: int
    """Second of the simulation."""
    waiting: list[tuple[int, float, float]] = field(default_factory=list)
    """(second, requests, cost units) that wait."""


@dataclass
class Waits:
    """Requests so far, and how many waited longer than each limit."""

    requests: float = 0.0
    over: Floats = field(default_factory=lambda: np.zeros(len(LIMITS_S)))

    def count(self, requests: Floats, shortest: Floats, longest: Floats) -> None:
        """Counts requests whose waits lie evenly between two ends, float64[n] each, seconds."""
        self.requests += float(requests.sum())
        high, low = np.maximum(shortest, longest), np.minimum(shortest, longest)
        if high.max(initial=0.0) <= LIMITS_S[0]:
            return
        for number, limit in enumerate(LIMITS_S):
            part = np.where(high > limit, np.minimum((high - limit) / np.maximum(high - low, 1e-9), 1.0), 0.0)
            self.over[number] += float((requests * part).sum())


class Backends:
    """All clusters of one policy. Seconds are whole and count from 0; clusters are row numbers."""

    def __init__(
        self, cells: Cells, costs: Floats, owners: npt.NDArray[np.uint16], clusters: int, hold: bool
    ) -> None:
        self._cells, self._costs, self._hold = cells, costs, hold
        self._on_slots = cells.on_slots()
        self.second = 0
        self.waits = Waits()
        self.queue = np.zeros(clusters)
        """Cost units that wait."""
        self.arrived = np.zeros(clusters)
        """Cost units since the beginning."""
        self.arrived_requests = np.zeros(clusters)
        self.holds: list[Hold] = []
        self.held_s: list[float] = []
        """How long each handoff that held something has held it."""
        self._share = np.zeros((len(cells), clusters))
        self._by_owner = self._share
        self.own(owners)

    def own(self, owners: npt.NDArray[np.uint16]) -> None:
        """Sends the cells where the mapping says, uint16[shards * 256]; what is held stays held."""
        clusters = len(self.queue)
        shards = len(owners) // SLOTS
        flat = np.arange(shards).repeat(SLOTS) * clusters + owners
        slots = np.bincount(flat, minlength=shards * clusters).reshape(shards, clusters)
        share = slots[self._cells.shard] / SLOTS
        on = self._on_slots
        if len(on):
            share[on] = 0.0
            share[on, owners[self._cells.shard[on] * SLOTS + self._cells.slot[on]]] = 1.0
        self._by_owner = share
        self._share = share.copy()
        for hold in self.holds:
            self._share[hold.cells, hold.target] -= hold.part

    def at(self, homes: Ints) -> Floats:
        """Returns float64[cells]: the part of each cell that belongs to its shard's home, int64[shards]."""
        part: Floats = self._by_owner[np.arange(len(self._cells)), homes[self._cells.shard]]
        return part

    def move(
        self, moves: Sequence[Move], rows: dict[str, int], owners: npt.NDArray[np.uint16], version: int
    ) -> None:
        """Switches to a new version of the mapping: of each move the requests to come go to the target."""
        for move in moves:
            source = rows[move.source]
            if self._hold and self.queue[source] > SERVED:
                cells, part = self._moved(move)
                fence = float(self.arrived[source])
                self.holds.append(Hold(version, source, rows[move.target], fence, cells, part, self.second))
        self.own(owners)

    def _moved(self, move: Move) -> tuple[Ints, Floats]:
        """Returns the cells of a shard that are on the moved slots, and their parts."""
        cells = np.flatnonzero(self._cells.shard == move.shard)
        slot = self._cells.slot[cells]
        spread = sum(stop - start for start, stop in move.slots) / SLOTS
        inside = np.zeros(len(cells), dtype=bool)
        for start, stop in move.slots:
            inside |= (slot >= start) & (slot < stop)
        part = np.where(slot == SPREAD, spread, inside.astype(np.float64))
        return cells[part > 0], part[part > 0]

    def settled(self, version: int) -> int:
        """Returns the newest version of which nothing is held, given the newest there is."""
        return min((hold.version - 1 for hold in self.holds), default=version)

    def advance(self, requests: Floats, capacity: Floats) -> Floats:
        """Lets seconds pass and returns the cost units served in them, float64[clusters].

        requests: float64[seconds, cells]; capacity: float64[clusters], cost units/s, above 0.
        """
        come, cost = requests @ self._share, (requests * self._costs) @ self._share
        self.arrived_requests += come.sum(axis=0)
        before = self.arrived - self.queue
        if not self.holds and not self.queue.any() and (cost <= capacity).all():
            self.arrived += cost.sum(axis=0)
            self.waits.requests += float(come.sum())
            self.second += len(requests)
        else:
            for number in range(len(requests)):
                if self.holds:
                    self._hand_over(number, requests, come, cost, capacity)
                self._tick(come[number], cost[number], capacity)
        return self.arrived - self.queue - before

    def pour(self, come: Floats, cost: Floats, capacity: Floats) -> None:
        """Lets a second pass in which requests and cost units come to the clusters, float64[clusters]."""
        self.arrived_requests += come
        self._tick(come, cost, capacity)

    def _tick(self, come: Floats, cost: Floats, capacity: Floats) -> None:
        begin = self.queue / capacity
        self.arrived += cost
        self.queue = np.maximum(self.queue + cost - capacity, 0.0)
        self.waits.count(come, begin, self.queue / capacity)
        self.second += 1

    def _hand_over(self, number: int, requests: Floats, come: Floats, cost: Floats, capacity: Floats) -> None:
        """Ends the holds whose fence is passed; the others' requests of this second wait."""
        going: list[Hold] = []
        for hold in self.holds:
            load = requests[number:, hold.cells] * hold.part
            if self.arrived[hold.source] - self.queue[hold.source] >= hold.fence - SERVED:
                self._release(hold, capacity)
                self._share[hold.cells, hold.target] += hold.part
                come[number:, hold.target] += load.sum(axis=1)
                cost[number:, hold.target] += load @ self._costs[hold.cells]
                self.arrived_requests[hold.target] += load.sum()
            else:
                hold.waiting.append(
                    (self.second, float(load[0].sum()), float(load[0] @ self._costs[hold.cells]))
                )
                going.append(hold)
        self.holds = going

    def _release(self, hold: Hold, capacity: Floats) -> None:
        """Sends what was held to the target, oldest first: each waits for what is before it there, too."""
        if not hold.waiting:
            return
        target = hold.target
        self.held_s.append(float(self.second - hold.since))
        since, come, cost = (np.array(column) for column in zip(*hold.waiting, strict=True))
        behind = (self.queue[target] + np.cumsum(cost) - cost / 2) / capacity[target]
        waited = self.second - since - 0.5 + behind
        self.waits.count(come, waited + 0.5, waited - 0.5)
        self.queue[target] += cost.sum()
        self.arrived[target] += cost.sum()
        self.arrived_requests[target] += come.sum()
