"""Held requests: in order per slot, counted, none is dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.core.held import ROW_BYTES, HeldRequest, HeldRequests


def request(offset: int, slot: int, size: int = 0) -> HeldRequest:
    """A request as it is held."""
    return HeldRequest(offset, slot, "t", b"v" * size, None, None, 1)


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.sets(st.integers(0, 5)), max_size=4))
def test_what_is_popped_is_in_order_and_the_rest_stays(slots: list[int], pops: list[set[int]]) -> None:
    """Each request comes out once, by offset over all slots that go together."""
    held = HeldRequests()
    rest = [request(offset, slot, slot) for offset, slot in enumerate(slots)]
    for one in rest:
        held.add(one)
    for chosen in pops:
        assert held.pop(sorted(chosen)) == [one for one in rest if one.slot in chosen]
        rest = [one for one in rest if one.slot not in chosen]
        assert (held.count, held.bytes) == (len(rest), sum(one.size for one in rest))
        assert held.slots == sorted({one.slot for one in rest})
        assert held.oldest(99) == min((one.offset for one in rest), default=99)
        assert [held.holds(slot) for slot in range(6)] == [slot in held.slots for slot in range(6)]


def test_the_size_counts_value_key_and_what_a_row_takes() -> None:
    """None is nothing."""
    assert request(1, 1, 10).size == ROW_BYTES + 10
    assert HeldRequest(1, 1, "t", None, b"key", None, 1).size == ROW_BYTES + 3
