"""The note that a router leaves in the metadata of a committed offset: what its successor must know.

One line of text: `1 <settled> <newest> <position> <rules hash> <held>`. The first word is the
format's version; `held` is `-` or base85 of unsigned varints, group after group of slots: the group's
`from` offset, then its slots in the shorter of two forms. Scattered ones as runs: twice their number,
and of each its gap since the end of the one before, and its length; a thousand fit. Those of few
shards by shard: twice the number of shards and one; of each its gap since the one before and 32
bytes, a bit per slot; so that eighty whole shards fit, in whatever pattern they are released.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from schemas.errors import InvalidRecordError
from schemas.records import SLOTS

NOTE_BYTES = 4095
"""Longest metadata of an offset that a broker takes with its default settings."""

FORMAT = "1"

SHARD_BYTES = 2 + SLOTS // 8
"""Most that one shard of a group takes by shard: its gap, and a bit per slot."""

RUN_BYTES = 3
"""Most that one run takes: a gap below 2^14 and a length; wider gaps are few, for they add up."""

HELD_BYTES = NOTE_BYTES - 300
"""Room for the list of held slots: before it come 64 characters of hash and four numbers."""


@dataclass(frozen=True)
class Held:
    """Slots that entered hold together: nothing of them was forwarded from `from_offset` on."""

    from_offset: int
    slots: tuple[int, ...]
    """Global slots, ascending."""


@dataclass(frozen=True)
class OffsetNote:
    """What is true of one ingest partition once the offset it goes with is committed."""

    settled: int
    """Mapping version up to which no slot of this partition is in motion."""
    newest: int
    """Newest mapping version used: a successor routes nothing before it knows this one."""
    position: int
    """Offset up to which everything was forwarded, dead-lettered or is held."""
    rules_hash: str
    held: tuple[Held, ...] = ()


def encode_note(note: OffsetNote) -> str:
    """Returns the note as ASCII text; ValueError if it is longer than NOTE_BYTES."""
    held = base64.b85encode(b"".join(_group(group) for group in note.held)).decode() if note.held else "-"
    text = f"{FORMAT} {note.settled} {note.newest} {note.position} {note.rules_hash} {held}"
    if len(text) > NOTE_BYTES:
        raise ValueError(f"the note has {len(text)} bytes, over {NOTE_BYTES}: {len(note.held)} groups held")
    return text


def decode_note(text: str | None) -> OffsetNote | None:
    """Returns the note in an offset's metadata, None where there is none (a plain commit erases it)."""
    if not text:
        return None
    words = text.split(" ")
    if words[0] != FORMAT or len(words) != 6:
        raise InvalidRecordError(
            f"offset metadata {text[:60]!r} is not of format {FORMAT}: another program or a newer foreshard "
            "committed this group's offsets; use another group, or upgrade this router"
        )
    try:
        settled, newest, position = (int(word) for word in words[1:4])
        held = () if words[5] == "-" else tuple(_groups(base64.b85decode(words[5])))
    except (ValueError, IndexError) as error:
        raise InvalidRecordError(f"offset metadata {text[:60]!r} cannot be read: {error}") from None
    return OffsetNote(settled, newest, position, words[4], held)


def _group(group: Held) -> bytes:
    start = _varint(group.from_offset)
    return start + min(_flat(group.slots), _by_shard(group.slots), key=len)


def _flat(slots: Sequence[int]) -> bytes:
    runs = list(_runs(slots))
    data = bytearray(_varint(2 * len(runs)))
    end = 0
    for start, stop in runs:
        data += _varint(start - end) + _varint(stop - start)
        end = stop
    return bytes(data)


def _by_shard(slots: Sequence[int]) -> bytes:
    shards = [(shard, list(of_shard)) for shard, of_shard in groupby(slots, lambda slot: slot // SLOTS)]
    data = bytearray(_varint(2 * len(shards) + 1))
    before = -1
    for shard, of_shard in shards:
        data += _varint(shard - before - 1)
        data += sum(1 << slot % SLOTS for slot in of_shard).to_bytes(SLOTS // 8, "little")
        before = shard
    return bytes(data)


def _runs(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields half-open runs of ascending slots: 3, 4, 5, 9 -> (3, 6), (9, 10)."""
    start = stop = -1
    for slot in slots:
        if slot == stop:
            stop += 1
            continue
        if start >= 0:
            yield start, stop
        start, stop = slot, slot + 1
    if start >= 0:
        yield start, stop


def _groups(data: bytes) -> Iterator[Held]:
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(data):
        from_offset = number()
        count, by_shard = divmod(number(), 2)
        slots: list[int] = []
        end = shard = 0
        for _ in range(count):
            if by_shard:
                shard += number()
                bits = int.from_bytes(data[place : place + SLOTS // 8], "little")
                place += SLOTS // 8
                slots.extend(shard * SLOTS + slot for slot in range(SLOTS) if bits >> slot & 1)
                shard += 1
            else:
                start = end + number()
                end = start + number()
                slots.extend(range(start, end))
        yield Held(from_offset, tuple(slots))


def _varint(number: int) -> bytes:
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
