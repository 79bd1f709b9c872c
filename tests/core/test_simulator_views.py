"""What simulated balancers know: the same as production's, late; and what only an oracle can know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.records import SLOTS
from streams.core.events import EventBook
from streams.core.keys import parse_field
from streams.core.outlook import COLUMNS, Outlook
from streams.core.simulation.draft import Draft, Size
from streams.core.simulation.lanes import Policy
from streams.core.simulation.run import Setting, World
from streams.core.simulation.shapes import Generated
from streams.core.simulation.views import Blind, Measured, Truth, taught, warm_steps
from streams.core.simulation.workload import SPREAD, Workload

BEGIN = 60
"""Bins that are learned."""


def workload() -> Workload:
    """Returns two shards of two series; shard 1 holds a hot key on slot 7 that doubles after ten minutes."""
    draft = Draft(np.random.default_rng(1), Size(2, 2, BEGIN * 10.0, 1_800.0), Generated())
    for name in ("order", "import"):
        draft.add_series(name)
    level = np.full(draft.size.bins, 100.0)
    draft.add(0, 0, SPREAD, level)
    draft.add(1, 1, SPREAD, level)
    draft.add(1, 1, 7, np.where(draft.time < (BEGIN + 60) * 10.0, level, 2 * level))
    return draft.built("two shards")


def test_who_knows_nothing_sees_what_an_untaught_outlook_sees() -> None:
    """The short way gives the very load and hot slots that production works out without forecasts."""
    work = workload()
    rates = np.array([[100.0, 0.0], [0.0, 200.0]])
    hot = {SLOTS + 7: 100.0}
    short = Blind(work).demand(1e6, rates, hot, EventBook(work.rules, ()))
    long = Outlook(work.rules).demand(1e6, rates, hot, EventBook(work.rules, ()))
    assert np.allclose(short.load, long.load)
    assert short.event_shards == long.event_shards
    assert short.skew.keys() == long.skew.keys() == {1}
    assert np.allclose(short.skew[1], long.skew[1])


def test_types_with_forecast_by_are_simulated_as_one_series_each() -> None:
    """A trace says nothing of values: loads are those of types without."""
    plain = workload()
    types = tuple(replace(rule, forecast_by=parse_field("json:tenant")) for rule in plain.rules.types)
    split = replace(plain, rules=replace(plain.rules, types=types))
    found = []
    for work in (plain, split):
        rng, measured = np.random.default_rng(1), Measured(work.rules)
        view = taught(work, (), warm_steps(work, rng), rng)
        measured.report(work.cells, np.full(len(work.cells.series), 50.0), work.start)
        rates = measured.rates(work.start)
        assert rates is not None
        views = (view, Blind(work))
        found.append([one.demand(work.start, rates, {}, view.events).load for one in views])
    assert np.allclose(found[0], found[1])
    assert np.array(found).any()


def test_an_oracle_sees_the_future_and_its_hot_slots() -> None:
    """Five minutes before the key doubles, only the last column has it; half a minute before, all but two."""
    work = workload()
    oracle = Truth(work)
    rates = np.zeros((2, 2))

    def seen(number: int) -> np.ndarray:
        demand = Truth(work).demand(work.time(number), rates, {}, oracle.events)
        assert np.allclose(demand.load[0], 100.0)
        assert demand.skew[1].argmax() == 7
        return demand.load[1]

    assert np.allclose(seen(BEGIN), 200.0)
    assert seen(BEGIN + 60 - 29)[-1] == pytest.approx(300.0)
    assert np.allclose(seen(BEGIN + 60 - 29)[:-1], 200.0)
    assert np.allclose(seen(BEGIN + 60 - 3)[2:], 300.0)
    assert seen(BEGIN + 60 - 3).shape == (COLUMNS,)


def test_an_oracle_knows_losses_that_nobody_announced() -> None:
    """A cluster at 60 % for five minutes is an event to it, and to nobody else."""
    work = workload()
    factor = work.capacity_factor.copy()
    factor[BEGIN + 30 : BEGIN + 60, 1] = 0.6
    work = replace(work, capacity_factor=factor)
    times = np.array([work.time(BEGIN + 29), work.time(BEGIN + 30), work.time(BEGIN + 60)])
    assert Truth(work).events.capacity_factor("c02", times) == pytest.approx([1.0, 0.6, 1.0])
    assert Blind(work).events.capacity_factor("c02", times).tolist() == [1.0, 1.0, 1.0]


def test_measurements_are_ten_to_twenty_seconds_old() -> None:
    """A step in the load is not seen in the round 10 s after it, half of it never, all of it 20 s after."""
    work = workload()
    world = World(
        work, Setting(policies=(Policy.STATIC,)), np.random.default_rng(1), np.random.default_rng(2)
    )
    seen = []
    for number in range(BEGIN, BEGIN + 12):
        world.tell(number)
        rates = world.measured.rates(work.time(number))
        seen.append(None if rates is None else float(rates[0, 0]))
        step = 100.0 if number < BEGIN + 6 else 1_000.0
        world.come(number, np.tile([step, 0.0, 0.0], (10, 1)))
    assert seen[:2] == [None, None], "nothing is known before the first window is 10 s old"
    assert seen[2:8] == pytest.approx([100.0] * 6)
    assert seen[8] == pytest.approx(1_000.0), "what came from second 60 on is in the round at second 80"


def test_hot_keys_are_reported_by_their_slot() -> None:
    """As routers do: the slot's own requests, besides those of its shard."""
    work = workload()
    measured = Measured(work.rules)
    for end in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        measured.report(work.cells, np.array([500.0, 500.0, 250.0]), end)
    assert measured.hot_slots(30.0) == pytest.approx({SLOTS + 7: 50.0})
    rates = measured.rates(30.0)
    assert rates is not None
    assert rates[1].tolist() == pytest.approx([0.0, 150.0])
