"""A broker, backends, a balancer and routers small enough to try everything: the handoff's second floor.

The routers here are the real `Handoffs`, `route` and notes; the world around them is a model with
what matters: transactions that stay open or are aborted, markers that take offsets, groups that
commit late, mappings that lag or skip versions, crashes at any step, take-overs. One seed, one story.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from schemas.records import ClusterState, MappedCluster, Move, Reason
from streams.core.fences import NOTHING, ClusterNumbers
from streams.core.handoff import Base, HandoffSettings
from streams.core.handoffs import Handoffs, aim_of
from streams.core.keys import KeyReader, KeyRules, RequestType, locate, parse_field
from streams.core.mapping import Snapshot, SnapshotBuilder, apply_moves, first_mapping, ranges
from streams.core.offset_note import OffsetNote, decode_note, encode_note
from streams.core.routing import Header, Routed, Routes, route

RULES = KeyRules(
    shards=1,
    type_from=(parse_field("header:type"),),
    types=(
        RequestType("ordered", (parse_field("key"),), keyspace="k"),
        RequestType("free", (parse_field("key"),), keyspace="k", order="none"),
    ),
)
HASH = RULES.rules_hash()
CLUSTERS = ("a", "b", "c")
OUTPUTS = 2
"""Output partitions of each cluster's topic."""
INGEST = 2
KEYS = 5


@dataclass(frozen=True)
class Record:
    """An ingest record, as a consumer gives it."""

    place: int
    number: int
    name: bytes
    type_name: bytes
    stamp: int = 1

    def value(self) -> bytes | None:
        return b"v"

    def key(self) -> bytes | None:
        return self.name

    def headers(self) -> list[Header] | None:
        return [("type", self.type_name)]

    def timestamp(self) -> tuple[int, int]:
        return 1, self.stamp

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.number


@dataclass
class Entry:
    """One offset of a cluster's topic: a request, or the marker of a transaction."""

    request: Record | None
    transaction: Transaction


@dataclass(eq=False)
class Transaction:
    """What a router has under way; `state` is open, committed or aborted."""

    routed: Routed
    offsets: dict[int, tuple[int, str]]
    state: str = "open"
    last: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class Backend:
    """The group of one cluster, on one partition of its topic."""

    position: int = 0
    committed: int = -1


class BrokenPromiseError(AssertionError):
    """The promise was broken."""


class World:
    """Everything outside the routers."""

    def __init__(self, seed: int, *, rule_kept: bool, settings: HandoffSettings) -> None:
        self.chance = random.Random(seed)
        self.now = 1_000.0
        self.rule_kept = rule_kept
        self.settings = settings
        self.ingest: list[list[Record]] = [[] for _ in range(INGEST)]
        self.logs: dict[tuple[str, int], list[Entry]] = {(c, p): [] for c in CLUSTERS for p in range(OUTPUTS)}
        self.backends = {place: Backend() for place in self.logs}
        self.offsets: dict[int, tuple[int, str]] = dict.fromkeys(range(INGEST), (0, ""))
        self.snapshots = [self._first()]
        self.processed: dict[tuple[int, int], int] = {}
        """(ingest partition, offset) -> when it was first processed, in steps."""
        self.steps = 0
        self.dead: set[tuple[int, int]] = set()
        self.names = [b"%d" % number for number in range(KEYS)]

    def _first(self) -> Snapshot:
        clusters = {
            name: MappedCluster(topic=name, group=name, partitions=OUTPUTS, state=ClusterState.ACTIVE)
            for name in CLUSTERS
        }
        records, meta = first_mapping(1, dict.fromkeys(clusters, 1.0), clusters, 1, HASH, "1.0")
        builder = SnapshotBuilder()
        for record in (*records, meta):
            builder.apply(record)
        assert builder.snapshot is not None
        return builder.snapshot

    # ------------------------------------------------------------------ producers and backends

    def produce(self) -> None:
        """One request of one key, now and then of a type that needs no order, or of an unknown type."""
        place = self.chance.randrange(INGEST)
        kind = self.chance.choices([b"ordered", b"free", b"unknown"], [12, 2, 1])[0]
        name = self.chance.choices(self.names, range(1, KEYS + 1))[0]
        self.ingest[place].append(Record(place, len(self.ingest[place]), name, kind))

    def process(self, place: tuple[str, int], most: int) -> None:
        """A backend takes up to `most` visible requests: those below the first open transaction."""
        backend, log = self.backends[place], self.logs[place]
        while most and backend.position < len(log):
            entry = log[backend.position]
            if entry.transaction.state == "open":
                return
            backend.position += 1
            if entry.request is not None and entry.transaction.state == "committed":
                self.steps += 1
                self.processed.setdefault((entry.request.place, entry.request.number), self.steps)
                most -= 1

    def commit_group(self, place: tuple[str, int]) -> None:
        """A backend commits what it has processed: the offset after its last record, not the marker's."""
        backend, log = self.backends[place], self.logs[place]
        done = [
            n for n in range(backend.position) if log[n].request and log[n].transaction.state == "committed"
        ]
        if done:
            backend.committed = done[-1] + 1

    # ------------------------------------------------------------------ the mapping

    def settled(self) -> int:
        """The settled version that a balancer reads: the least of all notes."""
        notes = [decode_note(text) for _, text in self.offsets.values()]
        return min(0 if note is None else note.settled for note in notes)

    def move(self) -> None:
        """A plan: some slots of the one shard go elsewhere. The rule: not before the last move is settled."""
        snapshot = self.snapshots[-1]
        record = snapshot.records[0]
        if self.rule_kept and record.previous and record.previous[-1].version >= self.settled():
            return
        slots = {locate(RULES, "ordered", [name.decode()])[1] for name in self.chance.sample(self.names, 2)}
        slot = min(slots)
        source = snapshot.owner(slot)
        chosen = [
            s
            for s in range(256)
            if snapshot.owner(s) == source and (s in slots or self.chance.random() < 0.2)
        ]
        target = self.chance.choice([name for name in CLUSTERS if name != source])
        move = Move(
            shard=0, source=source, target=target, slots=ranges(chosen), load_cps=1.0, reason=Reason.OVERLOAD
        )
        records, meta = apply_moves(
            snapshot, [move], epoch=1, plan="1.1", clusters=snapshot.clusters, settled=self.settled()
        )
        builder = SnapshotBuilder()
        builder.snapshot = snapshot
        for one in (*records, meta):
            builder.apply(one)
        assert builder.snapshot is not None
        self.snapshots.append(builder.snapshot)

    # ------------------------------------------------------------------ transactions

    def write(self, routed: Routed, offsets: dict[int, tuple[int, str]]) -> Transaction:
        """The records of a transaction reach the topics; nobody sees them yet."""
        made = Transaction(routed, offsets)
        for outgoing, (place, number) in zip(routed.outgoing, routed.origins, strict=True):
            if outgoing[0] == "dead":
                continue
            log = self.logs[outgoing[0], outgoing[3]]
            made.last[outgoing[0], outgoing[3]] = len(log)
            log.append(Entry(self.ingest[place][number], made))
        return made

    def end(self, transaction: Transaction, state: str) -> None:
        """It is committed or aborted: its markers take an offset wherever it wrote."""
        transaction.state = state
        for place in transaction.last:
            self.logs[place].append(Entry(None, transaction))
        if state == "committed":
            self.offsets.update(transaction.offsets)
            letters = zip(transaction.routed.outgoing, transaction.routed.origins, strict=True)
            for origin in [origin for outgoing, origin in letters if outgoing[0] == "dead"]:
                if origin in self.dead:
                    raise BrokenPromiseError(f"dead-lettered twice: {origin}")
                self.dead.add(origin)

    def tail(self, place: tuple[str, int], committed: int, end: int) -> int | None:
        """The last committed record in [committed, end), NOTHING for none, None below an open transaction."""
        log = self.logs[place][:end]
        if any(entry.transaction.state == "open" for entry in log):
            return None
        records = [
            n
            for n, entry in enumerate(log)
            if n >= committed and entry.request is not None and entry.transaction.state == "committed"
        ]
        return records[-1] if records else NOTHING

    # ------------------------------------------------------------------ the judge

    def check(self) -> None:
        """Every request visible exactly once, and each key first processed in ingest order."""
        seen: dict[tuple[int, int], int] = {}
        for log in self.logs.values():
            for entry in log:
                if entry.request is not None and entry.transaction.state == "committed":
                    origin = (entry.request.place, entry.request.number)
                    seen[origin] = seen.get(origin, 0) + 1
        for place, requests in enumerate(self.ingest):
            newest: dict[bytes, int] = {}
            for request in requests:
                origin = (place, request.number)
                times = seen.get(origin, 0) + (origin in self.dead)
                if times != 1:
                    raise BrokenPromiseError(
                        f"{'lost' if times == 0 else 'repeated'}: {origin} was seen {times} times"
                    )
                if request.type_name != b"ordered":
                    continue
                at = self.processed.get(origin)
                if at is None:
                    raise BrokenPromiseError(f"never processed: {origin}")
                if at < newest.get(request.name, 0):
                    raise BrokenPromiseError(f"out of order: {origin} of key {request.name!r}")
                newest[request.name] = at


class SimRouter:
    """One router, with the loop of `streams/router.py` as single steps."""

    def __init__(self, world: World, partitions: set[int]) -> None:
        self.world = world
        self.partitions = partitions
        self.numbers = ClusterNumbers()
        self.handoffs = Handoffs(world.settings, self.numbers)
        self.reader = KeyReader(RULES)
        self.routes: Routes | None = None
        self.flying: tuple[Routed, Transaction] | None = None
        self.reading: dict[int, int] = {}
        """Ingest partition -> next offset that the consumer gives."""
        self.full: dict[int, int] = {}
        self.asked: list[tuple[Base, int, int, tuple[str, int], int, int]] = []
        self.seen = 0
        """Index of the newest snapshot that this router has read."""

    def look(self) -> None:
        """Reads the mapping topic further: it may lag, and skip versions."""
        self.seen = self.world.chance.randint(self.seen, len(self.world.snapshots) - 1)

    def hear(self) -> None:
        """Learns how far some clusters' groups are."""
        for name in CLUSTERS:
            if self.routes is not None and self.world.chance.random() < 0.7:
                cluster = self.world.snapshots[0].clusters[name]
                offsets = [max(self.world.backends[name, p].committed, 0) for p in range(OUTPUTS)]
                self.handoffs.reached(self.numbers.number(name, cluster), offsets)

    def take_over(self) -> None:
        """Begins with every partition that is ours and not read yet."""
        world = self.world
        for partition in sorted(self.partitions - set(self.handoffs.active)):
            offset, text = world.offsets[partition]
            note: OffsetNote | None = decode_note(text)
            if self.routes is None or (note and note.newest > self.routes.snapshot.version):
                continue
            ends = {
                number: [len(world.logs[name, p]) for p in range(OUTPUTS)]
                for number, name in enumerate(self.numbers.names)
            }
            self.handoffs.begin(partition, offset, note, Base.below(ends), world.now)
            self.reading[partition] = offset

    def follow(self) -> None:
        """What the driver does at a batch border."""
        if self.handoffs.released():
            return
        snapshot = self.world.snapshots[self.seen]
        if self.routes is None or self.routes.snapshot is not snapshot:
            self.routes = Routes(aim_of(snapshot, self.numbers), self.numbers, "dead", 10_000, "in")
            self.handoffs.change(self.routes.aim, self.world.now)
        for base, cluster, output, place, committed, end in self.asked:
            last = self.world.tail(place, committed, end)
            if last is not None:
                base.lower(cluster, output, last)
        self.handoffs.advance(self.world.now)
        self.asked = []
        for partition, places in self.handoffs.tails().items():
            base = self.handoffs.active[partition].base
            for cluster, output in sorted(places):
                committed = int(self.handoffs.committed.row(cluster)[output])
                end = int(base.fences.row(cluster)[output]) + 1
                place = (self.numbers.names[cluster], output)
                self.asked.append((base, cluster, output, place, committed, end))

    def consume(self) -> list[Record]:
        """The next records of each partition that is read."""
        for partition in [p for p in self.full if self.handoffs.has_room(p)]:
            self.reading[partition] = self.full.pop(partition)
        batch: list[Record] = []
        for partition in sorted(self.handoffs.active):
            if partition in self.full or self.world.chance.random() < 0.3:
                continue
            start = self.reading[partition]
            more = self.world.ingest[partition][start : start + self.world.chance.randint(0, 6)]
            self.reading[partition] = start + len(more)
            batch += more
        return batch

    def step(self) -> None:
        """One turn: follow, consume, route, wait for the commit before, start the next one."""
        self.follow()
        batch = [] if self.handoffs.released() else self.consume()
        self.take_over()
        if self.routes is None:
            return
        if not batch and not self.handoffs.released():
            self.settle()
            if self.flying is None:
                self.note_idle()
            return
        most = self.world.chance.choice([2, 1_000])
        routed = route(batch, self.routes, self.reader, self.handoffs, most_released=most)
        self.full.update(routed.cut)
        if self.settle():
            self.submit(routed)

    def note_idle(self) -> None:
        """Tells of partitions in which nothing happens what has changed."""
        assert self.routes is not None
        nothing = route([], self.routes, self.reader, self.handoffs, most_released=0)
        told = {p: decode_note(text) for p, (_, text) in self.world.offsets.items()}
        positions = {
            p: handoff.position
            for p, handoff in self.handoffs.active.items()
            if (note := told[p]) is None or (note.settled, note.newest) != (handoff.settled, handoff.version)
        }
        if positions:
            self.submit(replace(nothing, positions=positions))

    def submit(self, routed: Routed) -> None:
        """Starts a transaction."""
        places = {*routed.positions, *(partition for partition, _ in routed.origins)}
        notes = {p: self.handoffs.active[p].note(HASH) for p in sorted(places)}
        offsets = {p: (offset, encode_note(note)) for p, (offset, note) in notes.items()}
        self.handoffs.sent(routed.sent)
        self.flying = routed, self.world.write(routed, offsets)

    def settle(self) -> bool:
        """Waits for the outcome of the transaction under way; False where everything was built anew."""
        if self.flying is None:
            return True
        routed, transaction = self.flying
        self.flying = None
        if self.world.chance.random() < 0.12:
            self.world.end(transaction, "aborted")
            self.rebuild()
            return False
        self.world.end(transaction, "committed")
        self.handoffs.written(routed.sent, transaction.last)
        return True

    def rebuild(self) -> None:
        """Starts over from the committed offsets."""
        self.handoffs.end(list(self.handoffs.active))
        self.full = {}
        self.asked = []

    def die(self) -> None:
        """Is killed: the transaction under way is lost or not; the next take-over knows."""
        if self.flying is not None:
            _, transaction = self.flying
            self.world.end(transaction, self.world.chance.choice(["committed", "aborted"]))


def episode(seed: int, *, rule_kept: bool, steps: int = 150) -> World:
    """Returns the world after a story of `steps` random steps and a quiet end; raises BrokenPromiseError."""
    chance = random.Random(seed * 2 + 1)
    settings = HandoffSettings(
        hold_timeout_s=chance.choice([3.0, 60.0]), held_requests=chance.choice([8, 1_000])
    )
    world = World(seed, rule_kept=rule_kept, settings=settings)
    routers = _shared_out(world, chance.randint(1, INGEST))
    slow = chance.choice([*CLUSTERS, ""])
    for _ in range(steps):
        _act(world, routers, slow, chance)
    _quiet_end(world, routers)
    world.check()
    return world


def _shared_out(world: World, count: int) -> list[SimRouter]:
    """Routers with the ingest partitions dealt out among them."""
    return [SimRouter(world, {p for p in range(INGEST) if p % count == n}) for n in range(count)]


def _act(world: World, routers: list[SimRouter], slow: str, chance: random.Random) -> None:
    """One random thing happens."""
    world.now += chance.choice([0.0, 0.01, 0.06, 0.3, 1.0])
    what = chance.choices(
        ["produce", "router", "process", "commit", "move", "look", "hear", "crash", "scale", "backend"],
        [20, 30, 14, 10, 5, 8, 14, 1.5, 0.7, 0.7],
    )[0]
    router = chance.choice(routers)
    place = chance.choice(list(world.logs))
    if what == "produce":
        for _ in range(chance.randint(1, 5)):
            world.produce()
    elif what == "router":
        router.step()
    elif what == "process":
        world.process(place, 1 if place[0] == slow else 10)
    elif what == "commit":
        world.commit_group(place)
    elif what == "move":
        world.move()
    elif what == "look":
        router.look()
    elif what == "hear":
        router.hear()
    elif what == "crash":
        router.die()
        routers[routers.index(router)] = SimRouter(world, router.partitions)
    elif what == "scale":
        for one in routers:
            one.settle()
        routers[:] = _shared_out(world, chance.randint(1, INGEST))
    else:
        world.backends[place].position = max(world.backends[place].committed, 0)


def _quiet_end(world: World, routers: list[SimRouter]) -> None:
    """Nothing new happens; everybody gets on with his work until all is done, or never will be."""
    for _ in range(400):
        world.now += 0.3
        for router in routers:
            router.seen = len(world.snapshots) - 1
            router.hear()
            router.step()
        for place in world.logs:
            world.process(place, 100)
            world.commit_group(place)
        done = all(
            router.flying is None and not router.handoffs.moving() and not router.handoffs.released()
            for router in routers
        )
        caught_up = all(world.offsets[p][0] == len(world.ingest[p]) for p in range(INGEST))
        if done and caught_up and all(b.position == len(world.logs[pl]) for pl, b in world.backends.items()):
            return
    raise BrokenPromiseError("never comes to rest")
