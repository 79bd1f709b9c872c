"""The note in the offset metadata: what is written is what is read, and it fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidRecordError
from schemas.records import MAX_SHARDS, SLOTS
from streams.core.offset_note import NOTE_BYTES, Held, OffsetNote, decode_note, encode_note

HASH = "e3" * 32

offsets = st.integers(0, 2**62)
slots = st.sets(st.integers(0, MAX_SHARDS * SLOTS - 1), min_size=1, max_size=40)
held = st.builds(lambda start, some: Held(start, tuple(sorted(some))), offsets, slots)
notes = st.builds(
    OffsetNote,
    settled=offsets,
    newest=offsets,
    position=offsets,
    rules_hash=st.just(HASH),
    held=st.lists(held, max_size=4).map(tuple),
)


@given(notes)
def test_decoding_gives_back_what_was_encoded(note: OffsetNote) -> None:
    """For any versions, offsets and held slots."""
    text = encode_note(note)
    assert text.isascii()
    assert decode_note(text) == note


def test_no_metadata_is_no_note() -> None:
    """A plain commit or an offset reset erases the note."""
    assert decode_note(None) is None
    assert decode_note("") is None


def test_a_note_with_nothing_held_is_short() -> None:
    """It is written with every transaction."""
    assert encode_note(OffsetNote(7, 7, 12, HASH)) == f"1 7 7 12 {HASH} -"


def test_a_thousand_scattered_slots_fit() -> None:
    """As many as a plan may move at once, in eight groups, spread over 4,096 shards."""
    step = MAX_SHARDS * SLOTS // 1_000
    scattered = [number * step for number in range(1_000)]
    groups = tuple(Held(10**12 + number, tuple(scattered[number::8])) for number in range(8))
    note = OffsetNote(10**6, 10**6, 10**12, HASH, groups)
    assert len(encode_note(note)) <= NOTE_BYTES
    assert decode_note(encode_note(note)) == note


def test_a_note_that_is_too_long_is_refused_before_the_broker_does() -> None:
    """The broker would abort the transaction."""
    everything = Held(0, tuple(range(0, MAX_SHARDS * SLOTS, 2)))
    with pytest.raises(ValueError, match=f"over {NOTE_BYTES}"):
        encode_note(OffsetNote(0, 0, 0, HASH, (everything,)))


@pytest.mark.parametrize("text", ["2 0 0 0 x -", "hello", "1 a 0 0 x -", "1 0 0 0 x !!\x7f", "1 0 0 0 x 00"])
def test_metadata_of_another_program_is_an_error_that_shows_it(text: str) -> None:
    """Taking it for no note could repeat requests."""
    with pytest.raises(InvalidRecordError, match="offset metadata"):
        decode_note(text)
