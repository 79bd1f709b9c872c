"""Scripts of a handoff: one thing that happens per line, and what it leads to.

    send 0      -> 0a | a           a request of slot 0 is sent to a, its transaction commits; settled at a
    map b 0     ->    | a>b         the mapping gives slot 0 to b: watched
    +0.5        ->    | a:b         half a second later: held
    send 0      ->    | a:b(1)      one request is held
    done a      -> 0b | b           the group of a commits all it got: the held one is sent; settled at b

Right of the arrow stand the requests sent (`0a?` unproven, `0+` a dead letter), then the phase of each
slot of the script. One ingest partition; everything belongs to a at first; slots 0 and 2 share an output
partition of each cluster, and so do 1 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from schemas.records import ClusterState
from streams.core.handoff import HandoffSettings, Phase
from streams.core.offset_note import decode_note
from streams.core.poison import UNLIMITED
from tests.simulation.handoff_router import ALL, SimRouter
from tests.simulation.handoff_world import OUTPUTS, Origin, Place, Transaction, World, name_at

SIGNS = {Phase.WATCH: ">", Phase.HOLD: ":"}


class TickWorld(World):
    """A world that remembers what was written since the last tick."""

    def __init__(self, settings: HandoffSettings, *, rule_kept: bool) -> None:
        super().__init__(settings, rule_kept=rule_kept, home="a")
        self.sent: list[str] = []

    def settled(self) -> int:
        note = decode_note(self.offsets[0][1])
        return 0 if note is None else note.settled

    def write(self, transaction: Transaction, place: Place, origin: Origin) -> None:
        super().write(transaction, place, origin)
        self.sent.append(f"{self.slot(origin)}{place[0]}")


class Script:
    """A world with one router, and the words of a script."""

    def __init__(self, slots: tuple[int, ...], settings: HandoffSettings, *, rule_kept: bool) -> None:
        self.slots = slots
        self.world = TickWorld(settings, rule_kept=rule_kept)
        self.router = SimRouter(self.world)
        self.most = UNLIMITED
        self.sizes = dict(ALL)
        self._words: dict[str, Callable[..., str | None]] = {
            "send": self.send,
            "begin": self.begin,
            "free": self.free,
            "poison": self.poison,
            "unknown": self.unknown,
            "ok": self.ok,
            "abort": self.abort,
            "map": self.map,
            "plan": self.plan,
            "look": self.look,
            "take": self.take,
            "commit": self.commit,
            "hear": self.hear,
            "done": self.done,
            "back": self.back,
            "retain": self.retain,
            "expire": self.expire,
            "aborted": self.aborted,
            "tail": self.tail,
            "down": self.down,
            "up": self.up,
            "die": self.die,
            "again": self.again,
            "ended": self.ended,
            "erase": self.erase,
            "most": self.at_most,
            "read": self.read,
            "settled": self.settled,
            "note": self.note,
            "awaits": self.awaits,
        }
        self._begin()

    def play(self, script: str) -> None:
        """Plays the lines and fails with all of them where one leads to something else."""
        lines = [re.sub(r"\s+", " ", line).strip() for line in script.splitlines() if line.strip()]
        found = []
        for line in lines:
            command = line.split("->")[0].strip()
            found.append(re.sub(r"\s+", " ", f"{command} -> {self._tick(command)}").strip())
        assert found == lines, "\n".join(["", *found])

    def _tick(self, command: str) -> str:
        self.world.sent = []
        word, *rest = command.split()
        if word.startswith("+"):
            self.world.now += float(word[1:])
            answer = self.turn()
        else:
            answer = self._words[word](*rest)
        self.world.judge.accounted(self.router)
        return answer if answer is not None else f"{' '.join(self.world.sent)} | {self._phases()}"

    def _phases(self) -> str:
        handoff = self.router.handoffs.active.get(0)
        if handoff is None:
            return "-"
        names, shown = self.router.numbers.names, []
        for slot in self.slots:
            phase = Phase(int(handoff._phase[slot]))
            at, target = names[handoff.owner(slot)], names[int(handoff._target[slot])]
            held = len(handoff.held._by_slot.get(slot, []))
            shown.append(at if phase is Phase.SETTLED else f"{at}{SIGNS[phase]}{target}")
            shown[-1] += f"({held})" if held else ""
        return " ".join(shown)

    # ------------------------------------------------------------------ turns

    def turn(self, *, settle: bool = True) -> None:
        """One turn of the loop; its transaction commits, unless told otherwise."""
        world = self.world
        self.router.turn(self.sizes, most=self.most)
        flying = self.router.flying
        if flying is not None:
            if flying.routed.unproven:
                world.sent = [f"{one}?" for one in world.sent]
            world.sent += [f"{world.slot(origin)}+" for origin in flying.transaction.dead]
        if settle:
            self.router.settle("committed")

    def _begin(self) -> None:
        """Takes the partition over, step by step."""
        self.router.assign(0)
        self.router.look(len(self.world.snapshots) - 1)
        for _ in range(4):
            self._hear_all()
            self.router.turn({})
            self.router.settle("committed")

    def _hear_all(self) -> None:
        for name in self.world.clusters:
            self.router.hear(name)

    # ------------------------------------------------------------------ requests

    def _produce(self, slots: tuple[str, ...], kind: bytes = b"ordered", *, poison: bool = False) -> None:
        for slot in slots:
            self.world.produce(0, name_at(int(slot)), kind, poison=poison)

    def send(self, *slots: str) -> None:
        """Requests are produced and routed, the transaction commits."""
        self._produce(slots)
        self.turn()

    def begin(self, *slots: str) -> None:
        """The same, but the transaction stays open."""
        self._produce(slots)
        self.turn(settle=False)

    def free(self, *slots: str) -> None:
        """Requests that need no order."""
        self._produce(slots, b"free")
        self.turn()

    def poison(self, *slots: str) -> None:
        """Requests that the broker refuses."""
        self._produce(slots, poison=True)
        self.turn()

    def unknown(self, *slots: str) -> None:
        """Requests without a rule."""
        self._produce(slots, b"unknown")
        self.turn()

    def ok(self) -> None:
        """The open transaction commits."""
        self.router.settle("committed")

    def abort(self) -> None:
        """The open transaction is aborted; everything is taken over anew."""
        self.router.settle("aborted")

    def at_most(self, most: str) -> None:
        """From now on so many released requests go into one transaction."""
        self.most = int(most)

    def read(self, most: str) -> None:
        """From now on so many requests are read at a time."""
        self.sizes = {0: int(most)}

    # ------------------------------------------------------------------ the mapping

    def plan(self, target: str, *slots: str) -> None:
        """The mapping gives slots to a cluster; the router has not seen it."""
        if target == "d":
            self.world.join("d")
        assert self.world.move([int(slot) for slot in slots], target), "the balancer may not move that"

    def look(self) -> None:
        """The router sees the newest mapping."""
        self.router.look(len(self.world.snapshots) - 1)
        self.turn()

    def map(self, target: str, *slots: str) -> None:
        """Both."""
        self.plan(target, *slots)
        self.look()

    def down(self, name: str) -> None:
        """A cluster is set down; the router has seen it."""
        self.world.silent.add(name)
        self.world.set_state(name, ClusterState.DOWN)
        self.look()

    def up(self, name: str) -> None:
        """It is active again."""
        self.world.silent.discard(name)
        self.world.set_state(name, ClusterState.ACTIVE)
        self.look()

    # ------------------------------------------------------------------ backends

    def _outputs(self, name: str) -> list[Place]:
        return [(name, number) for number in range(OUTPUTS[name])]

    def take(self, name: str, most: str = "1000") -> None:
        """A backend processes requests, but does not commit them."""
        for place in self._outputs(name):
            self.world.process(place, int(most))

    def commit(self, name: str) -> None:
        """A backend commits what it has processed: the router has not heard of it."""
        for place in self._outputs(name):
            self.world.commit_group(place)

    def hear(self, name: str) -> None:
        """The router hears how far a group is."""
        self.router.hear(name)
        self.turn()

    def done(self, name: str, most: str = "1000") -> None:
        """A backend processes and commits, the router hears of it."""
        self.take(name, most)
        self.commit(name)
        self.hear(name)

    def back(self, name: str, offset: str) -> None:
        """A group is set back, the router hears of it."""
        for place in self._outputs(name):
            self.world.set_back(place, int(offset))
        self.hear(name)

    def expire(self, name: str) -> None:
        """The committed offsets of an idle group expire."""
        for place in self._outputs(name):
            self.world.expire(place)

    def retain(self, name: str) -> None:
        """Retention removes all that was committed, the router hears of it."""
        for place in self._outputs(name):
            self.world.retain(place)
        self.hear(name)

    def aborted(self, name: str) -> None:
        """Somebody's aborted transaction leaves a record and a marker at the end of each partition."""
        transaction = Transaction()
        self.world.open.append(transaction)
        self.world.ingest[1] or self.world.produce(1, name_at(0))
        for place in self._outputs(name):
            World.write(self.world, transaction, place, (1, 0))
        self.world.end(transaction, "aborted")

    def tail(self) -> None:
        """The answers about tails come in."""
        self.router.answer_tails()
        self.turn()

    # ------------------------------------------------------------------ take-over

    def die(self, state: str = "") -> None:
        """The router is killed; a successor begins. `state`: what becomes of the open transaction."""
        left = self.router.die(offsets_sent=True)
        if left is not None and state:
            self.world.end(left, state)
        self.router = SimRouter(self.world)
        self._begin()

    def again(self) -> None:
        """The router takes its partition over anew, after an abort."""
        self._begin()

    def ended(self, state: str) -> None:
        """A predecessor's open transaction is committed or aborted: now its partition can be taken over."""
        for transaction in list(self.world.open):
            self.world.end(transaction, state)
        self._begin()

    def erase(self) -> None:
        """A plain commit of the same offset erases the note."""
        self.world.erase_note(0)

    # ------------------------------------------------------------------ what is shown

    def settled(self) -> str:
        """The settled version."""
        return str(self.router.handoffs.active[0].settled)

    def note(self) -> str:
        """The committed offset, and what the note beside it says."""
        offset, text = self.world.offsets[0]
        note = decode_note(text)
        if note is None:
            return f"{offset} none"
        held = [f" {' '.join(map(str, group.slots))} from {group.from_offset}" for group in note.held]
        said = f"{offset} settled {note.settled} newest {note.newest} position {note.position}"
        return said + ",".join(held)

    def awaits(self) -> str:
        """The clusters whose progress would settle something."""
        names = self.router.numbers.names
        return " ".join(sorted(names[number] for number in self.router.handoffs.awaited())) or "none"


def play(script: str, *, slots: tuple[int, ...] = (0,), rule_kept: bool = True, **settings: object) -> Script:
    """Plays a script in a new world; `settings` are those of the handoff."""
    made = Script(slots, HandoffSettings(**settings), rule_kept=rule_kept)  # type: ignore[arg-type]
    made.play(script)
    return made
