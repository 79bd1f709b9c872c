"""`forecast_by`: values of a field have forecasts of their own, and everything else stays the type's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import InvalidRecordError
from schemas.records import ClusterMetrics, CostsView, Event, EventKey
from streams.core import learned
from streams.core.events import EventBook
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.outlook import Outlook
from streams.core.rounds import Rounds
from streams.core.series import SeriesRows
from streams.core.steps import STEP_S, Step
from streams.core.trust import Trust
from tests.core.rounds_world import RULES, SHARDS, START, Router, World, decisions, started, successor

BY_TENANT = replace(
    RULES, types=(replace(RULES.types[0], forecast_by=parse_field("json:tenant")), RULES.types[1])
)
"""Orders are forecast by tenant, which is none of their key fields; imports are not."""
ACME, BOLT = 2, 3
"""Rows of the first two tenants."""
FIRST = int(START // STEP_S)


def spread(*totals: float) -> np.ndarray:
    """Totals of series, spread evenly over the shards."""
    return np.outer(totals, np.full(SHARDS, 1 / SHARDS))


def step(number: int, orders: float, imports: float, **tenants: float) -> Step:
    """A step with so many requests, evenly over the shards; those of tenants are none of `orders`."""
    values = tuple(f"order/{name}" for name in tenants)
    return Step(number, spread(orders, imports, *tenants.values()), values)


def book_of(outlook: Outlook, *events: Event) -> EventBook:
    book = EventBook(outlook.rules, (), outlook.series)
    for event in events:
        book.add(event)
    return book


def taught(steps: int = 300, *events: Event) -> tuple[Outlook, EventBook]:
    """An outlook that knows 300 orders of acme a step, 100 of bolt, 200 of others, and 160 imports."""
    outlook = Outlook(BY_TENANT)
    book = book_of(outlook, *events)
    for number in range(steps):
        outlook.learn(step(FIRST - steps + number, 200.0, 160.0, acme=300.0, bolt=100.0), book)
    return outlook, book


def event(**fields: object) -> Event:
    """An event that is on from START on for an hour."""
    plain = {"id": "e", "kind": "campaign", "start": START - 600.0, "end": START + 3000.0}
    return Event(**(plain | fields))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- what it is for

DAY = 2880
TENANTS = ("acme", "bolt", "cord", "dune")


def requests(number: int, shards: int) -> np.ndarray:
    """Requests per tenant and shard: acme, alone on shard 0, imports at nine; others wander or rest."""
    hour = number % DAY / 120
    sun = 1 + 0.5 * np.sin(2 * np.pi * (hour - 6) / 24)
    totals = np.array([150.0 * (10 if 9.0 <= hour < 9.5 else 1), 600 * sun, 600 * (2 - sun), 500.0])
    parts = np.full((len(TENANTS), shards), 1 / (shards - 1))
    parts[:, 0], parts[0] = 0.0, 0.0
    parts[0, 0] = 1.0
    return np.asarray(totals[:, None] * parts)


def error_of_shard_0(by_tenant: bool, days: int = 3, shards: int = 8) -> float:
    """Error of what is forecast for shard 0, 5 and 10 steps ahead, on the last day / its load."""
    rules = KeyRules(
        shards,
        (parse_field("json:type"),),
        (RequestType("update", (parse_field("json:user"),), forecast_by=parse_field("json:tenant")),),
    )
    outlook, chance = Outlook(rules), np.random.default_rng(1)
    book, error, load = book_of(outlook), 0.0, 0.0
    names = tuple(f"update/{name}" for name in TENANTS)
    for day in range(days):
        for number in range(day * DAY + 900, day * DAY + 1260):  # from 7:30 to 10:30
            counts = chance.poisson(requests(number, shards)).astype(float)
            rows = np.vstack([np.zeros(shards), counts])
            outlook.learn(
                Step(number, rows, names) if by_tenant else Step(number, counts.sum(axis=0)[None]), book
            )
            if day == days - 1:
                made = outlook.forecaster.forecast().T @ outlook.shares.share
                seen = [requests(number + ahead, shards)[:, 0].sum() for ahead in (5, 10)]
                error += float(np.abs(made[[5, 10], 0] - seen).sum())
                load += float(sum(seen))
    return error / load


def test_a_tenant_with_an_import_of_its_own_is_forecast_better_by_value() -> None:
    """Pooled, its import raises everybody's forecast by a little; measured: .040 against .174 of the load."""
    assert error_of_shard_0(by_tenant=True) < 0.35 * error_of_shard_0(by_tenant=False)


# ---------------------------------------------------------------------------- rows


def test_a_row_in_reserve_is_unknown_and_a_row_with_a_value_may_be_zero() -> None:
    """Reserve learns nothing; a tenant that is silent for a step has had no requests in it."""
    outlook, book = taught(40)
    outlook.learn(step(FIRST, 200.0, 160.0, acme=300.0), book)
    known = outlook.forecaster._known
    assert known[[0, 1, ACME, BOLT]].tolist() == [41] * 4
    assert not known[outlook.series.reserve].any()
    assert outlook.forecaster.forecast()[BOLT, 0] == 0.0


def test_a_decision_shows_the_rows_that_have_a_series() -> None:
    """The type's own first; of all together now_rps is the type's."""
    world = tenants_world()
    world.run(300, spread(5.0, 8.0, 20.0, 10.0))
    shown = decisions(world.written)[-1].series
    assert [(view.name, view.of_type) for view in shown] == [
        ("order", ""),
        ("import", ""),
        ("order/acme", "order"),
        ("order/bolt", "order"),
    ]
    assert [round(view.now_rps) for view in shown] == [5, 8, 20, 10]


def test_live_rates_have_room_for_a_value_that_no_step_has_shown() -> None:
    """Until the first step is closed its requests count in its type's row; the load is the same."""
    world = tenants_world()
    world.run(20, spread(5.0, 8.0, 20.0, 10.0))
    shown = decisions(world.written)[-1].series
    assert [(view.name, round(view.now_rps)) for view in shown] == [("order", 35), ("import", 8)]


def tenants_world() -> World:
    world = started(rules=BY_TENANT)
    world.router = Router(["order", "import", "order/acme", "order/bolt"])
    return world


# ---------------------------------------------------------------------------- a successor


def test_a_successor_goes_on_with_the_same_rows() -> None:
    """Rows in their order, live rates and forecasts; a tenant that comes later gets the same row in both."""
    world = tenants_world()
    rates = spread(5.0, 8.0, 20.0, 10.0)
    world.history(FIRST - 300, 300, rates, swing=0.3)
    world.run(1160, rates)
    heir = successor(world)
    taken = heir.rounds.outlook.newest_step
    assert taken is not None
    assert heir.rounds.series.names[2:4] == ["order/acme", "order/bolt"]
    heir.rounds.learn(heir.now, 1_000)
    assert world.rounds.outlook.newest_step > taken  # type: ignore[operator]
    heir.lead()
    later = [*world.router.series, "order/cord"]
    for one in (world, heir):
        one.run(300, rates)
        one.router.series, one.router._rest = list(later), np.zeros((5, SHARDS))
        one.run(300, spread(5.0, 8.0, 20.0, 10.0, 3.0))
    ours, theirs = world.rounds.outlook, heir.rounds.outlook
    assert ours.series.names == theirs.series.names
    assert theirs.series.names[4] == "order/cord"
    assert np.allclose(ours.forecaster.forecast(), theirs.forecaster.forecast(), atol=1e-9)
    assert np.array_equal(ours.shares.share, theirs.shares.share)
    mine, his = (decisions(one.written)[-1] for one in (world, heir))
    assert [(v.name, v.now_rps) for v in mine.series] == [(v.name, v.now_rps) for v in his.series]
    whole = Rounds(BY_TENANT, world.rounds.settings, 1)
    for record in world.stored:
        whole.on_load(record)
    whole.learn(world.now, 10_000)
    assert whole.series.names == ours.series.names
    assert np.allclose(whole.outlook.forecaster.forecast(), theirs.forecaster.forecast(), atol=1e-6)


def test_what_was_learned_of_other_series_is_refused() -> None:
    """Without forecast_by, with another field, or the other way round: it says so and takes nothing."""
    by_region = replace(
        RULES, types=(replace(RULES.types[0], forecast_by=parse_field("json:region")), RULES.types[1])
    )
    outlook, _ = taught(40)
    for saved, rules, why in (
        (outlook, RULES, "of the series order, import, order by json:tenant$"),
        (outlook, by_region, "order by json:tenant"),
        (Outlook(RULES), BY_TENANT, "of the series order, import$"),
    ):
        saved.newest_step = FIRST
        heir = Outlook(rules)
        with pytest.raises(ValueError, match=why):
            learned.restore(learned.save(saved, Trust()), heir)
        assert heir.series.names == SeriesRows.of(rules).names
        assert heir.newest_step is None


# ---------------------------------------------------------------------------- costs


def test_costs_are_the_types() -> None:
    """All rows of a type cost what it costs, and its mix is the sum of them."""
    outlook, _ = taught(40)
    assert outlook.costs.mix.tolist() == pytest.approx([20.0, 160 / 30])
    assert outlook.costs_by_row().tolist() == [1.0, 2.0] + 64 * [1.0]


def test_costs_are_learned_by_type_from_what_a_cluster_gets() -> None:
    """Orders of whatever tenant really cost 3, imports 1: configured are 1 and 2."""
    world, chance = tenants_world(), np.random.default_rng(3)
    for _ in range(300):
        rates = spread(*np.rint(chance.uniform([2, 2, 2, 2], [6, 30, 12, 12])))
        snapshot = world.rounds.snapshot
        assert snapshot is not None
        for number, name in enumerate(snapshot.names):
            part = (snapshot.owners == number).mean()
            cpu = part * (3.0 * (rates.sum() - rates[1].sum()) + rates[1].sum()) / 300.0 + 0.05
            world.rounds.on_metrics(
                ClusterMetrics(
                    cluster=name, instance="i", at=world.now + 30.0, interval_s=10.0, cpu=float(cpu)
                )
            )
        world.run(30, rates)
    costs = world.rounds.outlook.costs
    assert costs.learned
    said = world.rounds.last.costs if world.rounds.last else None
    assert said == CostsView(learned=True, cpu_error=costs.relative_error)
    assert costs.relative_error is not None
    assert costs.relative_error < 0.15
    assert costs.now()[0] / costs.now()[1] == pytest.approx(3.0, rel=0.15)


# ---------------------------------------------------------------------------- events

TIMES = np.array([START])


def announced(said: Event, steps: int = 40) -> tuple[Outlook, EventBook]:
    """A taught outlook, and an event announced only now."""
    outlook, _ = taught(steps)
    return outlook, book_of(outlook, said)


def test_an_event_on_a_type_multiplies_every_row_of_it_once() -> None:
    """Also where it names one of the type's values besides."""
    outlook, book = announced(event(types=["order", "order/acme"], uplift=2.0))
    found = [book.uplift(name, TIMES)[0] for name in ("order", "order/acme", "order/bolt", "import")]
    assert found == pytest.approx([2.0, 2.0, 2.0, 1.0])
    counts = spread(*np.array([200.0, 160.0, 300.0, 100.0] + 62 * [0.0]) * ([2, 1] + 64 * [2]))
    assert book.deflate(START, STEP_S, counts).sum(axis=1)[:4].tolist() == pytest.approx([200, 160, 300, 100])
    assert outlook.series.scope("order") == [0, ACME, BOLT]


def test_an_event_on_one_value_leaves_the_others_alone() -> None:
    """Factor and addition both: only its row, in the forecast and in what is learned."""
    _, book = announced(event(types=["order/bolt"], uplift=3.0))
    found = [book.uplift(name, TIMES)[0] for name in ("order", "order/acme", "order/bolt")]
    assert found == pytest.approx([1.0, 1.0, 3.0])
    _, book = announced(event(types=["order/bolt"], requests_per_s=4.0))
    assert [book.added_series(name, TIMES)[0] for name in ("order", "order/bolt")] == [0.0, 4.0]
    counts = spread(*[200.0, 160.0, 300.0, 100.0 + 120.0], *62 * [0.0])
    assert book.deflate(START, STEP_S, counts).sum(axis=1)[:4].tolist() == pytest.approx([200, 160, 300, 100])
    assert book.unsure(START - 600.0, STEP_S, counts)[:4].tolist() == [False, False, False, True]


def test_requests_that_an_event_adds_to_a_type_come_once() -> None:
    """Divided over its rows as their requests are, or as they were where nothing comes now."""
    outlook, book = announced(event(types=["order"], requests_per_s=12.0), steps=300)
    rates = np.zeros((len(outlook.series.names), SHARDS))
    rates[:4] = spread(*np.array([200.0, 160.0, 300.0, 100.0]) / STEP_S)
    for measured, wanted in ((rates, [4.0, 0.0, 6.0, 2.0]), (np.zeros_like(rates), [4.0, 0.0, 6.0, 2.0])):
        on, off = (outlook.demand(START, measured, {}, one) for one in (book, book_of(outlook)))
        assert (on.load - off.load)[:, -1].sum() == pytest.approx(12.0)
        more = [
            one.forecast_rps - other.forecast_rps for one, other in zip(on.series, off.series, strict=True)
        ]
        assert more == pytest.approx(wanted)


def test_a_value_that_has_no_row_yet_is_announced_for_later() -> None:
    """Nothing of its type is touched, nothing is learned of its kind; when it gets a row, the event is on."""
    outlook, book = taught(40, event(types=["order/cord"], uplift=2.0))
    assert book.uplift("order", TIMES)[0] == 1.0
    assert book.trust.tracks == {}
    outlook.learn(step(FIRST, 200.0, 160.0, acme=300.0, bolt=100.0, cord=50.0), book)
    assert outlook.series.names[4] == "order/cord"
    assert book.uplift("order/cord", TIMES)[0] == pytest.approx(2.0)
    assert list(book.trust.tracks) == ["e"]


@pytest.mark.parametrize("name", ["import/acme", "orders/acme", "orderacme", "order/"])
def test_a_series_that_no_type_makes_is_refused(name: str) -> None:
    """As an unknown type is."""
    with pytest.raises(InvalidRecordError, match=f"names type {name}; the types are: order, import"):
        book_of(Outlook(BY_TENANT), event(types=[name], uplift=2.0))


def test_an_event_on_keys_takes_from_the_row_of_their_value() -> None:
    """Where a key says its value; else from all rows of the type on that shard, in proportion."""
    keyed = replace(
        BY_TENANT,
        types=(replace(BY_TENANT.types[0], key=(parse_field("json:tenant"), parse_field("json:user"))),),
    )
    for rules, values, wanted in (
        (keyed, ["acme", "u1"], [20.0, 30.0 - 12.0]),
        (keyed, ["unheard", "u1"], [20.0 - 12.0, 30.0]),
        (BY_TENANT, ["u1"], [20.0 - 12.0 * 2 / 5, 30.0 - 12.0 * 3 / 5]),
    ):
        outlook = Outlook(rules)
        series = outlook.series
        series.assign(["order/acme"], np.ones(1))
        acme = series.row("order/acme")
        book = book_of(outlook, event(keys=[EventKey(type="order", values=values)], requests_per_s=0.4))
        shard, _ = locate(rules, "order", values)
        counts = np.zeros((len(series.names), SHARDS))
        counts[0], counts[acme] = 20.0, 30.0
        base = book.deflate(START, STEP_S, counts)
        assert base[[0, acme], shard].tolist() == pytest.approx(wanted)
        assert base.sum() == pytest.approx(counts.sum() - 12.0)
        added = book.added(TIMES, outlook.costs.now(), headroom=False)
        assert sum(float(rate[0]) for rate in added.values()) == pytest.approx(0.4)


def test_trust_is_learned_of_an_event_on_a_value() -> None:
    """Acme gets what was announced for it: kappa stays at 1, and others' forecasts as they are."""
    said = event(types=["order/acme"], uplift=2.0, start=START, end=START + 1200)
    outlook, book = taught(300, said)
    before = outlook.forecaster.forecast()[[0, BOLT], -1]
    for number in range(70):
        on = 2.0 if START <= (FIRST + number) * STEP_S < START + 1200 else 1.0
        outlook.learn(step(FIRST + number, 200.0, 160.0, acme=300.0 * on, bolt=100.0), book)
    assert book.trust.settled["e"] == pytest.approx(1.0, abs=0.1)
    assert outlook.forecaster.forecast()[[0, BOLT], -1] == pytest.approx(before, rel=0.02)
    assert outlook.forecaster.forecast()[ACME, -1] == pytest.approx(300.0, rel=0.1)


def test_an_import_that_only_its_tenants_make_is_expected_where_they_are() -> None:
    """Nothing comes for a day, and none ever came without a tenant: what is announced has its shards."""
    outlook = Outlook(BY_TENANT)
    book, imported = book_of(outlook), np.zeros((3, SHARDS))
    imported[2, 5] = 600.0
    outlook.learn(Step(FIRST - 4000, imported, ("order/acme",)), book)
    outlook.learn(Step(FIRST - 1, np.zeros((2, SHARDS))), book)
    book = book_of(outlook, event(types=["order"], requests_per_s=12.0, start=START + 100.0))
    nothing = np.zeros((len(outlook.series.names), SHARDS))
    load = outlook.demand(START, nothing, {}, book).load
    assert load[5, -1] == pytest.approx(12.0)
    assert load.sum(axis=0)[-1] == pytest.approx(12.0)
