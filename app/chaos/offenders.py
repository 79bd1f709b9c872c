"""Where offending requests were seen: for whoever has to find out why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.chaos.judge import Evidence, Rows, Verdict, first_processings
from app.chaos.traffic import KEYS

AROUND = 400
"""Requests of an offender's key that are listed before and after it, by ingest offset."""


@dataclass(frozen=True)
class Offenders:
    """Shows what the evidence has on the requests that a verdict names."""

    evidence: Evidence
    topics: Sequence[str]
    """Names of the topics as `VISIBLE` counts them."""
    ingest: str

    def sightings(self, verdict: Verdict) -> Iterator[str]:
        """Yields where each of them was asked for, visible and processed: one line per sighting."""
        for what, codes in verdict.offenders.items():
            for code in codes:
                yield f"{what}: id {code >> 32} seq {code & 0xFFFFFFFF}"
                for row in _of(self.evidence.asked, code):
                    yield f"    asked     {self.ingest}[{row['partition']}]@{row['offset']}"
                for row in _of(self.evidence.visible, code):
                    place = f"{self.topics[row['topic']]}[{row['partition']}]@{row['offset']}"
                    yield f"    visible   {place} mapping version {row['version']}"
                for row in _of(self.evidence.processed, code):
                    yield f"    processed {self.topics[row['topic']]} at {row['ns'] / 1e9:.6f} s"

    def histories(self, verdict: Verdict) -> Iterator[str]:
        """Yields the life of their keys around them: every request in ingest order, one line each.

        What an offender's slot did is seen in the topics and mapping versions of its neighbours, those
        of the unordered type included.
        """
        firsts = first_processings(self.evidence.processed)
        asked = self.evidence.asked
        users = (asked["code"] >> np.uint64(32)) % np.uint64(KEYS)
        for what, codes in verdict.offenders.items():
            for code in codes:
                same: Rows = asked[users == (code >> 32) % KEYS]
                same = same[np.lexsort((same["offset"], same["partition"]))]
                place = int(np.argmax(same["code"] == code)) if len(same) else 0
                yield f"\n{what}: id {code >> 32} seq {code & 0xFFFFFFFF}, and its neighbours"
                for row in same[max(0, place - AROUND) : place + AROUND]:
                    yield self._life(row, firsts, " <--" * (int(row["code"]) == code))

    def _life(self, row: np.void, firsts: Rows, mark: str) -> str:
        code = int(row["code"])
        seen = " ".join(
            f"{self.topics[found['topic']]}[{found['partition']}]@{found['offset']} v{found['version']}"
            for found in _of(self.evidence.visible, code)
        )
        place = int(np.searchsorted(firsts["code"], code))
        done = place < len(firsts) and int(firsts["code"][place]) == code
        at = f"{firsts['ns'][place] / 1e9:.6f} s" if done else "never"
        return (
            f"  [{row['partition']}]@{row['offset']} {code >> 32}.{code & 0xFFFFFFFF} {seen} first {at}{mark}"
        )


def _of(rows: Rows, code: int) -> Rows:
    found: Rows = rows[rows["code"] == code]
    return found
