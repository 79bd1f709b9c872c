"""Trust in announcements: learned per kind from what events really did."""

from __future__ import annotations

import json

import numpy as np
import pytest

from schemas.records import Event, EventKey
from streams.core.events import EventBook
from streams.core.steps import STEP_S
from streams.core.trust import FIRST_MEAN, Effect, Kind, Trust
from tests.core.test_events import RULES

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
RPS = 20.0
NO_USUAL = np.full((3, 16), np.nan)


class Course:
    """Steps of load in which announced events come true by a factor of their own."""

    def __init__(self, seed: int = 1) -> None:
        self.book = EventBook(RULES, ())
        self.rng = np.random.default_rng(seed)
        self.truth: dict[str, float] = {}
        self.usual = NO_USUAL
        self.time = 0.0

    def announce(self, event: Event, kappa: float) -> None:
        self.book.add(event)
        self.truth[event.id] = kappa

    def expected(self) -> Floats:
        """Requests of the step that begins now, with the events as they really are."""
        times = self.time + STEP_S * (np.arange(6) + 0.5) / 6
        base = np.full((3, 16), RPS * STEP_S / 16)
        for event in self.book.all():
            kappa = self.truth[event.id]
            placed = self.book._placed[event.id]
            if event.requests_per_s:
                placed_at = self.book._scope(placed, np.arange(48.0).reshape(3, 16)).astype(int).ravel()
                flat = base.ravel()
                flat[placed_at] += kappa * placed.effect(times, STEP_S).added / len(placed_at)
                base = flat.reshape(3, 16)
            elif placed.series:
                base[self.book._rows(placed)] *= np.exp(kappa * placed.effect(times, STEP_S).factor)
            else:
                shards = sorted({shard for _, shard, _ in placed.keys})
                base[:, shards] *= np.exp(kappa * placed.effect(times, STEP_S).factor)
        return base

    def run(self, until: float) -> None:
        while self.time < until:
            counts = self.rng.poisson(self.expected()).astype(np.float64)
            self.book.learn(self.time, STEP_S, counts, self.usual, NO_USUAL)
            self.time += STEP_S


def campaign(number: int, start: float, **fields: object) -> Event:
    usual = {"types": ["order"], "uplift": 3.0}
    return Event.model_validate(
        {"id": f"e{number}", "kind": "campaign", "start": start, "end": start + 1800} | (fields or usual)
    )


SCOPES = [
    {"types": ["order"], "uplift": 3.0},
    {"types": ["order", "view"], "requests_per_s": 60.0},
    {"keys": [EventKey(type="order", values=["acme", 7])], "uplift": 4.0},
    {"keys": [EventKey(type="order", values=["acme", 7])], "requests_per_s": 30.0},
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kappa", [0.5, 1.3])
def test_a_kind_learns_from_its_events(scope: dict[str, object], kappa: float) -> None:
    """Nine events, relative or absolute, on types or keys, all of them as strong as kappa says."""
    course = Course()
    for number in range(9):
        course.announce(campaign(number, 4000.0 + 7200 * number, **scope), kappa)
    course.run(4000.0 + 7200 * 9)
    assert course.book.trust.kind(campaign(9, 0.0)).mean == pytest.approx(kappa, abs=0.12)
    assert not course.book.trust.tracks
    assert course.book.trust.kind(campaign(9, 0.0, types=["view"], uplift=2.0)).variance < 0.1


def test_an_event_is_followed_while_it_is_on() -> None:
    """Announced x 3, came with half of it (log): after five minutes that is known, and deflated by."""
    course = Course()
    event = campaign(1, 4000.0)
    course.announce(event, 0.5)
    assert course.book.trust.kappa(event) == FIRST_MEAN
    course.run(4300.0)
    assert course.book.trust.kappa(event) == pytest.approx(0.5, abs=0.2)
    course.run(4900.0)
    assert course.book.trust.kappa(event) == pytest.approx(0.5, abs=0.1)
    base = course.book.deflate(course.time, STEP_S, course.expected())
    assert base[0].sum() == pytest.approx(RPS * STEP_S, rel=0.1)


def test_less_room_is_made_the_better_an_event_is_known() -> None:
    """.3 more than expected of a first one, less of a kind that is known, hardly any once it is watched."""
    course = Course()

    def more(event: Event) -> float:
        return course.book.trust.cautious(event) - course.book.trust.kappa(event)

    first, last = campaign(0, 4000.0, **SCOPES[3]), campaign(4, 4000.0 + 7200 * 4, **SCOPES[3])
    before = more(first)
    for number in range(5):
        course.announce(campaign(number, 4000.0 + 7200 * number, **SCOPES[3]), 1.0)
    course.run(last.start - 600)
    assert more(last) < 0.7 * before
    course.run(last.start + 600)
    assert more(last) < 0.2 * before
    course.run(last.end + 900)
    assert more(last) == 0.0


def test_an_event_that_did_not_happen_teaches_little() -> None:
    """A cancelled campaign: its own kappa falls to nothing, its kind is believed as before."""
    course = Course()
    for number in range(4):
        course.announce(campaign(number, 4000.0 + 7200 * number), 1.0)
    course.run(4000.0 + 7200 * 4)
    before = course.book.trust.kind(campaign(9, 0.0)).mean
    cancelled = campaign(7, course.time + 4000)
    course.announce(cancelled, 0.0)
    course.run(cancelled.start + 1200)
    assert course.book.trust.kappa(cancelled) < 0.15
    course.run(cancelled.end + 1200)
    assert course.book.trust.kind(cancelled).mean == before


def test_two_events_at_once_are_told_apart() -> None:
    """A strong one and one that does not come, on the same type, half an hour apart."""
    course = Course()
    strong, none = campaign(1, 4000.0), campaign(2, 4900.0)
    course.announce(strong, 1.0)
    course.announce(none, 0.0)
    course.run(5700.0)
    assert course.book.trust.kappa(strong) == pytest.approx(1.0, abs=0.25)
    assert course.book.trust.kappa(none) < 0.3


def test_the_usual_change_of_the_day_is_not_the_events_doing() -> None:
    """The load doubles as on every day while an event is on that does not come."""
    course = Course()
    event = campaign(1, 4000.0)
    course.announce(event, 0.0)
    while course.time < 5500.0:
        rise = 1.0 + min(max((course.time - 3900.0) / 600.0, 0.0), 1.0)
        counts = course.rng.poisson(course.expected() * rise).astype(np.float64)
        course.book.learn(course.time, STEP_S, counts, np.full((3, 16), rise), NO_USUAL)
        course.time += STEP_S
    assert course.book.trust.kappa(event) < 0.2


def test_an_event_announced_while_it_is_on_is_taken_at_its_word() -> None:
    """Nothing is known of the load before: kappa stays near what is thought of the kind."""
    course = Course()
    course.time = 4600.0
    event = campaign(1, 4000.0)
    course.announce(event, 1.0)
    course.run(5200.0)
    assert course.book.trust.kappa(event) == pytest.approx(1.0, abs=0.3)


def test_withdrawn_events_are_forgotten() -> None:
    """A tombstone in mid-event; nothing is left of it."""
    course = Course()
    course.announce(campaign(1, 4000.0), 1.0)
    course.run(4600.0)
    course.book.withdraw("e1")
    assert course.book.trust == Trust()


def test_a_successor_goes_on_exactly() -> None:
    """Through JSON, in mid-event."""
    one, other = Course(seed=3), Course(seed=3)
    for course in (one, other):
        course.announce(campaign(1, 4000.0), 0.7)
        course.run(4600.0)
    other.book.trust = Trust.from_json(json.loads(json.dumps(other.book.trust.to_json())))
    for course in (one, other):
        course.run(8000.0)
    assert one.book.trust == other.book.trust
    assert one.book.trust.settled["e1"] == pytest.approx(0.7, abs=0.15)


def test_effects_in_logs() -> None:
    """A factor is its own size; requests that are added count less the more there are."""
    assert Effect(factor=0.5).at(3.0, 2.0) == (4.0, 1.0, 0.5)
    added = Effect(added=100.0)
    value, by_level, by_kappa = added.at(np.log(100.0), 1.0)
    assert (value, by_level, by_kappa) == pytest.approx((np.log(200.0), 0.5, 0.5))
    assert added.size(np.log(300.0)) == pytest.approx(np.log(4 / 3))


def test_a_kind_is_never_certain() -> None:
    """After a hundred equal events a different one still moves the mean."""
    kind = Kind()
    for _ in range(100):
        kind.learn(1.0, 0.01)
    kind.learn(0.5, 0.01)
    assert 0.85 < kind.mean < 0.99
