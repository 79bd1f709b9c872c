"""The outlook: forecast x share x cost per shard, announced events on top, column 0 always measured."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.records import SLOTS, Event, EventKey
from streams.core.events import EventBook
from streams.core.load import Step
from streams.core.outlook import COLUMNS, Demand, Outlook
from streams.core.steps import STEP_S
from streams.core.trust import CAUTION, EVENT_SD, FIRST_SD
from tests.core.rounds_world import RULES, SHARDS, START, campaign, even, user_in, with_more

ROOM = 1 + CAUTION * float(np.hypot(FIRST_SD, EVENT_SD))
"""Times what is declared for single keys, before anything is known of such campaigns."""

FIRST = int(START // STEP_S) - 300


def taught(steps: int = 300, orders: float = 160.0) -> Outlook:
    """An outlook that has learned so many even steps, enough to be trusted after two hours."""
    outlook = Outlook(RULES)
    events = EventBook(RULES, ())
    for index in range(FIRST, FIRST + steps):
        wave = 1.0 + 0.3 * np.sin(2 * np.pi * index / 240)
        outlook.learn(Step(index, np.rint(even(orders * wave, 16.0) * STEP_S)), events)
    return outlook


def now_of(outlook: Outlook) -> float:
    assert outlook.newest_step is not None
    return (outlook.newest_step + 1) * STEP_S


def look(
    outlook: Outlook, rates: np.ndarray, *announced: Event, hot: dict[int, float] | None = None
) -> Demand:
    events = EventBook(RULES, ("c1",))
    for event in announced:
        events.add(event)
    return outlook.demand(START, rates, hot or {}, events)


def typed(start: float, end: float, **effect: float) -> Event:
    return Event(id="e1", kind="campaign", start=start, end=end, types=["order"], **effect)  # type: ignore[arg-type]


def test_column_0_is_the_measured_load_by_cost() -> None:
    """Orders cost 1, imports 2: what is forwarded now, whatever the forecast says."""
    demand = look(taught(), even(32.0, 16.0))
    assert demand.load.shape == (SHARDS, COLUMNS)
    assert np.allclose(demand.load[:, 0], 32 / SHARDS + 2 * 16 / SHARDS)


def test_untrusted_series_is_served_reactively() -> None:
    """Without two hours of data the newest measurement holds for the whole window, and the view says why."""
    demand = look(Outlook(RULES), even(160.0))
    assert not demand.series[0].trusted
    assert "0.0 h of data" in demand.series[0].why_not
    assert np.allclose(demand.load, 10.0)


def test_trusted_series_is_spread_by_its_shares() -> None:
    """The forecast of the series x share of the shard x cost, not the last measurement."""
    outlook = taught()
    demand = look(outlook, even(1.0, 16.0))
    assert demand.series[0].trusted
    forecast = outlook.forecaster.forecast()[0, -1] / STEP_S
    orders = demand.load[:, -1] - 2 * 16 / SHARDS
    assert np.allclose(orders, forecast / SHARDS, rtol=0.1)


def test_announced_keys_raise_their_shard_before_the_event_starts() -> None:
    """An absolute event adds to its shard in the columns from its start on, and nowhere else."""
    user, slot = user_in(range(SHARDS))
    demand = look(Outlook(RULES), even(160.0), campaign(START + 210, START + 900, user, 40.0))
    shard = slot // SLOTS
    assert np.allclose(demand.load[shard, :4], 10.0)
    assert demand.load[shard, -1] == pytest.approx(10.0 + 40.0 * ROOM)
    others = np.delete(demand.load, shard, axis=0)
    assert np.allclose(others, 10.0)
    assert demand.event_shards == {shard}
    assert demand.skew[shard][slot % SLOTS] > 0.7


@pytest.mark.parametrize("before_s", [300.0, 150.0, 85.0, 60.0, 30.0])
def test_announced_load_stays_expected_until_it_is_there(before_s: float) -> None:
    """Up to the very start nothing of the event is measured, so all of it is still to come."""
    user, slot = user_in(range(SHARDS))
    event = campaign(START + before_s, START + before_s + 900, user, 40.0)
    demand = look(Outlook(RULES), even(160.0), event)
    planned = 10.0 + 40.0 * ROOM
    assert demand.load[slot // SLOTS].max() == pytest.approx(planned, abs=10.0 if before_s < 60 else 1e-6)


@pytest.mark.parametrize("before_s", [300.0, 85.0, 60.0])
def test_announced_type_stays_expected_until_it_is_there(before_s: float) -> None:
    """A relative event on a type multiplies what is measured by what is not in it yet."""
    demand = look(Outlook(RULES), even(160.0), typed(START + before_s, START + 1800, uplift=3.0))
    assert demand.load.max() == pytest.approx(30.0)


def test_running_event_is_not_counted_twice() -> None:
    """An untrusted series that already carries the event is measured with it; a part may be to come."""
    user, slot = user_in(range(SHARDS))
    shard = slot // SLOTS
    rates = even(160.0)
    rates[0, shard] += 40.0
    demand = look(Outlook(RULES), rates, campaign(START - 600, START + 900, user, 40.0))
    assert demand.load[shard, 0] == pytest.approx(50.0)
    assert demand.load[shard, 1:].max() == pytest.approx(50.0 + 40.0 * (ROOM - 1))


def test_relative_type_event_multiplies_the_forecast() -> None:
    """A trusted series: base x uplift in the columns in which the event is on."""
    outlook = taught()
    plain = look(outlook, even(160.0, 16.0))
    risen = look(outlook, even(160.0, 16.0), typed(START + 200, START + 1800, uplift=3.0))
    imports = 2 * 16 / SHARDS
    rise = (risen.load[:, -1] - imports) / (plain.load[:, -1] - imports)
    assert np.allclose(rise, 3.0, rtol=0.05)
    assert np.allclose(risen.load[:, 1], plain.load[:, 1])
    assert risen.event_shards == set(range(SHARDS))


def test_relative_event_on_keys_multiplies_the_whole_shard() -> None:
    """Only the shard of the key rises."""
    user, slot = user_in(range(SHARDS))
    event = Event(
        id="e1",
        kind="import",
        start=START + 200,
        end=START + 900,
        keys=[EventKey(type="order", values=[user])],
        uplift=2.0,
    )
    demand = look(Outlook(RULES), even(160.0), event)
    assert demand.load[slot // SLOTS, -1] == pytest.approx(10.0 * 2.0**ROOM)
    assert np.delete(demand.load, slot // SLOTS, axis=0).max() == pytest.approx(10.0)


def test_learning_takes_announced_load_out_of_the_shares() -> None:
    """A campaign on one user does not change what share of all orders his shard is expected to have."""
    user, slot = user_in(range(SHARDS))
    outlook, events = taught(), EventBook(RULES, ())
    start = now_of(outlook)
    events.add(campaign(start - 600, start + 3600, user, 40.0))
    counts = even(160.0, 16.0) * STEP_S
    counts[0, slot // SLOTS] += 40.0 * STEP_S
    before = outlook.shares.share[0].copy()
    outlook.learn(Step(outlook.newest_step + 1, np.rint(counts)), events)  # type: ignore[operator]
    assert np.allclose(outlook.shares.share[0], before, atol=1e-3)


@pytest.mark.parametrize("late", [-2, 2])
def test_an_event_that_is_not_punctual_disturbs_no_forecast(late: int) -> None:
    """It starts a minute early or late: what is usual without it is forecast on as if it were not there."""
    outlook, undisturbed, events = taught(), taught(), EventBook(RULES, ())
    start = now_of(outlook) + 4 * STEP_S
    events.add(typed(start, start + 3600, uplift=3.0))
    for number in range(12):
        index = (outlook.newest_step or 0) + 1
        counts = np.rint(even(160.0 * (1.0 + 0.3 * np.sin(2 * np.pi * index / 240)), 16.0) * STEP_S)
        undisturbed.learn(Step(index, counts), EventBook(RULES, ()))
        outlook.learn(Step(index, counts * ([[3.0], [1.0]] if number >= 4 + late else 1.0)), events)
        found, wanted = outlook.forecaster.forecast()[0], undisturbed.forecaster.forecast()[0]
        assert np.allclose(found[1:], wanted[1:], rtol=0.25)  # it was a third to a half
        assert np.allclose(outlook.shares.share, undisturbed.shares.share, atol=1e-3)


def test_a_small_event_is_learned_through() -> None:
    """What adds less than a tenth to a type makes none of its steps unknown."""
    events = EventBook(RULES, ())
    counts = even(160.0, 16.0) * STEP_S
    user, _ = user_in(range(SHARDS))
    events.add(campaign(START, START + 3600, user, 10.0))
    assert not events.unsure(START, STEP_S, counts).any()
    events.add(campaign(START, START + 3600, user, 20.0))
    assert events.unsure(START, STEP_S, counts).tolist() == [True, False]
    assert events.unsure(START + 3570, STEP_S, counts).tolist() == [True, False]
    assert not events.unsure(START + 600, STEP_S, counts).any()


def test_hot_slot_carries_its_own_weight() -> None:
    """A slot with more than four times the mean of its shard is measured; the rest share what is left."""
    demand = look(Outlook(RULES), even(160.0), hot={3 * SLOTS + 7: 5.0, 4 * SLOTS: 0.01})
    assert set(demand.skew) == {3}
    assert demand.skew[3][7] == pytest.approx(0.5, rel=0.05)
    assert demand.skew[3].sum() == pytest.approx(1.0)


def test_hot_slots_of_other_shard_counts_are_left_out() -> None:
    """A report of a router with more shards does not stop the round."""
    assert look(Outlook(RULES), even(160.0), hot={SHARDS * SLOTS + 5: 100.0}).skew == {}


def test_events_upon_events_stay_finite() -> None:
    """However many events multiply one another, the load is a number."""
    events = [
        Event(id=f"e{n}", kind="k", start=START, end=START + 900, types=["order"], uplift=1000.0)
        for n in range(150)
    ]
    with np.errstate(over="ignore"):
        demand = look(Outlook(RULES), even(160.0), *events)
    assert np.isfinite(demand.load).all()


def test_a_shard_that_became_popular_is_planned_for_before_its_share_follows() -> None:
    """Its forecast is raised by what is too much, that of nobody else; the measurement stays."""
    outlook = taught()
    quiet, seen = look(outlook, even(160.0)), look(outlook, with_more(even(160.0), [3], 10.0))
    others = np.arange(SHARDS) != 3
    assert np.allclose(seen.load[others], quiet.load[others])
    assert seen.load[3, 0] == pytest.approx(quiet.load[3, 0] + 10.0)
    assert np.allclose(seen.load[3, 1:] - quiet.load[3, 1:], 10.0 * 15 / 16, rtol=0.05)


def test_surges_of_an_untrusted_series_are_measured_already() -> None:
    """It is served as measured: the surge counts once."""
    seen = look(Outlook(RULES), with_more(even(160.0), [3], 10.0))
    assert np.allclose(seen.load[3], 20.0)


def test_more_than_announced_on_the_keys_of_an_event_is_no_surge() -> None:
    """The event's own trust says what to expect of it."""
    user, slot = user_in(range(SHARDS))
    running = campaign(START - 300, START + 900, user, 5.0)
    raised = with_more(even(160.0), [slot // SLOTS], 10.0)
    outlook = taught()
    expected = look(outlook, even(160.0), running).load[slot // SLOTS, 1:]
    assert np.allclose(look(outlook, raised, running).load[slot // SLOTS, 1:], expected)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_after_a_pause_of_all_requests_what_is_measured_is_believed(steps: int) -> None:
    """An outage of the ingest teaches that nothing comes; once requests are back, all count."""
    outlook, events = taught(), EventBook(RULES, ())
    for index in range(FIRST + 300, FIRST + 300 + steps):
        outlook.learn(Step(index, even(0.0)), events)
    rates = even(160.0, 16.0)
    back = outlook.demand(now_of(outlook), rates, {}, events)
    assert back.series[0].trusted
    assert outlook.forecaster.forecast()[0].max() / STEP_S < 80.0  # what the forecast has made of it
    assert back.load[:, 1:].sum(axis=0).min() >= 0.99 * back.load[:, 0].sum()


def test_a_forecast_that_is_not_far_off_is_left_alone() -> None:
    """Half as much again as was forecast is no reason not to believe that it will go; twice as much is."""
    outlook = taught()
    usual = float(outlook.forecaster.forecast()[0, :2].max()) / STEP_S
    calm, busy = (look(outlook, even(factor * usual, 16.0)).load[:, 1:] for factor in (1.0, 1.5))
    assert np.array_equal(calm, busy)
    assert look(outlook, even(2.2 * usual, 16.0)).load[:, 1:].sum() > 1.5 * calm.sum()


def test_a_surge_of_one_shard_does_not_raise_the_others() -> None:
    """One shard carries as much again as the whole series: only it is planned for as fuller."""
    outlook = taught()
    usual = float(outlook.forecaster.forecast()[0, :2].max()) / STEP_S
    rates = even(usual, 16.0)
    rates[0, 3] += usual
    calm, surging = look(outlook, even(usual, 16.0)).load, look(outlook, rates).load
    others = [shard for shard in range(SHARDS) if shard != 3]
    assert np.array_equal(surging[others, 1:], calm[others, 1:])
    assert surging[3, 1:].min() > calm[3, 1:].max() + 0.5 * usual
