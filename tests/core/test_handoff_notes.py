"""What a handoff writes beside its committed offset: always true, and never longer than a broker takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.core.fences import OffsetTable
from streams.core.handoff import CLAIM, Base, Handoff, HandoffSettings, Sight, Start
from streams.core.held import HeldRequest
from streams.core.offset_note import NOTE_BYTES, Held, OffsetNote, decode_note, encode_note

HASH = "f" * 64
SETTINGS = HandoffSettings()
SLOTS_OF_100_SHARDS = 100 * 256
"""More than a note can list."""


def request(offset: int, slot: int) -> HeldRequest:
    """A request as it is held."""
    return HeldRequest(offset, slot, "t", b"v", b"k", None, 1)


class Machine:
    """One ingest partition whose slots are all in hold, on their way from cluster 0 to cluster 1."""

    def __init__(self, slots: int, outputs: int) -> None:
        self.partitions = np.array([outputs, outputs])
        self.committed = OffsetTable()
        start = Start(0, None, np.zeros(0, dtype=CLAIM), Base())
        target = np.zeros(slots, dtype=np.uint16)
        self.handoff = handoff = Handoff(SETTINGS, self.partitions, target, 1, start, 0.0)
        everything = np.arange(slots)
        handoff.sent(everything)
        handoff.written(everything, np.full(slots, 10))
        handoff.decided(slots)
        handoff.change(np.ones(slots, dtype=np.uint16), 2, self.partitions, self.sight(0.0))
        handoff.advance(self.sight(SETTINGS.first_wait_s))

    def sight(self, now: float) -> Sight:
        """What is known at `now`."""
        return Sight(now, self.committed)

    def hold(self, slots: list[int]) -> list[int]:
        """Holds one request of as many of these slots as fit; returns them."""
        handoff = self.handoff
        fitting = slots[: handoff.fitting(slots)]
        for number, slot in enumerate(fitting):
            handoff.hold(request(handoff.position + number, slot))
        handoff.decided(handoff.position + len(fitting))
        return fitting

    def drain(self, output: int) -> None:
        """Cluster 0 commits everything in an output partition: what was held of it is released."""
        self.committed.set(0, output, 11)
        self.handoff.advance(self.sight(1.0))

    def note(self) -> OffsetNote:
        """The note, as a successor reads it."""
        found = decode_note(encode_note(self.handoff.note(HASH)[1]))
        assert found is not None
        return found


@pytest.mark.parametrize("outputs", [2, 3, 12])
def test_a_note_stays_within_its_limit_whichever_output_partition_drains_first(outputs: int) -> None:
    """Neighbours are one run until every second one is released: then the list is at its longest."""
    machine = Machine(SLOTS_OF_100_SHARDS, outputs)
    held = machine.hold(list(range(SLOTS_OF_100_SHARDS)))
    assert 28 * 256 < len(held) < SLOTS_OF_100_SHARDS
    assert machine.note().held == (Held(SLOTS_OF_100_SHARDS, tuple(held)),)
    for output in [*range(0, outputs, 2), *range(1, outputs, 2)]:
        machine.drain(output)
        assert len(encode_note(machine.handoff.note(HASH)[1])) <= NOTE_BYTES
        machine.handoff.released = machine.handoff.released[len(machine.handoff.released) // 2 :]
        assert len(encode_note(machine.handoff.note(HASH)[1])) <= NOTE_BYTES
        machine.handoff.released = []
    assert machine.note().held == ()


def taken_over(machine: Machine, held: list[int]) -> Handoff:
    """A successor begins to read again what the machine has held."""
    position, note = machine.handoff.note(HASH)
    claims = np.zeros(len(held), dtype=CLAIM)
    claims["slot"], claims["cluster"], claims["fence"] = sorted(held), 0, 10
    target = np.ones(SLOTS_OF_100_SHARDS, dtype=np.uint16)
    machine.committed = OffsetTable()
    start = Start(position, note, claims, Base())
    machine.handoff = Handoff(SETTINGS, machine.partitions, target, 2, start, 0.0)
    return machine.handoff


@pytest.mark.parametrize("outputs", [2, 3, 12])
def test_the_note_of_a_successor_in_mid_replay_stays_within_its_limit(outputs: int) -> None:
    """It lists what it holds itself, what it has released, and what it has not come to: of every shard."""
    machine = Machine(SLOTS_OF_100_SHARDS, outputs)
    shards = 29
    order = sorted(range(shards * 256), key=lambda slot: (slot % 7, slot))
    assert machine.hold(order) == order
    handoff = taken_over(machine, order)
    assert machine.hold(order[: len(order) * 4 // 7])
    for output in range(0, outputs, 2):
        machine.drain(output)
    handoff.released = handoff.released[len(handoff.released) // 2 :]
    assert len({group.from_offset for group in machine.note().held}) == 3
    assert {slot for group in machine.note().held for slot in group.slots} == set(order)


def test_what_a_predecessor_held_can_be_held_again_however_long_its_list() -> None:
    """Batch by batch: by one that dies half-way, so that its list has two groups, and by another."""
    machine = Machine(SLOTS_OF_100_SHARDS, 12)
    held = machine.hold(sorted(range(29 * 256), key=lambda slot: (slot % 7, slot)))
    for part in (len(held) // 2, len(held)):
        taken_over(machine, held)
        for start in range(0, part, 500):
            batch = held[start : min(part, start + 500)]
            assert machine.hold(batch) == batch
    assert machine.note().position == machine.handoff.position


def test_a_successor_that_holds_nothing_reads_on_however_long_the_list() -> None:
    """Paused for want of memory in mid-replay: the list gets shorter only by reading."""
    machine = Machine(SLOTS_OF_100_SHARDS, 12)
    held = machine.hold(list(range(SLOTS_OF_100_SHARDS)))
    handoff = taken_over(machine, held)
    machine.hold(held[:500])
    assert not handoff.note_has_room()
    for output in range(12):
        machine.drain(output)
    assert not handoff.note_has_room()
    handoff.released = []
    assert handoff.note_has_room()


def test_a_partition_is_full_until_half_of_its_list_is_free() -> None:
    """So it does not stop and go at every single request; scattered slots take room shard by shard."""
    machine = Machine(SLOTS_OF_100_SHARDS, 4)
    held = machine.hold(list(range(0, SLOTS_OF_100_SHARDS, 15)))
    more = SLOTS_OF_100_SHARDS - 1
    assert machine.handoff.fitting([more]) == 0
    assert not machine.handoff.note_has_room()
    for output, room in ((0, False), (1, False), (2, True)):
        machine.drain(output)
        machine.handoff.released = []
        assert machine.handoff.fitting([more]) == 1
        assert machine.handoff.note_has_room() is room
    assert len(machine.handoff.held.slots) > len(held) * 0.2


def test_slots_that_hold_something_already_take_no_more_room() -> None:
    """Any number of requests of the same slots."""
    machine = Machine(SLOTS_OF_100_SHARDS, 4)
    held = machine.hold(list(range(SLOTS_OF_100_SHARDS)))
    assert machine.handoff.fitting(held * 3) == 3 * len(held)
    assert machine.handoff.fitting([*held, held[-1] + 1, 0]) == len(held)


@settings(max_examples=30)
@given(st.data())
def test_whatever_is_held_and_released_the_note_fits_and_is_true(data: st.DataObject) -> None:
    """Scattered slots, in several groups: what it lists is what is held or waits to be sent."""
    machine = Machine(2_048, 5)
    handoff = machine.handoff
    stride = data.draw(st.integers(1, 7))
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, 500))
        machine.hold(list(range(first, 2_048, stride)))
        handoff.decided(handoff.position + 1)
    for output in data.draw(st.permutations(range(5))):
        machine.drain(output)
        handoff.released = handoff.released[data.draw(st.integers(0, len(handoff.released))) :]
        waiting = {one.slot for one in handoff.released} | set(handoff.held.slots)
        assert {slot for group in machine.note().held for slot in group.slots} == waiting
        handoff.released = []
