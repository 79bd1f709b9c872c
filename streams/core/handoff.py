"""How a slot changes cluster without breaking the order of its requests: the pure machine.

Per slot of one ingest partition there is a set of clusters that may still have uncommitted requests
of it, each with a fence: the offset of the last one. A request may be sent to x only if that set is
a subset of {x}. Everything else follows from this rule; docs/handoff.md draws it, with every failure.

    settled  requests go to the cluster in use; the mapping names another one -> watch
    watch    they still go there; its fence is passed -> settled at the new one; not soon -> hold
    hold     they wait; all clusters but the new one have drained -> settled, the held ones first

While this router sends, a slot's set has one member: the cluster in use, with `fence` and the base
fence of the take-over. More members come of a predecessor whose sends are not known, and of a dead
cluster that was left: those are `claims`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.records import SLOTS
from streams.core.fences import NOTHING, PENDING, ClusterNumbers, Ints, OffsetTable
from streams.core.held import HeldRequest, HeldRequests
from streams.core.mapping import Snapshot
from streams.core.offset_note import HELD_BYTES, RUN_BYTES, SHARD_BYTES, Held, OffsetNote

Bools = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.uint16]
"""uint16[slots]: number of the cluster that gets each global slot."""

CLAIM = np.dtype([("slot", np.int64), ("cluster", np.int64), ("fence", np.int64)])
"""`cluster` may have uncommitted requests of `slot`, the last one at `fence` or at the base fence."""

MOVING = np.dtype(
    [
        ("slot", np.int64),
        ("since", np.int64),  # mapping version with which its move began
        ("began", np.float64),  # when it entered its phase
        ("fence", np.int64),  # watch: the fence as of the mapping change
        ("first_due", np.float64),  # watch: until then that fence must be passed
        ("due", np.float64),  # watch: until then it must be idle; hold: until then it must have drained
        ("from", np.int64),  # hold: nothing of it was forwarded from this offset on
    ]
)

SLOT, BEGAN, FROM = 0, 2, 6
"""Their places in a row of MOVING."""

WORST_SLOT_BYTES = 20
"""Characters of a note that one slot takes at most: a group of its own with one run."""

GROUP_BYTES = 11
"""Bytes of a group beside its shards: its `from` and their number."""


class Phase(IntEnum):
    """Where a slot of one ingest partition is on its way to another cluster."""

    SETTLED = 0
    WATCH = 1
    HOLD = 2


@dataclass(frozen=True)
class HandoffSettings:
    """Times in seconds of wall time, and how much may be held."""

    first_wait_s: float = 0.5
    """A slot that was idle at the mapping change has drained by then on a healthy cluster."""
    watch_s: float = 2.0
    """A slot with several requests/s never falls idle between two looks: then it is held."""
    hold_timeout_s: float = 60.0
    """Safety valve: then held requests go back to the old cluster, where that is allowed."""
    dead_grace_s: float = 30.0
    """How long a cluster that is down is still waited for."""
    on_dead: Literal["available", "strict"] = "available"
    """Whether slots leave a cluster that is down without its having drained."""
    held_requests: int = 200_000
    """Held by one router at most, all partitions together; then partitions pause."""
    held_bytes: int = 512 * 1024 * 1024


@dataclass
class Base:
    """Fences of all that was written before a take-over: nobody knows which slot it belongs to."""

    fences: OffsetTable = field(default_factory=OffsetTable)
    """The last offset there was; once the tail was read, that of the last record."""
    read: set[tuple[int, int]] = field(default_factory=set)
    """(cluster, partition) whose tail was read."""

    @classmethod
    def below(cls, ends: Mapping[int, Sequence[int]]) -> Base:
        """Returns the base below the ends of each partition, by number of the cluster."""
        base = cls()
        for number, row in ends.items():
            base.fences.set_row(number, [end - 1 for end in row])
        return base

    def lower(self, cluster: int, partition: int, last: int) -> None:
        """Takes in that `last` is the last record below the end, NOTHING where there is none."""
        self.fences.set(cluster, partition, last)
        self.read.add((cluster, partition))


@dataclass(frozen=True)
class Start:
    """What a partition begins with: a take-over, or the same router after a failure."""

    position: int
    """The committed offset: the first to read again."""
    note: OffsetNote | None
    """What the predecessor wrote beside it; None: a plain commit or a reset erased it."""
    claims: npt.NDArray[np.void]
    """CLAIM[n] of `claims_after` the settled version."""
    base: Base


@dataclass(frozen=True)
class Sight:
    """What a handoff may know at one moment. `now` in seconds, monotonic."""

    now: float
    committed: OffsetTable
    """Committed offset of each cluster's group, its log start where that is higher."""
    gone: Set[int] = frozenset()
    """Numbers of clusters that may be left without having drained."""


@dataclass(frozen=True)
class Verdict:
    """What happens to some requests of one partition, in their order; arrays of one length."""

    owner: Ints
    """Number of the cluster that each goes to."""
    hold: Bools
    skip: Bools
    """Forwarded, held or dead-lettered by the predecessor already."""
    unproven: Bools
    """Sent although a dead cluster may still have earlier ones of the slot."""


def settled_version(note: OffsetNote | None) -> int:
    """Returns the mapping version up to which nothing is in motion, as a note says; 0 without one."""
    return 0 if note is None else note.settled


def claims_after(snapshot: Snapshot, numbers: ClusterNumbers, settled: int) -> npt.NDArray[np.void]:
    """Returns CLAIM[n]: every other cluster that a slot belonged to at or after version `settled`.

    A cluster that has left the mapping has drained: it was removed only then.
    """
    found: list[npt.NDArray[np.void]] = []
    for record in snapshot.records:
        for entry in record.previous:
            if entry.version < settled:
                continue
            for start, stop, name in entry.segments:
                if name not in snapshot.clusters:
                    continue
                slots = np.arange(start, stop, dtype=np.int64) + record.shard * SLOTS
                index = snapshot.names.index(name)
                slots = slots[snapshot.owners[slots] != index]
                found.append(_claims(slots, numbers.number(name, snapshot.clusters[name]), NOTHING))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=CLAIM)


def _claims(slots: Ints, clusters: Ints | int, fences: Ints | int) -> npt.NDArray[np.void]:
    made = np.zeros(len(slots), dtype=CLAIM)
    made["slot"], made["cluster"], made["fence"] = slots, clusters, fences
    return made


class Handoff:
    """The slots of one ingest partition. Made anew at every take-over; nothing of it outlives one."""

    def __init__(
        self,
        settings: HandoffSettings,
        partitions: Ints,
        target: Owners,
        version: int,
        start: Start,
        now: float,
    ) -> None:
        """`partitions` is int64[clusters] by number, `target` and `version` the mapping in use."""
        self._settings = settings
        self._partitions = partitions
        self._target = target
        self.version = version
        self.base = start.base
        self.held = HeldRequests()
        self.released: list[HeldRequest] = []
        """Held requests that go out next, before everything else, by offset."""
        self._left: dict[int, int] = {}
        """Slot of a released request -> the offset from which on nothing of it had been sent."""
        note = start.note
        self.position = start.position
        """Next offset to decide about."""
        self.resumed = max(start.position, note.position if note else 0)
        """Below it the predecessor has decided; what it held then is decided again."""
        self._routed = target.copy()
        self._fence = np.full(len(target), NOTHING, dtype=np.int64)
        self._phase = np.zeros(len(target), dtype=np.uint8)
        self._replay: Ints | None = None
        """int64[slots] until `resumed`: from this offset on, nothing of the slot was forwarded."""
        self._listed: Ints = np.zeros(0, dtype=np.int64)
        """Slots that the predecessor's note lists, until `resumed`."""
        if self.position < self.resumed and note is not None:
            self._replay = np.full(len(target), self.resumed, dtype=np.int64)
            for group in note.held:
                self._replay[list(group.slots)] = group.from_offset
            self._listed = np.array(sorted(s for g in note.held for s in g.slots), dtype=np.int64)
        self._claims = start.claims
        self._unproven: Bools | None = None
        slots = np.unique(start.claims["slot"])
        self._moving = self._new_moves(slots, settled_version(note) + 1)
        self._hold(np.ones(len(slots), dtype=np.bool_), now)

    # ------------------------------------------------------------------ what it is asked

    @property
    def quiet(self) -> bool:
        """Returns whether every request simply goes where the mapping says."""
        return not len(self._moving) and not len(self._claims) and self._replay is None

    @property
    def settled(self) -> int:
        """Returns the newest mapping version up to which no slot of this partition is in motion."""
        return int(self._moving["since"].min()) - 1 if len(self._moving) else self.version

    def phases(self) -> tuple[int, int]:
        """Returns how many slots are in watch and in hold."""
        holding = int((self._phase[self._moving["slot"]] == Phase.HOLD).sum())
        return len(self._moving) - holding, holding

    def judge(self, offset: Ints, slot: Ints, free: Bools) -> Verdict:
        """Returns what happens to requests at these offsets, of these slots; `free` need no order."""
        owner = np.where(free, self._target[slot], self._routed[slot]).astype(np.int64)
        hold = (self._phase[slot] == Phase.HOLD) & ~free
        nothing = np.zeros(len(slot), dtype=np.bool_)
        skip = unproven = nothing
        if self._replay is not None:
            skip = (offset < self.resumed) & (free | (offset < self._replay[slot]))
        if self._unproven is not None:
            unproven = self._unproven[slot] & ~(free | hold | skip)
        return Verdict(owner, hold & ~skip, skip, unproven)

    def unproven(self, slots: Iterable[int]) -> int:
        """Returns of how many of these slots a dead cluster may still have earlier requests."""
        return 0 if self._unproven is None else int(self._unproven[list(slots)].sum())

    def owner(self, slot: int) -> int:
        """Returns the number of the cluster in use for a slot."""
        return int(self._routed[slot])

    def note(self, rules_hash: str) -> tuple[int, OffsetNote]:
        """Returns the offset to commit and its note, for everything decided so far."""
        first = self.released[0].offset if self.released else self.position
        note = OffsetNote(
            self.settled, self.version, max(self.position, self.resumed), rules_hash, self._groups()
        )
        return min(first, self.held.oldest(self.position)), note

    def fitting(self, slots: Sequence[int]) -> int:
        """Returns how many of these slots, the first ones, may hold something: the note must list them.

        One that takes no more room than there is taken always may: what a predecessor held can be held
        again, however long its list is.
        """
        listed = len(self.held.slots) + len(self.released) + len(self._listed) + len(slots)
        if listed * WORST_SLOT_BYTES <= HELD_BYTES:
            return len(slots)
        most = max(HELD_BYTES, self._worst_bytes())
        low, high = 0, len(slots)
        while low < high:
            middle = high if low == 0 and high == len(slots) else (low + high + 1) // 2
            if self._worst_bytes(slots[:middle]) <= most:
                low = middle
            else:
                high = middle - 1
        return low

    def note_has_room(self) -> bool:
        """Returns whether the list of held slots takes at most half of the room that it has.

        Where nothing is held any more, only reading on shortens the list that a predecessor has left.
        """
        return self._worst_bytes() <= HELD_BYTES // 2 or not (self.held.count or self.released)

    def _worst_bytes(self, more: Sequence[int] = ()) -> int:
        """Returns the characters that what a note lists, and `more`, may come to take there.

        Neighbours are one run now, but they are released one output partition after the other, and
        every second slot that is left is a run of its own. A slot is listed in the group of its `from`,
        then among those that are released and not sent, or were forwarded in the replay: so a shard
        may come to stand in two groups more.
        """
        held = np.array([*self.held.slots, *more], dtype=np.int64)
        sent = np.array([request.slot for request in self.released], dtype=np.int64)
        slot = np.concatenate([held, sent, self._listed])
        begins = [self._moving["from"][np.searchsorted(self._moving["slot"], held)]]
        begins.append(np.array([self._left[one] for one in sent.tolist()], dtype=np.int64))
        if self._replay is not None:
            begins.append(self._replay[self._listed])
        pairs = np.unique(np.stack([slot // SLOTS, np.concatenate(begins)]), axis=1)
        groups = len(np.unique(pairs[1])) + 2
        by_shard: int = SHARD_BYTES * (pairs.shape[1] + 2 * len(np.unique(pairs[0])))
        size, wide = min(RUN_BYTES * len(np.unique(slot)), by_shard), len(self._target) >> 14
        return -(-(size + groups * (GROUP_BYTES + wide)) * 5 // 4)

    def _groups(self) -> tuple[Held, ...]:
        """Returns what a note lists of the slots that hold something.

        What is released and not yet sent is still held to a successor. Released requests go out by
        offset, so of those slots nothing was sent from the first one that is left on.
        """
        begins: dict[int, set[int]] = {}
        known = {request.slot for request in self.released}
        for slot in known:
            begins.setdefault(max(self.released[0].offset, self._left[slot]), set()).add(slot)
        holding = np.array(self.held.slots, dtype=np.int64)
        if len(holding):
            places = np.searchsorted(self._moving["slot"], holding)
            for slot, start in zip(holding.tolist(), self._moving["from"][places].tolist(), strict=True):
                begins.setdefault(start, set()).add(slot)
            known.update(holding.tolist())
        if self._replay is not None:
            for slot in self._listed.tolist():
                if slot not in known:
                    begins.setdefault(max(int(self._replay[slot]), self.position), set()).add(slot)
        return tuple(Held(start, tuple(sorted(slots))) for start, slots in sorted(begins.items()))

    def awaited(self) -> set[int]:
        """Returns the numbers of the clusters whose progress would settle something."""
        slots = self._moving["slot"]
        leaving = self._routed[slots] != self._target[slots]
        return {
            *np.unique(self._routed[slots[leaving]]).tolist(),
            *np.unique(self._claims["cluster"]).tolist(),
        }

    def tails(self, committed: OffsetTable) -> set[tuple[int, int]]:
        """Returns (cluster, partition) where only the base fence is not passed and its tail was not read."""
        slots = self._moving["slot"]
        at = self._routed[slots].astype(np.int64)
        leaving = at != self._target[slots]
        cluster = np.concatenate([at[leaving], self._claims["cluster"]])
        slot = np.concatenate([slots[leaving], self._claims["slot"]])
        fence = np.concatenate([self._fence[slots[leaving]], self._claims["fence"]])
        partition = slot % self._partitions[cluster]
        reached = committed.at(cluster, partition)
        stopped = (reached > fence) & (reached <= self.base.fences.at(cluster, partition))
        places = zip(cluster[stopped].tolist(), partition[stopped].tolist(), strict=True)
        return set(places) - self.base.read

    # ------------------------------------------------------------------ what happens

    def change(self, target: Owners, version: int, partitions: Ints, sight: Sight) -> None:
        """Takes up a newer mapping, and advances: an idle slot settles at once."""
        self._partitions = partitions
        changed = np.flatnonzero((target != self._target) & (self._phase == Phase.SETTLED))
        self._target = target
        began = self._new_moves(changed, self.version + 1)
        settings = self._settings
        began["began"] = sight.now
        began["fence"] = self._fence[began["slot"]]
        began["first_due"] = sight.now + settings.first_wait_s
        began["due"] = sight.now + settings.watch_s
        self._phase[began["slot"]] = Phase.WATCH
        self._moving = np.sort(np.concatenate([self._moving, began]), order="slot")
        self.version = version
        self.advance(sight)

    def advance(self, sight: Sight) -> list[float]:
        """Settles, holds and gives up what is due; waking early changes nothing.

        1. Forget claims that are passed. 2. Settle slots with no other member in their set; what
        they held is `released`. 3. Hold those that have been watched long enough. 4. Send back those
        that were held too long. Returns the seconds in hold of each slot that released something.
        Not to be called while something released is still to be sent.
        """
        self._drop_claims(sight)
        if not len(self._moving):
            return []
        left = self._settle(sight)
        moving = self._moving
        watched = self._phase[moving["slot"]] == Phase.WATCH
        unknown = watched & (moving["fence"] == PENDING)
        moving["fence"][unknown] = self._fence[moving["slot"][unknown]]
        late = (moving["first_due"] <= sight.now) & ~self._passed(moving["fence"], sight)
        self._hold(watched & (late | (moving["due"] <= sight.now)), sight.now)
        left += self._give_up(sight)
        self.released.sort(key=lambda request: request.offset)
        return left

    def hold(self, request: HeldRequest) -> None:
        """Keeps one request of a slot in hold."""
        self.held.add(request)

    def decided(self, position: int) -> None:
        """Takes in that everything below `position` was sent, held, skipped or dead-lettered."""
        self.position = position
        if self._replay is not None and position >= self.resumed:
            self._replay, self._listed = None, self._listed[:0]

    def sent(self, slots: Ints) -> None:
        """Takes in that a transaction with requests of these slots is under way."""
        self._fence[slots] = PENDING

    def written(self, slots: Ints, offsets: Ints) -> None:
        """Takes in that it is committed: the last record that each slot's requests may be."""
        self._fence[slots] = offsets

    # ------------------------------------------------------------------ steps

    def _new_moves(self, slots: Ints, since: int) -> npt.NDArray[np.void]:
        moves = np.zeros(len(slots), dtype=MOVING)
        moves["slot"], moves["since"] = slots, since
        return moves

    def _hold(self, which: Bools, now: float) -> None:
        """Puts moving slots into hold, at a batch border."""
        if not which.any():
            return
        moving, slots = self._moving, self._moving["slot"][which]
        self._phase[slots] = Phase.HOLD
        moving["began"][which] = now
        moving["due"][which] = now + self._settings.hold_timeout_s
        begins = self._replay[slots] if self._replay is not None else 0
        moving["from"][which] = np.maximum(begins, self.position)

    def _passed(self, fences: Ints, sight: Sight) -> Bools:
        """Returns bool[moving]: the cluster in use has committed past its fence and its base fence."""
        slots = self._moving["slot"]
        at = self._routed[slots].astype(np.int64)
        return self._past(at, slots, fences, sight)

    def _past(self, cluster: Ints, slot: Ints, fence: Ints, sight: Sight) -> Bools:
        partition = slot % self._partitions[cluster]
        last = np.maximum(fence, self.base.fences.at(cluster, partition))
        passed: Bools = sight.committed.at(cluster, partition) > last
        return passed

    def _drop_claims(self, sight: Sight) -> None:
        claims = self._claims
        if not len(claims):
            return
        passed = self._past(claims["cluster"], claims["slot"], claims["fence"], sight)
        if passed.any():
            self._claims = claims[~passed]
            self._mark_unproven()

    def _mark_unproven(self) -> None:
        """Notes which slots are sent in spite of a claim: a dead cluster was left."""
        slots = self._claims["slot"]
        slots = slots[self._phase[slots] != Phase.HOLD]
        self._unproven = None
        if len(slots):
            self._unproven = np.zeros(len(self._target), dtype=np.bool_)
            self._unproven[slots] = True

    def _settle(self, sight: Sight) -> list[float]:
        """Settles every moving slot whose set is a subset of {target}, a dead cluster excepted."""
        moving = self._moving
        slots = moving["slot"]
        at, target = self._routed[slots].astype(np.int64), self._target[slots].astype(np.int64)
        passed = (at == target) | self._passed(self._fence[slots], sight)
        claims = self._claims[self._claims["cluster"] != self._target[self._claims["slot"]]]
        gone = np.array(sorted(sight.gone), dtype=np.int64)
        firm = claims[~np.isin(claims["cluster"], gone)]
        free = ~np.isin(slots, firm["slot"])
        abandoned = ~passed & np.isin(at, gone) & (self._fence[slots] != PENDING)
        ready = free & (passed | abandoned)
        if not ready.any():
            return []
        left = ready & abandoned
        if left.any():
            new = _claims(slots[left], at[left], self._fence[slots[left]])
            self._claims = np.concatenate([self._claims, new])
        done = slots[ready]
        moved = done[at[ready] != target[ready]]
        self._routed[moved] = self._target[moved]
        self._fence[moved] = NOTHING
        waits = self._release(moving[ready], sight.now)
        self._phase[done] = Phase.SETTLED
        self._moving = moving[~ready]
        if len(self._claims):
            self._own_claims()
            self._mark_unproven()
        return waits

    def _own_claims(self) -> None:
        """Turns claims of the cluster in use into its fence: it is the member that may be sent to."""
        claims = self._claims
        slots = claims["slot"]
        own = (claims["cluster"] == self._routed[slots]) & (self._phase[slots] == Phase.SETTLED)
        np.maximum.at(self._fence, slots[own], claims["fence"][own])
        self._claims = claims[~own]

    def _give_up(self, sight: Sight) -> list[float]:
        """Sends back what was held too long, where the cluster in use is the only member of the set."""
        moving, settings = self._moving, self._settings
        due = (self._phase[moving["slot"]] == Phase.HOLD) & (moving["due"] <= sight.now)
        if not due.any():
            return []
        others = self._claims[self._claims["cluster"] != self._routed[self._claims["slot"]]]
        back = due & ~np.isin(moving["slot"], others["slot"])
        waits = self._release(moving[back], sight.now)
        self._phase[moving["slot"][back]] = Phase.WATCH
        moving["began"][back] = sight.now
        moving["first_due"][back] = moving["due"][back] = sight.now + settings.hold_timeout_s
        moving["due"][due & ~back] = sight.now + settings.hold_timeout_s
        return waits

    def _release(self, moves: npt.NDArray[np.void], now: float) -> list[float]:
        """Hands out what these slots held; returns the seconds in hold of each that held something."""
        if not self.held.count:
            return []
        holding = [move for move in moves.tolist() if self.held.holds(move[SLOT])]
        self._left = {move[SLOT]: move[FROM] for move in holding} | (self._left if self.released else {})
        self.released += self.held.pop(move[SLOT] for move in holding)
        return [now - move[BEGAN] for move in holding]
