"""The judge finds what was planted, and lets pass what a backend is allowed to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.chaos.judge import ASKED, PROCESSED, VISIBLE, Evidence, Verdict, judge
from app.chaos.offenders import Offenders
from app.chaos.traffic import FIRST_BAD, FIRST_LOG, coded

A, B, LETTERS = 0, 1, 2
"""Two clusters' topics and the dead-letter topic."""
ANN, BOB, LOG, BAD = 7, 8, FIRST_LOG + 7, FIRST_BAD
"""Ids: two ordered keys, the unordered type of the first, and the requests that nobody can route."""

Row = tuple[int, ...]


def code(number: int, seq: int) -> int:
    return int(coded(number, seq))


def evidence_of(asked: Sequence[Row], visible: Sequence[Row], processed: Sequence[Row]) -> Evidence:
    """Returns evidence: asked (id, seq), in partition 0; visible and processed (id, seq, topic), by time."""
    stored = [(code(i, seq), 0, offset, i, 1) for offset, (i, seq) in enumerate(asked)]
    seen = [(code(i, seq), topic, 0, offset, 1, i, 1) for offset, (i, seq, topic) in enumerate(visible)]
    done = [(code(i, seq), 1000 + ns, topic) for ns, (i, seq, topic) in enumerate(processed)]
    return Evidence(
        planned=np.sort(np.array([row[0] for row in stored], dtype=np.uint64)),
        asked=np.array(stored, dtype=ASKED),
        visible=np.array(seen, dtype=VISIBLE),
        processed=np.array(done, dtype=PROCESSED),
        dead_letter=LETTERS,
    )


ASKED_FOR: list[Row] = [(ANN, 0), (BOB, 0), (ANN, 1), (LOG, 0), (BAD, 0), (ANN, 2), (LOG, 1)]
FORWARDED: list[Row] = [(ANN, 0, A), (BOB, 0, A), (ANN, 1, A), (LOG, 0, A), (ANN, 2, B), (LOG, 1, B)]
GOOD = evidence_of(ASKED_FOR, [*FORWARDED, (BAD, 0, LETTERS)], FORWARDED)


def counts(verdict: Verdict) -> dict[str, int]:
    """Returns the counts that are not 0, dead letters aside."""
    names = ("lost", "repeated", "out_of_order", "misplaced", "altered", "unprocessed", "phantom")
    found = {name: getattr(verdict, name) for name in (*names, "not_stored", "processed_again")}
    return {name: count for name, count in found.items() if count}


def visible(*rows: Row) -> Evidence:
    """Returns the good run, but with these records visible."""
    return replace(GOOD, visible=evidence_of(ASKED_FOR, rows, FORWARDED).visible)


def processed(*rows: Row) -> Evidence:
    """Returns the good run, but with these processings in this order."""
    return replace(GOOD, processed=evidence_of(ASKED_FOR, FORWARDED, rows).processed)


def test_a_good_run_has_nothing_against_it() -> None:
    verdict = judge(GOOD)
    assert counts(verdict) == {}
    assert verdict.dead_letters == 1
    assert not verdict.broken
    assert not verdict.void


def test_a_run_in_which_nothing_was_asked_is_judged_too() -> None:
    assert counts(judge(evidence_of([], [], []))) == {}


def test_a_lost_request_is_found_and_named() -> None:
    """(ANN, 1) is in no topic."""
    rows = [row for row in FORWARDED if row[:2] != (ANN, 1)]
    verdict = judge(evidence_of(ASKED_FOR, [*rows, (BAD, 0, LETTERS)], rows))
    assert counts(verdict) == {"lost": 1}
    assert verdict.offenders["lost"] == [code(ANN, 1)]
    assert verdict.broken


def test_a_bad_request_without_a_dead_letter_is_lost() -> None:
    assert counts(judge(visible(*FORWARDED))) == {"lost": 1}


def test_a_request_in_two_topics_is_repeated() -> None:
    verdict = judge(visible(*FORWARDED, (ANN, 2, A), (BAD, 0, LETTERS)))
    assert counts(verdict) == {"repeated": 1}
    assert verdict.offenders["repeated"] == [code(ANN, 2)]


def test_a_request_three_times_in_one_partition_is_repeated_twice() -> None:
    assert judge(visible(*FORWARDED, (LOG, 0, A), (LOG, 0, A), (BAD, 0, LETTERS))).repeated == 2


def test_a_dead_letter_written_twice_is_repeated() -> None:
    assert judge(visible(*FORWARDED, (BAD, 0, LETTERS), (BAD, 0, LETTERS))).repeated == 1


def test_a_good_request_among_the_dead_letters_is_misplaced() -> None:
    rows = [row for row in FORWARDED if row != (BOB, 0, A)]
    verdict = judge(evidence_of(ASKED_FOR, [*rows, (BOB, 0, LETTERS), (BAD, 0, LETTERS)], rows))
    assert counts(verdict) == {"misplaced": 1}


def test_a_bad_request_that_was_forwarded_is_misplaced() -> None:
    rows = [*FORWARDED, (BAD, 0, A)]
    assert counts(judge(evidence_of(ASKED_FOR, rows, rows))) == {"misplaced": 1}


@pytest.mark.parametrize("column", ["digest", "timestamp"])
def test_a_request_forwarded_with_other_bytes_or_another_timestamp_is_altered(column: str) -> None:
    seen = GOOD.visible.copy()
    seen[column][3] += 1
    verdict = judge(replace(GOOD, visible=seen))
    assert counts(verdict) == {"altered": 1}
    assert verdict.broken


def test_a_dead_letter_has_a_timestamp_of_its_own_but_the_same_bytes() -> None:
    seen = GOOD.visible.copy()
    seen["timestamp"][-1] += 1
    assert counts(judge(replace(GOOD, visible=seen))) == {}
    seen["digest"][-1] += 1
    assert counts(judge(replace(GOOD, visible=seen))) == {"altered": 1}


def test_a_request_overtaken_by_its_successor_is_out_of_order() -> None:
    """The new cluster works on (ANN, 2) before the old one has worked on (ANN, 1)."""
    verdict = judge(processed((ANN, 0, A), (ANN, 2, B), (BOB, 0, A), (ANN, 1, A), (LOG, 0, A), (LOG, 1, B)))
    assert counts(verdict) == {"out_of_order": 1}
    assert verdict.offenders["out_of_order"] == [code(ANN, 1)]


def test_every_overtaken_request_counts() -> None:
    """(ANN, 2) comes first: both of the others are late, though they are in order among themselves."""
    rows = [(ANN, 2, B), (ANN, 0, A), (ANN, 1, A), (BOB, 0, A), (LOG, 0, A), (LOG, 1, B)]
    assert counts(judge(processed(*rows))) == {"out_of_order": 2}


def test_keys_are_not_in_order_with_each_other() -> None:
    """BOB's request was asked second and is processed last."""
    rows = [(ANN, 0, A), (ANN, 1, A), (ANN, 2, B), (LOG, 0, A), (LOG, 1, B), (BOB, 0, A)]
    assert counts(judge(processed(*rows))) == {}


def test_the_type_without_an_order_may_come_as_it_likes() -> None:
    rows = [row for row in FORWARDED if row[0] != LOG]
    assert counts(judge(processed((LOG, 1, B), *rows, (LOG, 0, A)))) == {}


def test_order_is_that_of_the_ingest_partition() -> None:
    """The same key in two partitions: no order is promised between them."""
    evidence = processed((ANN, 2, B), (ANN, 0, A), (ANN, 1, A), (BOB, 0, A), (LOG, 0, A), (LOG, 1, B))
    asked = evidence.asked.copy()
    asked["partition"][asked["code"] == code(ANN, 2)] = 1
    assert counts(judge(replace(evidence, asked=asked))) == {}


def test_a_killed_backend_that_repeats_its_own_work_breaks_nothing() -> None:
    """Killed after (ANN, 1) and before its commit, it processes 0 and 1 again, even after (ANN, 2)."""
    repeats = [(ANN, 0, A), (BOB, 0, A), (ANN, 1, A)]
    verdict = judge(processed(*FORWARDED, *repeats))
    assert counts(verdict) == {"processed_again": 3}
    assert not verdict.broken


def test_a_first_processing_that_is_late_is_not_excused_by_an_earlier_repeat_of_another() -> None:
    """Only the repeats of the same request are left out: (ANN, 1) is late in spite of them."""
    rows = [(ANN, 0, A), (ANN, 2, B), (ANN, 0, A), (ANN, 1, A), (BOB, 0, A), (LOG, 0, A), (LOG, 1, B)]
    assert counts(judge(processed(*rows))) == {"out_of_order": 1, "processed_again": 1}


def test_a_backend_that_skipped_a_request_makes_the_run_void() -> None:
    verdict = judge(processed(*FORWARDED[:-1]))
    assert counts(verdict) == {"unprocessed": 1}
    assert verdict.void
    assert not verdict.broken


def test_a_request_processed_that_is_not_visible_is_a_phantom() -> None:
    """A backend was given a record of a transaction that never committed."""
    rows = [row for row in FORWARDED if row[:2] != (ANN, 2)]
    verdict = judge(evidence_of(ASKED_FOR, [*rows, (BAD, 0, LETTERS)], FORWARDED))
    assert counts(verdict) == {"lost": 1, "phantom": 1}


@pytest.mark.parametrize(
    "stored", [ASKED_FOR[:-1], [*ASKED_FOR, ASKED_FOR[0]]], ids=["one is missing", "one is there twice"]
)
def test_producers_that_failed_make_the_run_void(stored: list[Row]) -> None:
    """What is not stored cannot be lost; the run proves nothing."""
    rows = [row for row in FORWARDED if row[:2] in stored]
    letters = [(BAD, 0, LETTERS)]
    planned = evidence_of(ASKED_FOR, [], []).planned
    verdict = judge(replace(evidence_of(stored, [*rows, *letters], rows), planned=planned))
    assert counts(verdict) == {"not_stored": 1}
    assert verdict.void


def test_offenders_are_shown_with_their_places() -> None:
    evidence = visible(*FORWARDED, (ANN, 2, A), (BAD, 0, LETTERS))
    offenders = Offenders(evidence, ["a", "b", "letters"], "requests")
    assert list(offenders.sightings(judge(evidence))) == [
        "repeated: id 7 seq 2",
        "    asked     requests[0]@5",
        "    visible   b[0]@4 mapping version 1",
        "    visible   a[0]@6 mapping version 1",
        "    processed b at 0.000001 s",
    ]


def test_an_offender_is_shown_among_the_requests_of_its_user() -> None:
    """The unordered type's too: they share the slot. BOB's are not there."""
    evidence = visible(*FORWARDED, (ANN, 2, A), (BAD, 0, LETTERS))
    lines = list(Offenders(evidence, ["a", "b", "letters"], "requests").histories(judge(evidence)))
    assert lines == [
        "\nrepeated: id 7 seq 2, and its neighbours",
        "  [0]@0 7.0 a[0]@0 v1 first 0.000001 s",
        "  [0]@2 7.1 a[0]@2 v1 first 0.000001 s",
        "  [0]@3 2007.0 a[0]@3 v1 first 0.000001 s",
        "  [0]@5 7.2 b[0]@4 v1 a[0]@6 v1 first 0.000001 s <--",
        "  [0]@6 2007.1 b[0]@5 v1 first 0.000001 s",
    ]
