"""Mistakes that somebody could make in the handoff, each of which a test must see.

`floor` is the cheapest one that sees it for certain; docs/handoff.md shows what the others see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Floor = Literal["unit", "simulation", "stateful"]

HANDOFF = "streams/core/handoff.py"
HANDOFFS = "streams/core/handoffs.py"
ROUTING = "streams/core/routing.py"


@dataclass(frozen=True)
class Mutation:
    """One mistake: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    floor: Floor = "simulation"


FENCES = (
    Mutation(
        "a fence is passed at its own offset",
        HANDOFF,
        "sight.committed.at(cluster, partition) > last",
        "sight.committed.at(cluster, partition) >= last",
    ),
    Mutation(
        "a transaction under way has no fence",
        HANDOFF,
        "self._fence[slots] = PENDING",
        "pass",
    ),
    Mutation(
        "the fence as of the mapping change stays pending",
        HANDOFF,
        'moving["fence"][unknown] = self._fence[moving["slot"][unknown]]',
        "pass",
        "unit",
    ),
    Mutation(
        "requests without order set fences",
        HANDOFFS,
        "self.active[number].sent(sent.slot[(sent.partition == number) & sent.ordered])",
        "self.active[number].sent(sent.slot[sent.partition == number])",
        "unit",
    ),
    Mutation(
        "a fence that nobody reported counts as passed",
        HANDOFFS,
        "ends = OffsetTable(PENDING)",
        "ends = OffsetTable()",
        "unit",
    ),
    Mutation(
        "the fence of the old cluster goes along",
        HANDOFF,
        "self._fence[moved] = NOTHING",
        "pass",
        "unit",
    ),
    Mutation(
        "base fences only for slots in motion at the take-over",
        HANDOFF,
        "return self._past(at, slots, fences, sight)",
        "return sight.committed.at(at, slots % self._partitions[at]) > fences",
    ),
    Mutation(
        "compared with the end offset only, the tail is ignored",
        HANDOFF,
        "self.fences.set(cluster, partition, last)",
        "pass",
        "unit",
    ),
)

PHASES = (
    Mutation(
        "watched slots go to the new cluster already",
        HANDOFF,
        "owner = np.where(free, self._target[slot], self._routed[slot]).astype(np.int64)",
        "owner = self._target[slot].astype(np.int64)",
    ),
    Mutation(
        "what is held is released in the wrong order",
        HANDOFF,
        "self.released.sort(key=lambda request: request.offset)",
        "self.released.sort(key=lambda request: -request.offset)",
    ),
    Mutation(
        "what is released is in order per slot only",
        HANDOFF,
        "self.released.sort(key=lambda request: request.offset)",
        "self.released.sort(key=lambda request: (request.slot, request.offset))",
        "unit",
    ),
    Mutation(
        "what is held goes after what was read later",
        HANDOFF,
        "waits = self._release(moving[ready], sight.now)\n        self._phase[done]",
        "waits = self._release(getattr(self, 'late', moving[:0]), sight.now)\n"
        "        self.late = moving[ready].copy()\n        self._phase[done]",
    ),
    Mutation(
        "what is read is sent before what is released",
        ROUTING,
        "return sent, early + outgoing",
        "return sent, outgoing + early",
        "unit",
    ),
    Mutation(
        "requests without order are held",
        HANDOFF,
        "hold = (self._phase[slot] == Phase.HOLD) & ~free",
        "hold = self._phase[slot] == Phase.HOLD",
        "unit",
    ),
    Mutation(
        "back to the old cluster while several candidates remain",
        HANDOFF,
        'back = due & ~np.isin(moving["slot"], others["slot"])',
        "back = due",
    ),
    Mutation(
        "a slot is in motion since the snapshot's version",
        HANDOFF,
        "began = self._new_moves(changed, self.version + 1)",
        "began = self._new_moves(changed, version)",
    ),
    Mutation(
        "a slot settles although another cluster may have something",
        HANDOFF,
        'free = ~np.isin(slots, firm["slot"])',
        "free = np.ones(len(slots), dtype=np.bool_)",
    ),
    Mutation(
        "candidates are forgotten when the mapping changes",
        HANDOFF,
        "        self._target = target\n        began =",
        "        self._target = target\n        self._claims = self._claims[:0]\n        began =",
    ),
    Mutation(
        "a claim of the cluster in use is no fence",
        HANDOFF,
        'np.maximum.at(self._fence, slots[own], claims["fence"][own])',
        "pass",
        "unit",
    ),
)

DEAD = (
    Mutation(
        "a dead cluster is left before its grace",
        HANDOFFS,
        'settings.on_dead == "available" and now - since >= settings.dead_grace_s',
        'settings.on_dead == "available"',
        "unit",
    ),
    Mutation(
        "a dead cluster is left where order is strict",
        HANDOFFS,
        'settings.on_dead == "available" and now',
        "now",
    ),
    Mutation(
        "a dead cluster that was left is forgotten",
        HANDOFF,
        "self._claims = np.concatenate([self._claims, new])",
        "pass",
    ),
    Mutation(
        "a dead cluster is left with a transaction under way",
        HANDOFF,
        "np.isin(at, gone) & (self._fence[slots] != PENDING)",
        "np.isin(at, gone)",
        "unit",
    ),
    Mutation(
        "released requests are not counted as unproven",
        ROUTING,
        "    batch.unproven += sum(handoffs.active[p].unproven([request.slot]) for p, request in released)\n",
        "",
        "unit",
    ),
)

NOTES = (
    Mutation(
        "the note is ignored",
        HANDOFFS,
        "start = Start(position, note, claims, base)",
        "start = Start(position, None, claims, base)",
    ),
    Mutation(
        "`from` is ignored",
        HANDOFF,
        "self._replay[list(group.slots)] = group.from_offset",
        "self._replay[list(group.slots)] = 0",
    ),
    Mutation(
        "the note names no newer mapping than the settled one",
        HANDOFF,
        "self.settled, self.version, max(self.position, self.resumed)",
        "self.settled, self.settled, max(self.position, self.resumed)",
        "unit",
    ),
    Mutation(
        "the note calls settled what it was at the take-over",
        HANDOFF,
        "self._moving = self._new_moves(slots, settled_version(note) + 1)",
        "self._moving = self._new_moves(slots, version + 1)",
    ),
    Mutation(
        "the committed offset passes what is released and not sent",
        HANDOFF,
        "first = self.released[0].offset if self.released else self.position",
        "first = self.position",
        "unit",
    ),
    Mutation(
        "the committed offset passes what is held",
        HANDOFF,
        "return min(first, self.held.oldest(self.position)), note",
        "return first, note",
    ),
    Mutation(
        "the note does not list what is released and not sent",
        HANDOFF,
        "known = {request.slot for request in self.released}",
        "known: set[int] = set()",
        "unit",
    ),
    Mutation(
        "the `from` of what is released is that of the oldest one",
        HANDOFF,
        "max(self.released[0].offset, self._left[slot])",
        "self.released[0].offset",
        "unit",
    ),
    Mutation(
        "the position goes back during a replay",
        HANDOFF,
        "self.settled, self.version, max(self.position, self.resumed)",
        "self.settled, self.version, self.position",
    ),
    Mutation(
        "a second take-over forgets what is still to be read again",
        HANDOFF,
        "                if slot not in known:",
        "                if slot in ():",
    ),
    Mutation(
        "a second take-over reads again what was forwarded in the replay",
        HANDOFF,
        "begins.setdefault(max(int(self._replay[slot]), self.position), set())",
        "begins.setdefault(int(self._replay[slot]), set())",
        "unit",
    ),
    Mutation(
        "a hold during a replay begins where the reading is",
        HANDOFF,
        'moving["from"][which] = np.maximum(begins, self.position)',
        'moving["from"][which] = self.position',
    ),
    Mutation(
        "only the newest past of a shard is suspected",
        HANDOFF,
        "for entry in record.previous:",
        "for entry in record.previous[-1:]:",
    ),
    Mutation(
        "the past of the settled version is not suspected",
        HANDOFF,
        "if entry.version < settled:",
        "if entry.version <= settled:",
    ),
    Mutation(
        "the note may grow beyond what a broker takes",
        HANDOFF,
        "by_shard: int = SHARD_BYTES * (pairs.shape[1] + 2 * len(np.unique(pairs[0])))",
        "by_shard: int = SHARD_BYTES * pairs.shape[1] // 2",
        "unit",
    ),
)

REPLAY = (
    Mutation(
        "nothing is skipped after a take-over",
        HANDOFF,
        "self.resumed = max(start.position, note.position if note else 0)",
        "self.resumed = start.position",
    ),
    Mutation(
        "requests without order are sent again after a take-over",
        HANDOFF,
        "skip = (offset < self.resumed) & (free | (offset < self._replay[slot]))",
        "skip = (offset < self.resumed) & (offset < self._replay[slot])",
    ),
    Mutation(
        "dead letters are written again after a take-over",
        ROUTING,
        "    batch.forget_bad(partition, lambda offset: offset < handoff.resumed)\n",
        "",
    ),
    Mutation(
        "a refused request of a held slot is dead-lettered at once",
        ROUTING,
        "        room = next(late, room)\n    if room < len(requests):",
        "        requests = [one for one in requests if (partition, one.offset) not in condemned]\n"
        "    if room < len(requests):",
        "unit",
    ),
)

LIMITS = (
    Mutation(
        "a partition that holds nothing waits for its list to get shorter",
        HANDOFF,
        " or not (self.held.count or self.released)",
        "",
        "unit",
    ),
    Mutation(
        "a list that is full stops a replay",
        HANDOFF,
        "most = max(HELD_BYTES, self._worst_bytes())",
        "most = HELD_BYTES",
        "unit",
    ),
    Mutation(
        "what lies beyond a cut is sent",
        ROUTING,
        "self.send[late] = self.take[late] = False",
        "self.take[late] = False",
    ),
    Mutation(
        "what lies beyond a cut is dead-lettered",
        ROUTING,
        "        self.forget_bad(partition, lambda other: other >= offset)\n",
        "",
    ),
    Mutation(
        "what does not fit is dropped",
        ROUTING,
        "self.positions[partition] = self.cut[partition] = offset",
        "pass",
    ),
)

MUTATIONS = (*FENCES, *PHASES, *DEAD, *NOTES, *REPLAY, *LIMITS)
