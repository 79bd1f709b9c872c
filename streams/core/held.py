"""Requests that wait for their slot: in order per slot, counted, with the oldest offset of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Headers = list[tuple[str, bytes | None]]

ROW_BYTES = 500
"""What one held request takes beside its value and key: a tuple, an entry, headers."""


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """One request, as it will be forwarded."""

    offset: int
    slot: int
    """Global slot."""
    type_name: str
    value: bytes | None
    key: bytes | None
    headers: Headers | None
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Returns the bytes that it keeps in memory, about."""
        return ROW_BYTES + len(self.value or b"") + len(self.key or b"")


class HeldRequests:
    """The held requests of one ingest partition."""

    def __init__(self) -> None:
        self._by_slot: dict[int, list[HeldRequest]] = {}
        self.count = 0
        self.bytes = 0

    @property
    def slots(self) -> list[int]:
        """Returns the global slots that hold something, ascending."""
        return sorted(self._by_slot)

    def add(self, request: HeldRequest) -> None:
        """Keeps a request, the newest of its slot."""
        self._by_slot.setdefault(request.slot, []).append(request)
        self.count += 1
        self.bytes += request.size

    def pop(self, slots: Iterable[int]) -> list[HeldRequest]:
        """Returns and forgets the requests of these slots, by offset."""
        found: list[HeldRequest] = []
        for slot in slots:
            found += self._by_slot.pop(slot, [])
        found.sort(key=lambda request: request.offset)
        self.count -= len(found)
        self.bytes -= sum(request.size for request in found)
        return found

    def holds(self, slot: int) -> bool:
        """Returns whether something of the slot is held."""
        return slot in self._by_slot

    def oldest(self, otherwise: int) -> int:
        """Returns the lowest offset held, `otherwise` where nothing is."""
        return min((requests[0].offset for requests in self._by_slot.values()), default=otherwise)
