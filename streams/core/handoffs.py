"""The handoffs of all ingest partitions of one router, and what they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.records import ClusterState, MappedCluster
from streams.core.fences import PENDING, ClusterNumbers, Ints, OffsetTable
from streams.core.handoff import (
    Base,
    Bools,
    Handoff,
    HandoffSettings,
    Owners,
    Phase,
    Sight,
    Start,
    claims_after,
    settled_version,
)
from streams.core.held import HeldRequest
from streams.core.mapping import Snapshot
from streams.core.offset_note import OffsetNote


class Sent(Protocol):
    """Requests of one transaction, by columns of one length; `streams.core.routing.Sent`."""

    @property
    def partition(self) -> Ints: ...
    @property
    def slot(self) -> Ints: ...
    @property
    def owner(self) -> Ints: ...
    @property
    def target(self) -> Ints: ...
    @property
    def ordered(self) -> Bools: ...


@dataclass(frozen=True)
class Aim:
    """One version of the mapping, with its clusters by number."""

    snapshot: Snapshot
    owners: Owners
    """uint16[slots]: number of each slot's cluster."""
    partitions: Ints
    """int64[clusters]: output partitions of each cluster, by number."""


def aim_of(snapshot: Snapshot, numbers: ClusterNumbers) -> Aim:
    """Returns the snapshot counted in numbers that stay the same from one version to the next."""
    own = [numbers.number(name, snapshot.clusters[name]) for name in snapshot.names]
    owners = np.array(own, dtype=np.uint16)[snapshot.owners]
    owners.flags.writeable = False
    return Aim(snapshot, owners, np.array(numbers.partitions, dtype=np.int64))


class Handoffs:
    """All partitions that a router reads. Times are seconds of one monotonic clock."""

    def __init__(self, settings: HandoffSettings, numbers: ClusterNumbers) -> None:
        self.settings = settings
        self.numbers = numbers
        self.active: dict[int, Handoff] = {}
        self.committed = OffsetTable()
        """How far each cluster's group is, as last heard."""
        self._down: dict[int, float] = {}
        """Number of each cluster that is down -> when this router saw it first."""
        self._aim: Aim | None = None

    # ------------------------------------------------------------------ partitions come and go

    def begin(
        self, partition: int, position: int, note: OffsetNote | None, base: Base, now: float
    ) -> Handoff:
        """Returns the handoff of a partition that is read from the committed `position` on."""
        aim = self.aim
        claims = claims_after(aim.snapshot, self.numbers, settled_version(note))
        start = Start(position, note, claims, base)
        made = Handoff(self.settings, aim.partitions, aim.owners, aim.snapshot.version, start, now)
        made.advance(self.sight(now))
        self.active[partition] = made
        return made

    def end(self, partitions: Iterable[int]) -> None:
        """Forgets partitions: nothing decided since their last commit had an effect."""
        for partition in partitions:
            self.active.pop(partition, None)

    # ------------------------------------------------------------------ what changes

    @property
    def aim(self) -> Aim:
        """Returns the mapping in use."""
        if self._aim is None:
            raise RuntimeError("no mapping yet: change() comes first")
        return self._aim

    @property
    def has_aim(self) -> bool:
        """Returns whether there is a mapping yet."""
        return self._aim is not None

    def clusters(self) -> dict[int, MappedCluster]:
        """Returns the mapping's clusters by number."""
        clusters = self.aim.snapshot.clusters
        return {self.numbers.number(name, cluster): cluster for name, cluster in clusters.items()}

    def change(self, aim: Aim, now: float) -> None:
        """Takes up a newer mapping, in every partition at once."""
        self._aim = aim
        down = {
            self.numbers.number(name, cluster)
            for name, cluster in aim.snapshot.clusters.items()
            if cluster.state is ClusterState.DOWN
        }
        self._down = {number: self._down.get(number, now) for number in sorted(down)}
        sight = self.sight(now)
        for handoff in self.active.values():
            handoff.change(aim.owners, aim.snapshot.version, aim.partitions, sight)

    def reached(self, cluster: int, offsets: Sequence[int]) -> None:
        """Takes in how far a cluster's group has committed, per output partition."""
        self.committed.set_row(cluster, offsets)

    def advance(self, now: float) -> list[float]:
        """Moves every handoff on; returns the seconds in hold of each slot that released something."""
        sight = self.sight(now)
        return [waited for handoff in self.active.values() for waited in handoff.advance(sight)]

    def sight(self, now: float) -> Sight:
        """Returns what a handoff may know now."""
        settings = self.settings
        gone = frozenset(
            number
            for number, since in self._down.items()
            if settings.on_dead == "available" and now - since >= settings.dead_grace_s
        )
        return Sight(now, self.committed, gone)

    # ------------------------------------------------------------------ what is asked

    def moving(self) -> bool:
        """Returns whether any slot of any partition is on its way, or a dead cluster is waited for."""
        return any(not handoff.quiet for handoff in self.active.values())

    def awaited(self) -> set[int]:
        """Returns the numbers of the clusters whose progress would settle something."""
        found: set[int] = set()
        for handoff in self.active.values():
            if not handoff.quiet:
                found |= handoff.awaited()
        return found

    def tails(self) -> dict[int, set[tuple[int, int]]]:
        """Returns ingest partition -> (cluster, output partition) whose tail has to be read."""
        found = {
            partition: handoff.tails(self.committed)
            for partition, handoff in self.active.items()
            if not handoff.quiet
        }
        return {partition: places for partition, places in found.items() if places}

    def phases(self) -> dict[Phase, int]:
        """Returns how many (ingest partition, slot) pairs are in watch and in hold."""
        counts = [handoff.phases() for handoff in self.active.values()]
        return {
            Phase.WATCH: sum(watch for watch, _ in counts),
            Phase.HOLD: sum(hold for _, hold in counts),
        }

    def released(self) -> int:
        """Returns how many held requests are to go out next."""
        return sum(len(handoff.released) for handoff in self.active.values())

    def take_released(self, most: int) -> list[tuple[int, HeldRequest]]:
        """Returns up to `most` (ingest partition, request) that go out now, in order per partition."""
        taken: list[tuple[int, HeldRequest]] = []
        for partition, handoff in self.active.items():
            rows = handoff.released[: most - len(taken)]
            taken += [(partition, row) for row in rows]
            handoff.released = handoff.released[len(rows) :]
        return taken

    def room(self, partition: int, requests: Sequence[HeldRequest]) -> int:
        """Returns how many of these requests, the first ones, may be held: memory and note have limits."""
        held = [handoff.held for handoff in self.active.values()]
        most = min(len(requests), self.settings.held_requests - sum(one.count for one in held))
        left = self.settings.held_bytes - sum(one.bytes for one in held)
        for number, request in enumerate(requests[:most]):
            left -= request.size
            if left < 0:
                most = number
                break
        return self.active[partition].fitting([request.slot for request in requests[: max(most, 0)]])

    def has_room(self, partition: int) -> bool:
        """Returns whether a partition that was full may be read again: half of every limit is free."""
        held = [handoff.held for handoff in self.active.values()]
        settings = self.settings
        return (
            sum(one.count for one in held) <= settings.held_requests // 2
            and sum(one.bytes for one in held) <= settings.held_bytes // 2
            and self.active[partition].note_has_room()
        )

    # ------------------------------------------------------------------ transactions

    def sent(self, sent: Sent) -> None:
        """Takes in that requests are in a transaction that is under way."""
        for number in np.unique(sent.partition).tolist():
            self.active[number].sent(sent.slot[(sent.partition == number) & sent.ordered])

    def written(self, sent: Sent, last: Mapping[tuple[str, int], int]) -> None:
        """Takes in a committed transaction; `last` is (topic, output partition) -> its last offset there."""
        ends = OffsetTable(PENDING)
        for (topic, number), offset in last.items():
            for cluster in self.numbers.by_topic.get(topic, ()):
                ends.set(cluster, number, offset)
        offsets = ends.at(sent.owner, sent.target)
        for number in np.unique(sent.partition).tolist():
            handoff = self.active.get(number)
            if handoff is not None:
                mine = (sent.partition == number) & sent.ordered
                handoff.written(sent.slot[mine], offsets[mine])
