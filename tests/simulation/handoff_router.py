"""A router of the simulation: the real `Handoffs`, `route` and notes, in the loop of `streams/router.py`.

Each method is one step of that loop. What may differ from one turn to the next (how much is read,
whether a transaction commits, which mapping has been seen) is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from schemas.errors import BadRequest
from streams.core.fences import ClusterNumbers
from streams.core.handoff import Base, Phase, settled_version
from streams.core.handoffs import Handoffs, aim_of
from streams.core.keys import KeyReader
from streams.core.mapping import Snapshot
from streams.core.offset_note import OffsetNote, encode_note
from streams.core.poison import UNLIMITED, PoisonHunt
from streams.core.routing import Routed, Routes, route
from tests.simulation.handoff_judge import BrokenPromiseError
from tests.simulation.handoff_world import HASH, RULES, Place, Record, Transaction, World

Outcome = Literal["committed", "aborted"]
READER = KeyReader(RULES)
DEAD_LETTER = "dead"
ALL: Mapping[int, int] = {0: 1_000, 1: 1_000}
"""Reads whatever there is."""
REST_TURNS = 1_500
"""Turns of 0.3 s in which a world must come to rest."""


@dataclass
class Flying:
    """A batch whose transaction is under way."""

    routed: Routed
    transaction: Transaction


@dataclass
class TakeOver:
    """A partition that is ours and not read yet: what was found first, then the ends."""

    found: tuple[int, OffsetNote | None] | None = None
    base: Base | None = None


@dataclass
class TailAsked:
    """A question about the last record below an end."""

    base: Base
    cluster: int
    output: int
    place: Place
    committed: int
    end: int


class SimRouter:
    """One router."""

    def __init__(self, world: World, seen: int = 0) -> None:
        self.world = world
        self.numbers = ClusterNumbers()
        self.handoffs = Handoffs(world.settings, self.numbers)
        self.hunt = PoisonHunt()
        self.routes: Routes | None = None
        self.flying: Flying | None = None
        self.waiting: dict[int, TakeOver] = {}
        self.reading: dict[int, int] = {}
        """Ingest partition -> next offset that the consumer gives."""
        self.full: dict[int, int] = {}
        self.began: dict[int, tuple[int, Snapshot]] = {}
        """Ingest partition -> settled version that its take-over found, and the mapping it began with."""
        self.asked: list[TailAsked] = []
        self.seen = seen
        """Index of the newest snapshot that this router has read."""
        self._rescues: dict[str, int] = {}

    # ------------------------------------------------------------------ partitions

    @property
    def partitions(self) -> set[int]:
        """Returns the ingest partitions that are assigned to it."""
        return {*self.handoffs.active, *self.waiting}

    def assign(self, partition: int) -> None:
        """Gets a partition: it is taken over step by step."""
        self.waiting[partition] = TakeOver()

    def revoke(self, partition: int, outcome: Outcome = "committed") -> None:
        """Loses a partition, after the outcome of the transaction under way."""
        self.settle(outcome)
        self.handoffs.end([partition])
        self.waiting.pop(partition, None)
        self.full.pop(partition, None)
        self.hunt.forget([partition])

    def rebuild(self) -> None:
        """Starts over with every partition, from the committed offsets."""
        for partition in sorted(self.partitions):
            self.handoffs.end([partition])
            self.waiting[partition] = TakeOver()
        self.full = {}

    def take_over(self) -> None:
        """Takes the next step of every take-over: committed offset and note; then ends; then it begins."""
        for partition, waiting in sorted(self.waiting.items()):
            if waiting.base is not None and waiting.found is not None:
                offset, note = waiting.found
                self.handoffs.begin(partition, offset, note, waiting.base, self.world.now)
                self.reading[partition] = offset
                self._note_take_over(offset, note)
                self.began[partition] = settled_version(note), self.handoffs.aim.snapshot
                del self.waiting[partition]
        self._ask_ends()
        for partition, waiting in sorted(self.waiting.items()):
            if waiting.found is None:
                waiting.found = self.world.stable(partition)

    def _note_take_over(self, offset: int, note: OffsetNote | None) -> None:
        happened = self.world.happened
        happened["take-over"] += 1
        if note is not None and note.position > offset:
            happened["replay"] += 1
            if any(group.from_offset > offset for group in note.held):
                happened["replay of a replay, or of several holds"] += 1

    def _ask_ends(self) -> None:
        """Asks for the ends, for those that know all else: one base for all of them."""
        routes = self.routes
        ready = [
            waiting
            for waiting in self.waiting.values()
            if waiting.found is not None
            and routes is not None
            and (waiting.found[1] is None or waiting.found[1].newest <= routes.snapshot.version)
        ]
        ends = {
            number: [len(self.world.outputs[cluster.topic, n].log) for n in range(cluster.partitions)]
            for number, cluster in (self.handoffs.clusters().items() if ready else ())
        }
        base = Base.below(ends)
        for waiting in ready:
            waiting.base = base

    # ------------------------------------------------------------------ what it learns

    def look(self, index: int) -> None:
        """Has read the mapping topic up to the snapshot with this index."""
        self.seen = max(self.seen, index)

    def hear(self, name: str) -> None:
        """Learns how far a cluster's group is."""
        if self.routes is None or name not in self.routes.snapshot.clusters:
            return
        cluster = self.routes.snapshot.clusters[name]
        outputs = [self.world.outputs[name, number] for number in range(cluster.partitions)]
        offsets = [max(output.committed, output.start) for output in outputs]
        self.handoffs.reached(self.numbers.number(name, cluster), offsets)

    def answer_tails(self) -> None:
        """Gets the answers about tails that can be told by now."""
        for asked in self.asked:
            last = self.world.tail(asked.place, asked.committed, asked.end)
            if last is not None:
                asked.base.lower(asked.cluster, asked.output, last)
        self.asked = []

    def follow(self) -> bool:
        """Moves the handoffs on; returns whether everything must be taken over anew, after a rescue."""
        if self.handoffs.released():
            return False
        snapshot = self.world.snapshots[self.seen]
        rescued = False
        if self.routes is None or self.routes.snapshot is not snapshot:
            self.routes = Routes(aim_of(snapshot, self.numbers), self.numbers, DEAD_LETTER, 10_000, "in")
            self.handoffs.change(self.routes.aim, self.world.now)
            rescues = {name: cluster.rescues for name, cluster in snapshot.clusters.items()}
            rescued = any(count > self._rescues.get(name, count) for name, count in rescues.items())
            self._rescues = rescues
        self.handoffs.advance(self.world.now)
        self._ask_tails()
        return rescued

    def _ask_tails(self) -> None:
        for partition, places in sorted(self.handoffs.tails().items()):
            base = self.handoffs.active[partition].base
            for cluster, output in sorted(places):
                committed = int(self.handoffs.committed.row(cluster)[output])
                end = int(base.fences.row(cluster)[output]) + 1
                place = (self.numbers.names[cluster], output)
                self.asked.append(TailAsked(base, cluster, output, place, committed, end))

    # ------------------------------------------------------------------ one turn of the loop

    def turn(
        self,
        sizes: Mapping[int, int] = ALL,
        *,
        most: int = UNLIMITED,
        outcome: Outcome = "committed",
        disturbed: bool = False,
    ) -> None:
        """Follows the mapping, consumes, routes, waits for the commit before, starts the next one.

        `sizes` is how much there is to read of each partition, `most` how many released requests fit
        into one transaction, `outcome` that of the commit before; `disturbed`: a rebalance meanwhile.
        """
        if self.follow():
            self.settle(outcome)
            self.rebuild()
        batch = [] if self.handoffs.released() else self._consume(sizes)
        self.take_over()
        routes = self.routes
        if routes is None or not (batch or self.handoffs.released()):
            if self.settle(outcome):
                self._tell()
            return
        most = min(most, self.hunt.cap)
        routed = route(batch, routes, READER, self.handoffs, self.hunt.condemned, most)
        self.full |= routed.cut
        self._note_routed(routed)
        if not self.settle(outcome):
            return
        if disturbed:
            self.rebuild()
        else:
            self._submit(routed)

    def _note_routed(self, routed: Routed) -> None:
        happened = self.world.happened
        happened["cut"] += len(routed.cut)
        happened["unproven"] += routed.unproven
        happened["released in parts"] += bool(self.handoffs.released())
        happened["watched"] += self.handoffs.phases()[Phase.WATCH]
        happened["held"] += self.handoffs.phases()[Phase.HOLD]

    def _consume(self, sizes: Mapping[int, int]) -> list[Record]:
        """Returns the next records of each partition that is read."""
        for partition in [p for p in self.full if self.handoffs.has_room(p)]:
            self.reading[partition] = self.full.pop(partition)
        batch: list[Record] = []
        for partition in sorted(set(self.handoffs.active) - set(self.full)):
            start = self.reading[partition]
            room = min(sizes.get(partition, 0), self.hunt.cap - len(batch))
            more = self.world.ingest[partition][start : start + room]
            self.reading[partition] = start + len(more)
            batch += more
        return batch

    def _tell(self) -> None:
        """Tells of partitions in which nothing happens what has changed."""
        late = {}
        for partition, handoff in self.handoffs.active.items():
            stable = self.world.stable(partition)
            note = stable[1] if stable is not None else None
            if note is None or (note.settled, note.newest) != (handoff.settled, handoff.version):
                late[partition] = handoff.position
        if late and self.routes is not None:
            nothing = route([], self.routes, READER, self.handoffs, most_released=0)
            self._submit(replace(nothing, positions=late))

    def _submit(self, routed: Routed) -> None:
        """Starts a transaction with the notes of its partitions."""
        places = sorted({*routed.positions, *(partition for partition, _ in routed.origins)})
        notes = {place: self.handoffs.active[place].note(HASH) for place in places}
        offsets = {place: (offset, encode_note(note)) for place, (offset, note) in notes.items()}
        self.world.judge.sending(self, routed)
        self.handoffs.sent(routed.sent)
        transaction = Transaction(offsets, by={place: self.handoffs.active[place] for place in places})
        self.world.open.append(transaction)
        for outgoing, origin in zip(routed.outgoing, routed.origins, strict=True):
            if outgoing[0] == DEAD_LETTER:
                transaction.dead.append(origin)
            else:
                self.world.write(transaction, (outgoing[0], outgoing[3]), origin)
        self.flying = Flying(routed, transaction)

    def settle(self, outcome: Outcome) -> bool:
        """Waits for the transaction under way; returns False where everything is built anew."""
        flying, self.flying = self.flying, None
        if flying is None:
            return True
        routed, transaction = flying.routed, flying.transaction
        refused = any(self.world.request(origin).poison for origin in transaction.written)
        if refused or outcome == "aborted":
            self.world.end(transaction, "aborted")
            if refused:
                self.world.happened["poison refused"] += 1
                way = self.hunt.refused(routed.origins, BadRequest.TOO_LARGE, "poison")
                assert way, "the dead-letter topic takes everything here"
            self.rebuild()
            return False
        self.world.end(transaction, "committed")
        if routed.origins:
            self.hunt.committed(len(routed.origins), routed.positions)
        self.handoffs.written(routed.sent, transaction.last)
        return True

    def die(self, *, offsets_sent: bool = True) -> Transaction | None:
        """Is killed. Returns the transaction that stays open: it can be committed if it has its offsets."""
        if self.flying is None:
            return None
        if not offsets_sent:
            self.flying.transaction.offsets, self.flying.transaction.doomed = {}, True
        return self.flying.transaction

    @property
    def at_rest(self) -> bool:
        """Returns whether nothing is on its way."""
        handoffs = self.handoffs
        return not (self.flying or self.waiting or handoffs.moving() or handoffs.released())


def come_to_rest(world: World, routers: Iterable[SimRouter]) -> None:
    """Everybody gets on with his work until all is done; raises where that never is, or is not well."""
    world.end_rescue()
    world.silent.clear()
    for _ in range(REST_TURNS):
        world.now += 0.3
        for router in routers:
            router.look(len(world.snapshots) - 1)
            for name in world.clusters:
                router.hear(name)
            router.answer_tails()
            router.turn(ALL)
            world.judge.accounted(router)
        for place in world.outputs:
            world.process(place, 100)
            world.commit_group(place)
        if world.at_rest() and all(router.at_rest for router in routers):
            world.judge.finish()
            return
    raise BrokenPromiseError("never comes to rest")
