"""The judge: compares what was asked for, what is visible and what was processed. Pure, and able to fail.

It knows nothing of mappings, routers or handoffs. `asked` is the ingest topic as it is stored,
`visible` what an independent read_committed reader finds in the clusters' topics and in the
dead-letter topic, `processed` what backends wrote down, each row with the time of the machine's one
monotonic clock. A backend that was killed between processing and commit repeats its own work: only
the first processing of a request counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from app.chaos.traffic import FIRST_BAD, FIRST_LOG, Ids

CONTENT = [("digest", "<u4"), ("timestamp", "<i8")]
"""Of a record: a checksum of its key, value and headers but ours, and its Kafka timestamp, ms."""
ASKED = np.dtype([("code", "<u8"), ("partition", "<u4"), ("offset", "<u8"), *CONTENT])
"""A record of the ingest topic; `code` is (id, seq) as `traffic.coded` makes it."""
VISIBLE = np.dtype(
    [
        *(("code", "<u8"), ("topic", "<u4"), ("partition", "<u4"), ("offset", "<u8"), ("version", "<u4")),
        *CONTENT,
    ]
)
"""A record that the reader found: index of the topic, and the mapping version in its header (0: none)."""
PROCESSED = np.dtype([("code", "<u8"), ("ns", "<u8"), ("topic", "<u4")])
"""One processing of a request by a backend of that topic."""

Rows = np.ndarray[tuple[int], np.dtype[np.void]]

SHOWN = 5
"""Offending requests that are named of each kind."""


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run."""

    planned: Ids
    """Codes of the requests that the producers were to send."""
    asked: Rows
    visible: Rows
    processed: Rows
    dead_letter: int
    """Index of the dead-letter topic in `visible`."""


@dataclass
class Verdict:
    """How many requests broke which promise; `offenders` names some of each, by code."""

    lost: int = 0
    """Stored, but in no topic of a cluster, nor a dead letter."""
    repeated: int = 0
    """Visible once more than once."""
    out_of_order: int = 0
    """First processed after a later one of the same key and ingest partition."""
    misplaced: int = 0
    """A good one among the dead letters, or a bad one that was forwarded."""
    altered: int = 0
    """Forwarded with another key, value, header or timestamp; dead letters have a timestamp of their own."""
    unprocessed: int = 0
    """Visible, but no backend wrote it down: the backends of the run have failed, or did not finish."""
    phantom: int = 0
    """Processed, but not visible: something that was never committed was delivered."""
    not_stored: int = 0
    """Missing in the ingest topic, or twice in it: the producers of the run have failed."""
    dead_letters: int = 0
    processed_again: int = 0
    """Processings beyond the first: allowed to a backend that was killed."""
    offenders: dict[str, list[int]] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether a promise of foreshard was broken."""
        wrong = (self.misplaced, self.altered, self.phantom)
        return bool(self.lost or self.repeated or self.out_of_order or any(wrong))

    @property
    def void(self) -> bool:
        """Whether the run proves nothing, because what surrounds foreshard did not do its part."""
        return bool(self.unprocessed or self.not_stored)


def judge(evidence: Evidence) -> Verdict:
    """Returns the verdict on a run."""
    verdict = Verdict()
    asked: Ids = np.sort(evidence.asked["code"])
    stored: Ids = _unique(asked)
    visible: Ids = np.sort(evidence.visible["code"])
    seen: Ids = _unique(visible)
    _charge(verdict, "not_stored", np.setxor1d(stored, evidence.planned), len(asked) - len(stored))
    _charge(verdict, "lost", np.setdiff1d(stored, seen, assume_unique=True))
    twice: Ids = visible[1:][visible[1:] == visible[:-1]]
    _charge(verdict, "repeated", twice)
    letters = evidence.visible["topic"] == evidence.dead_letter
    verdict.dead_letters = int(letters.sum())
    ids = evidence.visible["code"] >> np.uint64(32)
    _charge(verdict, "misplaced", evidence.visible["code"][letters != (ids >= FIRST_BAD)])
    _charge(verdict, "altered", altered(evidence, letters))
    firsts = first_processings(evidence.processed)
    verdict.processed_again = len(evidence.processed) - len(firsts)
    forwarded: Ids = _unique(np.sort(evidence.visible["code"][~letters]))
    _charge(verdict, "unprocessed", np.setdiff1d(forwarded, firsts["code"], assume_unique=True))
    _charge(verdict, "phantom", np.setdiff1d(firsts["code"], forwarded, assume_unique=True))
    _charge(verdict, "out_of_order", out_of_order(evidence.asked, firsts))
    return verdict


def altered(evidence: Evidence, letters: npt.NDArray[np.bool_]) -> Ids:
    """Returns the codes of visible records that are not what was asked."""
    known, place, found = _matched(evidence.asked, evidence.visible["code"])
    seen, source = evidence.visible[found], known[place[found]]
    late = (seen["timestamp"] != source["timestamp"]) & ~letters[found]
    codes: Ids = seen["code"][late | (seen["digest"] != source["digest"])]
    return codes


def first_processings(processed: Rows) -> Rows:
    """Returns the earliest row of each request, by code; at the same time the first of `processed`."""
    order = np.lexsort((processed["ns"], processed["code"]))
    ranked = processed[order]
    first = np.ones(len(ranked), dtype=bool)
    first[1:] = ranked["code"][1:] != ranked["code"][:-1]
    return ranked[first]


def out_of_order(asked: Rows, firsts: Rows) -> Ids:
    """Returns the codes of ordered requests first processed after a later one of their key and partition.

    Later = at a higher offset of the ingest topic. Offsets 10, 11, 12 processed as 11, 12, 10: one, the 10.
    """
    ordered = firsts[(firsts["code"] >> np.uint64(32)) < FIRST_LOG]
    known, place, found = _matched(asked, ordered["code"])
    ordered, source = ordered[found], known[place[found]]
    key = ordered["code"] >> np.uint64(32)
    by_time = np.lexsort((ordered["ns"], source["partition"], key))
    group = (key[by_time] << np.uint64(8)) | source["partition"][by_time]
    # One running maximum for all keys: a key's place is in the upper bits, so it starts anew with each.
    _, rank = np.unique(group, return_inverse=True)
    combined = (rank.astype(np.uint64) << np.uint64(40)) | source["offset"][by_time]
    late = combined < np.maximum.accumulate(combined)
    codes: Ids = ordered["code"][by_time][late]
    return codes


def _matched(asked: Rows, codes: Ids) -> tuple[Rows, npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Returns `asked` by code without repeats, each code's place in it, and whether it is there."""
    known: Rows = asked[np.argsort(asked["code"], kind="stable")]
    known = known[np.concatenate(([True], known["code"][1:] != known["code"][:-1]))[: len(known)]]
    place = np.searchsorted(known["code"], codes)
    place[place == len(known)] = 0
    found = known["code"][place] == codes if len(known) else np.zeros(len(codes), dtype=bool)
    return known, place, found


def _unique(ranked: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns sorted values without repeats."""
    return ranked[np.concatenate(([True], ranked[1:] != ranked[:-1]))[: len(ranked)]]


def _charge(verdict: Verdict, name: str, codes: npt.NDArray[Any], more: int = 0) -> None:
    """Writes the number of codes, and some of them, into the verdict."""
    setattr(verdict, name, len(codes) + more)
    if len(codes):
        verdict.offenders[name] = [int(code) for code in codes[:SHOWN]]
