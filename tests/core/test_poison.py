"""The hunt for a record that the broker refuses, against a broker that refuses some."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadRequest
from streams.core.poison import UNLIMITED, Keep, Place, PoisonHunt

BATCH = 1_000
RECORDS = 3_000


def run(poison: set[int], refused_as_letter: dict[int, int]) -> tuple[dict[Place, Keep], int]:
    """Routes RECORDS records past a broker that refuses `poison`; returns dead letters and failures.

    `refused_as_letter`: how many dead letters of a record are refused as well.
    """
    hunt = PoisonHunt()
    position, failures = 0, 0
    dead: dict[Place, Keep] = {}
    while position < RECORDS:
        places = [(0, offset) for offset in range(position, min(position + min(BATCH, hunt.cap), RECORDS))]
        letters = {place: hunt.condemned[place].keep for place in places if place in hunt.condemned}
        bad = [place for place in places if place[1] in poison and place not in letters]
        bad += [place for place, keep in letters.items() if keep < refused_as_letter.get(place[1], 0)]
        if bad:
            failures += 1
            assert failures < 100 * (len(poison) + 1)
            assert hunt.refused(places, BadRequest.TOO_LARGE, "too large")
            continue
        position = places[-1][1] + 1
        dead |= letters
        hunt.committed(len(places), {0: position})
    return dead, failures


@given(st.sets(st.integers(0, RECORDS - 1), max_size=5), st.integers(0, 2))
def test_exactly_the_poison_is_condemned(poison: set[int], refused: int) -> None:
    """Wherever it is, and however often its dead letter is refused as well."""
    dead, _ = run(poison, dict.fromkeys(poison, refused))
    assert dead == {(0, offset): Keep(refused) for offset in poison}


def test_one_poison_record_is_found_in_a_logarithm_of_the_batch() -> None:
    """2 for the first halving, then one per halving and per half that was clean."""
    _, failures = run({777}, {})
    assert failures <= 2 + 10


def test_a_single_refusal_changes_nothing() -> None:
    """A batch is halved only when it was refused twice."""
    hunt = PoisonHunt()
    assert hunt.refused([(0, 1), (0, 2)], BadRequest.TOO_LARGE, "")
    assert hunt.cap == UNLIMITED
    hunt.committed(2, {0: 3})
    assert hunt.refused([(0, 3), (0, 4)], BadRequest.TOO_LARGE, "")
    assert (hunt.cap, hunt.condemned) == (UNLIMITED, {})


def test_a_letter_refused_down_to_our_headers_has_no_way_forward() -> None:
    """Then the dead-letter topic itself is unusable, and the router must say so."""
    hunt = PoisonHunt()
    answers = [hunt.refused([(0, 1)], BadRequest.TOO_LARGE, "") for _ in range(4)]
    assert answers == [True, True, True, False]


def test_what_another_router_reads_now_is_forgotten() -> None:
    """It will find the poison itself."""
    hunt = PoisonHunt()
    hunt.refused([(0, 1)], BadRequest.TOO_LARGE, "")
    hunt.refused([(1, 1)], BadRequest.TOO_LARGE, "")
    hunt.forget([0])
    assert list(hunt.condemned) == [(1, 1)]
