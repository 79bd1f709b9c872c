"""The promise, checked at every step: each request once, per key in ingest order, and the invariant itself.

It knows what no router can: which clusters really still have uncommitted requests of a slot. A request
may be sent to x only if that set is a subset of {x}; a cluster that was set down, and given its time,
may be in it, but then the router must have counted the request as unproven.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.records import SLOTS
from streams.core.handoff import Handoff
from streams.core.held import HeldRequest

if TYPE_CHECKING:
    from streams.core.routing import Routed
    from tests.simulation.handoff_router import SimRouter
    from tests.simulation.handoff_world import Origin, Place, Transaction, World

    Copy = tuple[Place, int, Transaction]
    """Where a request of a slot was written, its offset there, and in which transaction."""


class BrokenPromiseError(AssertionError):
    """The promise was broken."""


class Judge:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[Origin, int] = {}
        """How often each request is visible to a read_committed reader, dead letters included."""
        self._waiting: dict[tuple[int, int], list[Copy]] = {}
        """(ingest partition, slot) -> what was written of it and may not be committed by its group."""
        self._processed: set[Origin] = set()
        self._newest: dict[tuple[int, bytes], int] = {}
        """(ingest partition, key) -> highest offset that was processed and not counted as unproven."""
        self._exempt: set[Origin] = set()
        self.unproven = 0
        """Requests sent although a dead cluster still had earlier ones of their slot."""
        self.uncounted = 0
        """Those of them that a successor sent, who cannot know what its predecessor has left."""

    # ------------------------------------------------------------------ what happens

    def wrote(self, origin: Origin, place: Place, transaction: Transaction) -> None:
        """Takes in that a request is about to be written at the end of a log."""
        record = self._world.request(origin)
        if record.kind == b"ordered":
            slot = self._world.slot(origin)
            copy = (place, len(self._world.outputs[place].log), transaction)
            self._waiting.setdefault((origin[0], slot), []).append(copy)

    def visible(self, transaction: Transaction) -> None:
        """Takes in a committed transaction; raises where a request is seen a second time."""
        for origin in [*transaction.written, *transaction.dead]:
            self._seen[origin] = self._seen.get(origin, 0) + 1
            if self._seen[origin] > 1:
                raise BrokenPromiseError(f"repeated: {origin}")

    def rescued(self, origin: Origin) -> None:
        """Takes in that a rescuer takes a request out of a dead cluster's topic."""
        self._seen[origin] -= 1

    def processed(self, origin: Origin) -> None:
        """Takes in that a backend processes a request; raises where a later one of its key came first."""
        if origin in self._processed:
            return
        self._processed.add(origin)
        record = self._world.request(origin)
        if record.kind != b"ordered":
            return
        key = origin[0], record.name
        newest = self._newest.get(key, -1)
        if origin[1] < newest:
            raise BrokenPromiseError(f"out of order: {origin} of key {record.name!r} after {newest}")
        if origin not in self._exempt:
            self._newest[key] = origin[1]

    def sending(self, router: SimRouter, routed: Routed) -> None:
        """Checks what a transaction is going to send, by the invariant, before it is written."""
        world, sent = self._world, routed.sent
        needed = excused = 0
        columns = (sent.partition.tolist(), sent.slot.tolist(), sent.owner.tolist(), sent.ordered.tolist())
        for origin, place, slot, owner, ordered in zip(routed.origins, *columns, strict=False):
            if not ordered:
                continue
            name = router.numbers.names[owner]
            copies = [copy for copy in self._uncommitted(place, slot) if copy[0][0] != name]
            if copies:
                self._exempt.add(origin)
            copies = [copy for copy in copies if _told(router, copy[2])]
            if not copies:
                continue
            others = {cluster for (cluster, _), _, _ in copies}
            self._check_dead(others, f"{origin} of slot {slot} is sent to {name}")
            needed += 1
            excused += not any(self._known(router, place, slot, copy) for copy in copies)
        self.unproven += needed
        self.uncounted += max(0, needed - routed.unproven)
        if needed - excused > routed.unproven:
            raise BrokenPromiseError(f"{needed} requests are unproven, {routed.unproven} are counted")
        if routed.unproven and world.settings.on_dead == "strict":
            raise BrokenPromiseError("a request is unproven although no cluster may be left")

    def _known(self, router: SimRouter, ingest: int, slot: int, copy: Copy) -> bool:
        """Returns whether a router can know of a copy: it wrote it, or its take-over found the cluster.

        What a predecessor left as dead, and called settled, a successor does not know.
        """
        (cluster, _), _, transaction = copy
        settled, snapshot = router.began[ingest]
        return transaction.by.get(ingest) is router.handoffs.active[ingest] or any(
            start <= slot % SLOTS < stop and owner == cluster
            for entry in snapshot.records[slot // SLOTS].previous
            if entry.version >= settled
            for start, stop, owner in entry.segments
        )

    def _uncommitted(self, ingest: int, slot: int) -> list[Copy]:
        """Returns what was written of a slot and may not be committed by its group yet."""
        waiting = self._waiting.get((ingest, slot), [])
        outputs = self._world.outputs
        waiting[:] = [
            (place, offset, transaction)
            for place, offset, transaction in waiting
            if transaction.state != "aborted" and not transaction.doomed and outputs[place].drained <= offset
        ]
        return waiting

    def _check_dead(self, others: set[str], what: str) -> None:
        world = self._world
        for other in sorted(others):
            if world.settings.on_dead == "strict" or other not in world.ever_down:
                raise BrokenPromiseError(f"{what} while {other} has uncommitted ones")
            if world.now - world.ever_down[other] < world.settings.dead_grace_s:
                raise BrokenPromiseError(f"{what} before {other} was given its time")

    # ------------------------------------------------------------------ what must be true

    def accounted(self, router: SimRouter) -> None:
        """Raises where a request that a router has decided about is nowhere: held ones are never dropped."""
        world = self._world
        for place, handoff in router.handoffs.active.items():
            somewhere = {request.offset for request in _held(handoff)}
            if router.flying is not None:
                flying = [*router.flying.transaction.written, *router.flying.transaction.dead]
                somewhere |= {offset for number, offset in flying if number == place}
            for offset in range(world.offsets[place][0], handoff.position):
                if (place, offset) not in self._seen and offset not in somewhere:
                    raise BrokenPromiseError(f"dropped: {(place, offset)}")

    def finish(self) -> None:
        """Raises unless every request was seen once and, unless it is a dead letter, processed."""
        for place, requests in enumerate(self._world.ingest):
            for request in requests:
                origin = (place, request.number)
                if self._seen.get(origin, 0) != 1:
                    raise BrokenPromiseError(f"lost: {origin}")
                if origin not in self._processed and request.kind != b"unknown" and not request.poison:
                    raise BrokenPromiseError(f"never processed: {origin}")


def _held(handoff: Handoff) -> list[HeldRequest]:
    held = handoff.held
    return handoff.released + [request for slot in held.slots for request in held._by_slot[slot]]


def _told(router: SimRouter, transaction: Transaction) -> bool:
    """Returns whether a router can know of what a transaction wrote: a rescuer's is told by the mapping."""
    if transaction.told is None or router.routes is None:
        return True
    name, rescues = transaction.told
    return router.routes.snapshot.clusters[name].rescues >= rescues
