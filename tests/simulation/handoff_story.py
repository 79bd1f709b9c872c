"""Random stories of the simulation: one seed, one story, judged at every step."""

from __future__ import annotations

import random
from collections.abc import Callable

from schemas.records import SLOTS, ClusterState
from streams.core.handoff import HandoffSettings
from streams.core.poison import UNLIMITED
from tests.simulation.handoff_router import Outcome, SimRouter, come_to_rest
from tests.simulation.handoff_world import INGEST, SHARDS, Place, Transaction, World, name_at, slot_of

KEYS = [name_at(slot) for slot in (3, 4, 90, SLOTS + 7, SLOTS + 8)]
"""Two slots of one output partition, some that are alone, two shards."""
STEPS = 150


class Story:
    """A world, its routers, and chance."""

    def __init__(self, seed: int, *, rule_kept: bool) -> None:
        self.chance = random.Random(seed * 2 + rule_kept)
        pick = self.chance.choice
        settings = HandoffSettings(
            hold_timeout_s=pick([3.0, 60.0]),
            held_requests=pick([3, 8, 1_000]),
            dead_grace_s=pick([0.0, 1.0, 5.0]),
            on_dead=pick(["available", "strict"]),
        )
        self.world = World(settings, rule_kept=rule_kept)
        self.slow = pick(["a", "b", "c", ""])
        self.poison = pick([0.0, 0.0, 0.05])
        self.aborts = pick([0.02, 0.12])
        self.deaths = pick([0.0, 1.0])
        """How likely what happens to dead clusters is, against everything else."""
        self.known = 0
        """Index of the newest snapshot when a note was erased last: who starts later has seen it."""
        self.dangling: list[Transaction] = []
        """Transactions of killed routers, which the coordinator will end."""
        self.routers = [SimRouter(self.world) for _ in range(self.chance.randint(1, INGEST))]
        for partition in range(INGEST):
            pick(self.routers).assign(partition)
        deeds: dict[Callable[[], None], float] = {
            self.produce: 20,
            self.turn: 30,
            self.process: 14,
            self.commit: 10,
            self.move: 5,
            self.look: 8,
            self.hear: 14,
            self.answer: 6,
            self.coordinator: 3,
            self.crash: 1.5,
            self.rebalance: 0.7,
            self.restart_all: 0.15,
            self.backend: 0.7,
            self.set_back: 0.2,
            self.retention: 1.0,
            self.join: 0.2,
            self.dies: 1.0 * self.deaths,
            self.comes_back: 0.4 * self.deaths,
            self.rescue: 2.5 * self.deaths,
        }
        self._deeds, self._weights = list(deeds), list(deeds.values())

    def play(self, steps: int = STEPS) -> World:
        """Plays the story and its quiet end; raises BrokenPromiseError."""
        for _ in range(steps):
            self.world.now += self.chance.choice([0.0, 0.01, 0.06, 0.3, 1.0])
            self.chance.choices(self._deeds, self._weights)[0]()
        self._rest()
        return self.world

    # ------------------------------------------------------------------ what may happen

    @property
    def router(self) -> SimRouter:
        return self.chance.choice(self.routers)

    @property
    def place(self) -> Place:
        return self.chance.choice(list(self.world.outputs))

    def outcome(self) -> Outcome:
        return "aborted" if self.chance.random() < self.aborts else "committed"

    def produce(self) -> None:
        chance = self.chance
        for _ in range(chance.randint(1, 5)):
            kind = chance.choices([b"ordered", b"free", b"unknown"], [12, 2, 1])[0]
            name = chance.choices(KEYS, range(1, len(KEYS) + 1))[0]
            poison = kind != b"unknown" and chance.random() < self.poison
            self.world.produce(chance.randrange(INGEST), name, kind, poison=poison)

    def turn(self) -> None:
        chance = self.chance
        self.router.turn(
            {place: chance.choice([0, 1, 3, 6]) for place in range(INGEST)},
            most=chance.choice([1, UNLIMITED]),
            outcome=self.outcome(),
            disturbed=chance.random() < 0.01,
        )

    def process(self) -> None:
        place = self.place
        self.world.process(place, 1 if place[0] == self.slow else 10)

    def commit(self) -> None:
        self.world.commit_group(self.place, past_markers=self.chance.random() < 0.3)

    def move(self) -> None:
        chance, snapshot = self.chance, self.world.snapshots[-1]
        chosen = {slot_of(name) for name in chance.sample(KEYS, chance.randint(1, 2))}
        chosen |= {slot for slot in range(SHARDS * SLOTS) if chance.random() < 0.02}
        down = [n for n, c in self.world.clusters.items() if c.state is ClusterState.DOWN]
        targets = [name for name in self.world.clusters if name not in down]
        if down and chance.random() < 0.7:  # the balancer empties a dead cluster
            chosen = {s for s in range(SHARDS * SLOTS) if snapshot.owner(s) in down}
        if targets:
            self.world.move(sorted(chosen), chance.choice(targets))

    def look(self) -> None:
        router = self.router
        router.look(self.chance.randint(router.seen, len(self.world.snapshots) - 1))

    def hear(self) -> None:
        router = self.router
        for name in self.world.clusters:
            if self.chance.random() < 0.7:
                router.hear(name)

    def answer(self) -> None:
        self.router.answer_tails()

    def coordinator(self) -> None:
        """Ends a transaction that a killed router has left open."""
        if self.dangling:
            transaction = self.dangling.pop(self.chance.randrange(len(self.dangling)))
            whole = not transaction.doomed and not self._poisoned(transaction)
            self.world.end(transaction, self.chance.choice(["committed", "aborted"]) if whole else "aborted")

    def _poisoned(self, transaction: Transaction) -> bool:
        return any(self.world.request(origin).poison for origin in transaction.written)

    def crash(self) -> None:
        """A router is killed; another one gets its partitions."""
        router = self.router
        left = router.die(offsets_sent=self.chance.random() < 0.8)
        if left is not None:
            self.dangling.append(left)
        self.routers.remove(router)
        # Its mapping may lag, but a router that starts reads at least what is there.
        self.routers.append(SimRouter(self.world, self.chance.randint(self.known, router.seen)))
        for partition in sorted(router.partitions):
            self.router.assign(partition)

    def rebalance(self) -> None:
        """A partition moves from one router to another; the others go on."""
        source = self.router
        for partition in sorted(source.partitions)[:1]:
            source.revoke(partition, self.outcome())
            self.router.assign(partition)

    def restart_all(self) -> None:
        """All routers are stopped, somebody commits plainly, which erases a note, and they start again."""
        for router in self.routers:
            router.settle(self.outcome())
        while self.dangling:
            self.coordinator()
        for partition in range(INGEST):
            if self.chance.random() < 0.5:
                self.world.erase_note(partition)
        self.known = len(self.world.snapshots) - 1
        self.routers = [SimRouter(self.world, self.known) for _ in range(self.chance.randint(1, INGEST))]
        for partition in range(INGEST):
            self.router.assign(partition)

    def backend(self) -> None:
        self.world.restart(self.place)

    def set_back(self) -> None:
        place = self.place
        committed = self.world.outputs[place].committed
        if committed > 0:
            self.world.set_back(place, self.chance.randint(0, committed))

    def retention(self) -> None:
        place = self.place
        if self.chance.random() < 0.5:
            self.world.expire(place)
        self.world.retain(place)

    def join(self) -> None:
        self.world.join("d")

    def dies(self) -> None:
        """A backend falls silent; sooner or later its cluster is set down."""
        name = self.chance.choice(sorted(self.world.clusters))
        if self.chance.random() < 0.6:
            self.world.silent.add(name)
        if len(self.world.down_since) < len(self.world.clusters) - 1:
            self.world.set_state(name, ClusterState.DOWN)

    def comes_back(self) -> None:
        if self.world.silent and self.chance.random() < 0.5:
            self.world.silent.discard(self.chance.choice(sorted(self.world.silent)))
        if self.world.down_since:
            self.world.set_state(self.chance.choice(sorted(self.world.down_since)), ClusterState.ACTIVE)

    def rescue(self) -> None:
        if self.world.rescue is not None:
            self.world.end_rescue()
        elif self.world.down_since:
            self.world.begin_rescue(self.chance.choice(sorted(self.world.down_since)))

    # ------------------------------------------------------------------ the quiet end

    def _rest(self) -> None:
        """Nothing new happens; all come to rest, or never will."""
        while self.dangling:
            self.coordinator()
        come_to_rest(self.world, self.routers)


def episode(seed: int, *, rule_kept: bool, steps: int = STEPS) -> World:
    """Returns the world after the story of this seed; raises BrokenPromiseError."""
    return Story(seed, rule_kept=rule_kept).play(steps)
