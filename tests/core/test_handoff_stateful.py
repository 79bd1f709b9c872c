"""Anything in any order, found and made small by Hypothesis; the judge keeps the real sets.

After every step the judge of tests/simulation/handoff_judge.py knows, per slot, which clusters really
have uncommitted requests, and fails a router that sends to x while the set is no subset of {x}, that
drops what it held, or that sends something twice. At the end everything must come to rest.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from schemas.records import SLOTS, ClusterState
from streams.core.handoff import HandoffSettings
from streams.core.poison import UNLIMITED
from tests.simulation.handoff_router import Outcome, SimRouter, come_to_rest
from tests.simulation.handoff_world import INGEST, OUTPUTS, Place, Transaction, World, name_at
from tests.simulation.nightly import tries

SLOTS_USED = (0, 2, SLOTS + 1)
"""Two slots of one output partition, one of another shard."""

WAYS = ("done", "committed", "heard", "heard", "all committed")
"""How far what a backend has done is known."""

partitions = st.integers(0, INGEST - 1)
names = st.sampled_from(["a", "b", "c"])
slots = st.sampled_from(SLOTS_USED)
outcomes = st.sampled_from(["committed", "committed", "committed", "aborted"])
sizes = st.integers(0, 4)


class HandoffMachine(RuleBasedStateMachine):
    """One or two routers, two ingest partitions, three clusters or four."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.routers: list[SimRouter] = []
        self.left: list[Transaction] = []
        """Open transactions of killed routers."""

    @initialize(
        on_dead=st.sampled_from(["available", "strict"]),
        held=st.sampled_from([2, 1_000]),
        hold_timeout_s=st.sampled_from([3.0, 60.0]),
        rule_kept=st.booleans(),
        alone=st.booleans(),
    )
    def start(self, on_dead: str, held: int, hold_timeout_s: float, rule_kept: bool, alone: bool) -> None:
        """Everything belongs to a."""
        handoff = HandoffSettings(
            on_dead=on_dead,  # type: ignore[arg-type]
            held_requests=held,
            hold_timeout_s=hold_timeout_s,
            dead_grace_s=1.0,
        )
        self.world = World(handoff, rule_kept=rule_kept, home="a")
        self.routers = [SimRouter(self.world) for _ in range(1 if alone else 2)]
        for partition in range(INGEST):
            self.routers[-partition % len(self.routers)].assign(partition)
        for router in self.routers:
            for _ in range(3):
                router.turn()

    def router(self, partition: int) -> SimRouter:
        """The router of an ingest partition."""
        return next(one for one in self.routers if partition in one.partitions)

    def places(self, name: str) -> list[Place]:
        """The output partitions of a cluster."""
        return [(name, number) for number in range(OUTPUTS[name]) if (name, number) in self.world.outputs]

    # ------------------------------------------------------------------ requests

    @rule(partition=partitions, some=st.lists(slots, min_size=1, max_size=3), turns=st.integers(0, 2))
    def send(self, partition: int, some: list[int], turns: int) -> None:
        """Requests that need their order; one turn routes them, a second one commits them."""
        for slot in some:
            self.world.produce(partition, name_at(slot))
        for _ in range(turns):
            self.router(partition).turn()

    @rule(partition=partitions, slot=slots, kind=st.sampled_from(["free", "unknown", "poison"]))
    def send_another(self, partition: int, slot: int, kind: str) -> None:
        """One that needs no order, or has no rule, or is refused by the broker."""
        poison = kind == "poison"
        self.world.produce(partition, name_at(slot), b"ordered" if poison else kind.encode(), poison=poison)

    @rule(
        partition=partitions,
        size=sizes,
        most=st.sampled_from([1, UNLIMITED]),
        outcome=outcomes,
        disturbed=st.sampled_from([False, False, False, True]),
    )
    def turn(self, partition: int, size: int, most: int, outcome: Outcome, disturbed: bool) -> None:
        """One turn of a router's loop."""
        every = dict.fromkeys(range(INGEST), size)
        self.router(partition).turn(every, most=most, outcome=outcome, disturbed=disturbed)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 3.0]), turn=st.booleans())
    def wait(self, seconds: float, turn: bool) -> None:
        """Time passes."""
        self.world.now += seconds
        if turn:
            for router in self.routers:
                router.turn()

    # ------------------------------------------------------------------ the mapping

    @rule(
        some=st.sets(slots, min_size=1),
        to=names | st.just("d"),
        seen=st.sampled_from(["none", "one", "all", "all"]),
    )
    def move(self, some: set[int], to: str, seen: str) -> None:
        """The mapping moves slots; d joins when it is first wanted."""
        if to == "d":
            self.world.join("d")
        self.world.move(sorted(some), to)
        for router in {"none": [], "one": self.routers[:1], "all": self.routers}[seen]:
            router.look(len(self.world.snapshots) - 1)
            router.turn({})

    @rule(partition=partitions, some=st.lists(slots, min_size=1, max_size=3), to=names)
    def hold(self, partition: int, some: list[int], to: str) -> None:
        """Busy slots are moved and held: most of what can go wrong begins with that."""
        self.send(partition, some, 2)
        self.move(set(some), to, "all")
        self.wait(0.5, True)
        self.send(partition, some, 1)

    @rule(partition=partitions)
    def look(self, partition: int) -> None:
        """A router sees the newest mapping."""
        self.router(partition).look(len(self.world.snapshots) - 1)

    # ------------------------------------------------------------------ backends

    @rule(which=st.integers(0, 3), most=st.sampled_from([1, 100]), how=st.sampled_from(WAYS))
    def work(self, which: int, most: int, how: str) -> None:
        """A backend that has something to do does it; its group may commit, the routers may hear of it."""
        busy = sorted({place[0] for place, one in self.world.outputs.items() if one.committed < len(one.log)})
        name = (busy or ["a"])[which % max(1, len(busy))]
        for place in self.places(name):
            self.world.process(place, most)
            if how != "done":
                self.world.commit_group(place, past_markers=how == "all committed")
        if how in ("heard", "all committed"):
            for router in self.routers:
                router.hear(name)

    @rule(partition=partitions)
    def tails(self, partition: int) -> None:
        """Answers about tails come in."""
        self.router(partition).answer_tails()

    @rule(name=names, how=st.sampled_from(["restart", "set back", "expire", "retain"]))
    def disturb(self, name: str, how: str) -> None:
        """A backend starts again, its group is set back or expires, retention takes what is done."""
        for place in self.places(name):
            if how == "restart":
                self.world.restart(place)
            elif how == "set back":
                self.world.set_back(place, 0)
            elif how == "expire":
                self.world.expire(place)
            else:
                self.world.retain(place)

    @rule(name=names, silent=st.booleans())
    def down(self, name: str, silent: bool) -> None:
        """A cluster is set down; mostly its backend is really dead."""
        if len(self.world.down_since) < 2:
            self.world.set_state(name, ClusterState.DOWN)
            if silent:
                self.world.silent.add(name)

    @precondition(lambda self: self.world.down_since)
    @rule(data=st.data(), how=st.sampled_from(["up", "alive", "rescue"]))
    def raise_up(self, data: st.DataObject, how: str) -> None:
        """A cluster that is down is active again, or only its backend is back, or it is rescued."""
        name = data.draw(st.sampled_from(sorted(self.world.down_since)))
        if how == "rescue":
            self.world.begin_rescue(name)
            return
        self.world.silent.discard(name)
        if how == "up":
            self.world.set_state(name, ClusterState.ACTIVE)

    @precondition(lambda self: self.world.rescue is not None)
    @rule()
    def end_rescue(self) -> None:
        """The mapping says that a rescue is over."""
        self.world.end_rescue()

    # ------------------------------------------------------------------ routers come and go

    @rule(partition=partitions, offsets_sent=st.booleans(), turns=st.integers(0, 3))
    def crash(self, partition: int, offsets_sent: bool, turns: int) -> None:
        """A router is killed; a successor gets its partitions, and some turns."""
        router = self.router(partition)
        left = router.die(offsets_sent=offsets_sent)
        if left is not None:
            self.left.append(left)
        successor = SimRouter(self.world, router.seen)
        for one in sorted(router.partitions):
            successor.assign(one)
        self.routers[self.routers.index(router)] = successor
        for _ in range(turns):
            successor.turn()

    @precondition(lambda self: self.left)
    @rule(outcome=outcomes)
    def end_transaction(self, outcome: Outcome) -> None:
        """The coordinator ends the transaction of a killed router."""
        left = self.left.pop()
        whole = not left.doomed and not any(self.world.request(origin).poison for origin in left.written)
        self.world.end(left, outcome if whole else "aborted")

    @rule(partition=partitions, outcome=outcomes)
    def rebalance(self, partition: int, outcome: Outcome) -> None:
        """A partition moves to the other router, or away and back."""
        router = self.router(partition)
        router.revoke(partition, outcome)
        self.routers[(self.routers.index(router) + 1) % len(self.routers)].assign(partition)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def nothing_is_dropped(self) -> None:
        """What a router has decided about is somewhere."""
        for router in self.routers:
            self.world.judge.accounted(router)

    def teardown(self) -> None:
        """Everything comes to rest: each request once, every key in its order."""
        if not self.routers or sys.exc_info()[0] is not None:
            return  # a step has failed already
        while self.left:
            self.world.end(self.left.pop(), "aborted")
        come_to_rest(self.world, self.routers)


BATCHES = tries(1, 10)
"""Hypothesis remembers all that it has tried: in batches it forgets."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_anything_in_any_order_keeps_the_promise(batch: int) -> None:
    """As the rules above may follow one another."""
    many = settings(max_examples=tries(80, 1_000), stateful_step_count=50)
    run_state_machine_as_test(HandoffMachine, settings=many)
