"""Announced events: scopes, shapes, what is refused, and that learning takes out what forecasts put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidRecordError
from schemas.records import SLOTS, Event, EventKey
from streams.core.events import EventBook
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.trust import CAUTION, EVENT_SD, FIRST_SD, Trust

RULES = KeyRules(
    shards=16,
    type_from=(parse_field("header:type"),),
    types=(
        RequestType("order", (parse_field("json:tenant"), parse_field("json:user")), cost=2.0),
        RequestType("view", (parse_field("json:user"),)),
        RequestType("import", (parse_field("json:tenant"),), cost=5.0),
    ),
)
START, END = 10_000.0, 12_000.0
MIDDLE = np.array([11_000.0])
BEFORE = np.array([9_000.0])


def event(**fields: Any) -> Event:
    """An event from START to END, named e1 unless said otherwise."""
    usual: dict[str, Any] = {"id": "e1", "kind": "campaign", "start": START, "end": END}
    return Event(**(usual | fields))


def book(*events: Event) -> EventBook:
    made = EventBook(RULES, {"c1": None, "c2": None})
    for one in events:
        made.add(one)
    return made


def key(type_name: str, *values: str | int | bool) -> EventKey:
    return EventKey(type=type_name, values=list(values))


def test_uplift_multiplies_its_types_only() -> None:
    """1.5 on orders during the event, 1 before it and for other types."""
    events = book(event(types=["order"], uplift=1.5))
    assert events.uplift("order", MIDDLE)[0] == pytest.approx(1.5)
    assert events.uplift("order", BEFORE)[0] == 1.0
    assert events.uplift("view", MIDDLE)[0] == 1.0


def test_overlapping_uplifts_multiply() -> None:
    """Two campaigns on one type: their effects add in log space."""
    events = book(event(types=["order"], uplift=1.5), event(id="e2", types=["order", "view"], uplift=2.0))
    assert events.uplift("order", MIDDLE)[0] == pytest.approx(3.0)


def test_a_small_uplift_is_ignored() -> None:
    """5 % cannot be told from noise."""
    events = book(event(types=["order"], uplift=1.05), event(id="e2", keys=[key("view", "u")], uplift=1.02))
    assert events.uplift("order", MIDDLE)[0] == 1.0
    assert events.shard_factor(MIDDLE) == {}


def test_the_effect_ramps_over_two_minutes_around_start_and_end() -> None:
    """Half of it (in log space) at start and end, all of it a minute later, none a minute before."""
    events = book(event(types=["order"], uplift=4.0))
    times = np.array([START - 60, START, START + 60, END - 60, END, END + 60])
    expected = [1.0, 2.0, 4.0, 4.0, 2.0, 1.0]
    np.testing.assert_allclose(events.uplift("order", times, headroom=False), expected)


def test_a_forecast_expects_the_full_effect_90_s_early() -> None:
    """Headroom at the start only: campaigns that begin early must find room."""
    events = book(event(types=["order"], uplift=4.0))
    times = np.array([START - 91, START - 89, START, END, END + 61])
    np.testing.assert_allclose(events.uplift("order", times), [1.0, 4.0, 4.0, 2.0, 1.0])


def test_a_short_event_reaches_its_full_effect() -> None:
    """30 s long: a steeper ramp, not a smaller effect."""
    events = book(event(types=["order"], uplift=2.0, end=START + 30))
    assert events.uplift("order", np.array([START + 15.0]), headroom=False)[0] == pytest.approx(2.0)


def test_a_short_event_is_not_expected_after_its_end() -> None:
    """30 s long: headroom for an early start is no reason to expect a late end."""
    events = book(event(types=["order"], uplift=4.0, end=START + 30))
    np.testing.assert_allclose(events.uplift("order", START + np.array([-89.0, 15, 46, 80])), [4.0, 4, 1, 1])


def test_requests_on_types_are_divided_equally() -> None:
    """300 requests/s on two types (one named twice): 150 each."""
    events = book(event(types=["order", "view", "view"], requests_per_s=300.0))
    assert events.added_series("order", MIDDLE)[0] == pytest.approx(150.0)
    assert events.added_series("view", MIDDLE)[0] == pytest.approx(150.0)
    assert events.added_series("import", MIDDLE)[0] == 0.0
    assert events.added(MIDDLE, RULES.costs()) == {}


def test_requests_on_keys_are_cost_units_on_their_slots() -> None:
    """100 requests/s over two keys of cost 2 and 1: 100 and 50 cost units/s where the keys live."""
    events = book(event(keys=[key("order", "t1", 7), key("view", "u1")], requests_per_s=100.0))
    order, view = locate(RULES, "order", ["t1", 7])[1], locate(RULES, "view", ["u1"])[1]
    added = events.added(MIDDLE, RULES.costs(), headroom=False)
    assert {slot: rate[0] for slot, rate in added.items()} == pytest.approx({order: 100.0, view: 50.0})


def test_an_uplift_on_keys_multiplies_their_shard_once() -> None:
    """The same key twice in one event is one shard's factor, not its square."""
    events = book(event(keys=[key("view", "u1"), key("view", "u1")], uplift=3.0))
    shard = locate(RULES, "view", ["u1"])[0]
    factors = events.shard_factor(MIDDLE, headroom=False)
    assert list(factors) == [shard]
    assert factors[shard][0] == pytest.approx(3.0)


def test_room_is_made_for_more_than_is_expected_of_single_keys() -> None:
    """A first campaign: 1 +- .43 of what is declared is expected, 1.3 planned for; on a whole type just 1."""
    keys = [key("view", "u1")]
    part = Trust().cautious(event(keys=keys, uplift=3.0))
    assert part == pytest.approx(1 + CAUTION * np.hypot(FIRST_SD, EVENT_SD))
    relative, absolute = book(event(keys=keys, uplift=3.0)), book(event(keys=keys, requests_per_s=100.0))
    (factor,) = relative.shard_factor(MIDDLE).values()
    assert factor[0] == pytest.approx(3.0**part)
    (added,) = absolute.added(MIDDLE, RULES.costs()).values()
    assert added[0] == pytest.approx(100.0 * part)
    whole = book(event(types=["view"], uplift=3.0))
    assert whole.uplift("view", MIDDLE)[0] == pytest.approx(3.0)


def test_capacity_events_have_no_ramp() -> None:
    """Maintenance takes 30 % from the first second to the last; two overlapping ones multiply."""
    events = book(
        event(cluster="c1", capacity_factor=0.7),
        event(id="e2", cluster="c1", capacity_factor=0.5, start=11_500.0),
    )
    times = np.array([START - 1, START, 11_999.0, END])
    np.testing.assert_allclose(events.capacity_factor("c1", times), [1.0, 0.7, 0.35, 1.0])
    assert events.capacity_factor("c2", times).tolist() == [1.0] * 4


def test_events_are_replaced_withdrawn_and_forgotten() -> None:
    """By id; past ones are kept as long as the stored history that they explain."""
    events = book(event(types=["order"], uplift=2.0))
    events.add(event(types=["order"], uplift=3.0))
    assert events.uplift("order", MIDDLE)[0] == pytest.approx(3.0)
    events.expire(END + 86_400.0)
    assert events.touching(START, END) == ["e1"]
    events.expire(END + 29 * 86_400.0)
    events.withdraw("never-seen")
    assert events.touching(START, END) == []
    events.add(event(types=["order"], uplift=3.0))
    events.withdraw("e1")
    assert events.uplift("order", MIDDLE)[0] == 1.0


def test_touching_names_events_near_the_window() -> None:
    """A window that ends 2 min before the start does not touch; one that ends at the start does."""
    events = book(event(types=["order"], uplift=2.0), event(id="a", cluster="c1", capacity_factor=0.5))
    assert events.touching(START - 400, START - 120) == []
    assert events.touching(START - 400, START) == ["a", "e1"]
    assert events.touching(END + 61, END + 400) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cluster": "c9", "capacity_factor": 0.5}, "c9"),
        ({"types": ["order", "refund"], "uplift": 2.0}, "refund"),
        ({"keys": [key("order", "t1")], "requests_per_s": 1.0}, "key 1"),
        ({"keys": [key("view", "u1"), key("refund", "x")], "uplift": 2.0}, "key 2"),
    ],
)
def test_an_event_that_fits_nothing_is_refused(wrong: dict[str, Any], said: str) -> None:
    """Unknown cluster or type, wrong number of key values: named in the message, nothing changed."""
    events = book(event(types=["view"], uplift=2.0))
    with pytest.raises(InvalidRecordError, match=said):
        events.add(event(**wrong))
    assert events.uplift("view", MIDDLE)[0] == pytest.approx(2.0)


def test_counts_without_events_are_learned_as_they_are() -> None:
    """Nothing announced near the step: the same figures."""
    counts = np.arange(48.0).reshape(3, 16)
    np.testing.assert_array_equal(book(event(types=["view"], uplift=2.0)).deflate(0.0, 30.0, counts), counts)


def test_deflating_never_goes_below_zero() -> None:
    """A campaign that was announced but did not come leaves 0, not less."""
    keys = event(keys=[key("view", "u1")], requests_per_s=1000.0)
    types = event(id="e2", types=["order"], requests_per_s=1000.0)
    base = book(keys, types).deflate(11_000.0, 30.0, np.ones((3, 16)))
    assert base.min() == 0.0
    assert base[2].tolist() == [1.0] * 16


@given(
    uplift=st.floats(1.1, 5.0),
    factor=st.floats(1.1, 5.0),
    on_type=st.floats(1.0, 100.0),
    on_keys=st.floats(1.0, 100.0),
    start=st.sampled_from([9_000.0, 9_970.0, 10_020.0, 11_010.0, 11_990.0]),
)
def test_learning_takes_out_what_the_forecast_puts_in(
    uplift: float, factor: float, on_type: float, on_keys: float, start: float
) -> None:
    """base x uplift x factor + added, deflated, is the base again (factors are means over the step)."""
    events = book(
        event(types=["view"], uplift=uplift),
        event(id="e2", types=["view", "order"], requests_per_s=on_type),
        event(id="e3", keys=[key("import", "t1")], requests_per_s=on_keys),
    )
    base = np.full((3, 16), 40.0)
    times = np.array([start + 5.0 * (number + 0.5) for number in range(6)])
    observed = base.copy()
    for series, name in enumerate(RULES.series):
        observed[series] *= events.uplift(name, times, headroom=False).mean()
        observed[series] += events.added_series(name, times, headroom=False).mean() * 30.0 / 16
    for slot, rate in events.added(times, RULES.costs(), headroom=False).items():
        observed[2, slot // SLOTS] += rate.mean() * 30.0 / RULES.types[2].cost
    np.testing.assert_allclose(events.deflate(start, 30.0, observed), base)
    shards = book(event(keys=[key("view", "u1")], uplift=factor))
    for shard, part in shards.shard_factor(times, headroom=False).items():
        raised = base.copy()
        raised[:, shard] *= part.mean()
        np.testing.assert_allclose(shards.deflate(start, 30.0, raised), base)
