"""Finding the one record that the broker refuses, so that it stops nothing.

A transaction that the broker refuses twice is retried with half as many records, and so on until
one record alone is refused: it is condemned to the dead-letter topic. Then batches grow again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from schemas.errors import BadRequest

Place = tuple[int, int]
"""(ingest partition, offset) of a record."""

UNLIMITED = 1 << 30


class Keep(IntEnum):
    """How much of a condemned record goes to the dead-letter topic: less each time it is refused."""

    ALL = 0
    NO_VALUE = 1
    OUR_HEADERS = 2


@dataclass(frozen=True)
class Condemned:
    """A record that the broker refused, and why."""

    bad: BadRequest
    reason: str
    keep: Keep = Keep.ALL


class PoisonHunt:
    """Counts refused transactions; `cap` is how many records the next batch may have."""

    def __init__(self) -> None:
        self.cap = UNLIMITED
        self.condemned: dict[Place, Condemned] = {}
        self._in_a_row = 0
        self._suspects = 0
        """Records that may still hide the poison; 0 when nothing is hunted."""

    def refused(self, places: Sequence[Place], bad: BadRequest, reason: str) -> bool:
        """Takes in a refused transaction; returns whether a way forward is left."""
        self._in_a_row += 1
        if len(places) == 1:
            return self._condemn(places[0], bad, reason)
        if self._suspects or self._in_a_row >= 2:
            self.cap = max(1, len(places) // 2)
            self._suspects = max(self._suspects, len(places))
        return True

    def _condemn(self, place: Place, bad: BadRequest, reason: str) -> bool:
        known = self.condemned.get(place)
        if known is None:
            self.condemned[place] = Condemned(bad, reason)
        elif known.keep is Keep.OUR_HEADERS:
            return False
        else:
            self.condemned[place] = Condemned(known.bad, known.reason, Keep(known.keep + 1))
        return True

    def committed(self, records: int, offsets: Mapping[int, int]) -> None:
        """Takes in a committed transaction of so many records, with the next offset per partition."""
        self._in_a_row = 0
        found = [place for place in self.condemned if place[1] < offsets.get(place[0], 0)]
        for place in found:
            del self.condemned[place]
        if self.cap == UNLIMITED:
            return
        self._suspects = 0 if found else max(0, self._suspects - records)
        if not self._suspects:
            self.cap = min(self.cap * 2, UNLIMITED)

    def forget(self, partitions: Iterable[int]) -> None:
        """Drops what is known of partitions that another router has now."""
        gone = set(partitions)
        self.condemned = {place: why for place, why in self.condemned.items() if place[0] not in gone}
