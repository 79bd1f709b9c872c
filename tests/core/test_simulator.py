"""The simulator: the production balancer in a closed loop, on days small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.records import Move, Reason
from streams.core.simulation.draft import Draft, Size
from streams.core.simulation.lanes import Lane, Policy
from streams.core.simulation.measures import reversals, row
from streams.core.simulation.run import Setting, simulate
from streams.core.simulation.scenarios import SCENARIOS, hot_shards, workload
from streams.core.simulation.shapes import Generated
from streams.core.simulation.workload import SPREAD, Workload

SMALL = Size(shards=32, clusters=4, warm_s=1_800.0, length_s=1_200.0)


def surge(warm_s: float = 1_800.0) -> Workload:
    """Returns 4 clusters of 1,000 at 0.6; from minute 10 to 20 of the half hour one is at 1.2 alone."""
    size = Size(shards=32, clusters=4, warm_s=warm_s, length_s=1800.0)
    draft = Draft(np.random.default_rng(1), size, Generated())
    draft.add_series("orders")
    since = draft.time - size.warm_s
    hump = np.interp(since, [600, 900, 1200, 1500], [0.0, 1.0, 1.0, 0.0])
    for shard in range(32):
        # Homes by load put equal shards on the clusters in turn.
        draft.add(0, shard, SPREAD, 75.0 * (1.0 + (shard % 4 == 0) * hump))
    return draft.built("surge")


def run(work: Workload, *policies: Policy, seed: int = 1) -> dict[Policy, Lane]:
    return {lane.policy: lane for lane in simulate(work, Setting(policies=policies), seed)}


def late(lane: Lane) -> float:
    return row(lane, 1).violations_pct


def test_moving_load_saves_what_standing_still_loses() -> None:
    """One cluster is at 1.2 for ten minutes: its queue grows to minutes, unless somebody moves shards."""
    lanes = run(surge(), Policy.STATIC, Policy.REACTIVE, Policy.UNORDERED, Policy.BOUNDED, Policy.ORACLE)
    assert late(lanes[Policy.STATIC]) > 5.0
    assert late(lanes[Policy.REACTIVE]) < late(lanes[Policy.STATIC]) / 20
    assert late(lanes[Policy.ORACLE]) <= late(lanes[Policy.REACTIVE])
    assert late(lanes[Policy.UNORDERED]) <= late(lanes[Policy.REACTIVE]) + 0.01
    assert late(lanes[Policy.BOUNDED]) == 0.0
    assert not lanes[Policy.STATIC].record.moves
    first = {policy: lanes[policy].record.moves[0][0] for policy in (Policy.ORACLE, Policy.REACTIVE)}
    assert first[Policy.ORACLE] < first[Policy.REACTIVE] - 120.0, "it sees the surge minutes ahead"


def test_all_policies_get_the_same_requests() -> None:
    """What is compared differs in nothing but the policy."""
    lanes = list(run(surge(), Policy.STATIC, Policy.HASH, Policy.BOUNDED, Policy.REACTIVE).values())
    for lane in lanes[1:]:
        assert lane.record.requests == lanes[0].record.requests
        assert lane.backends.waits.requests == pytest.approx(lanes[0].backends.waits.requests)


def test_the_same_seed_gives_the_same_result() -> None:
    """Workload, arrivals, forecasts and moves: to the last digit; another seed gives another."""
    policies = Policy.REACTIVE, Policy.PREDICTIVE

    def figures(seed: int) -> list[object]:
        lanes = run(workload("tenant-campaigns", seed, Generated(), SMALL), *policies, seed=seed)
        return [(row(lane, seed), lane.record.moves, lane.record.late) for lane in lanes.values()]

    assert figures(3) == figures(3)
    assert figures(3) != figures(4)


def test_an_announced_campaign_is_moved_before_it_begins() -> None:
    """Who knows of the event has moved load before its start; who does not, has not."""
    work = surge()
    draft = Draft(np.random.default_rng(2), SMALL, Generated())
    draft.add_series("orders")
    key, shard, _ = draft.key(0, 5)
    assert shard == 5
    start = work.time(work.warm_bins) + 900.0
    from streams.core.simulation.scenarios import Event

    event = Event(id="e", kind="campaign", start=start, end=start + 600, keys=[key], uplift=8.0)
    on = np.interp(np.arange(len(work.rate)) * 10.0 - (work.warm_bins * 10.0 + 900.0), [-30, 30], [0.0, 1.0])
    rate = np.full_like(work.rate, 75.0)
    rate[:, 5] *= 8.0**on
    work = replace(work, rate=rate.astype(np.float32), events=(event,), rules=work.rules)
    lanes = run(work, Policy.REACTIVE, Policy.PREDICTIVE)
    assert min(at for at, *_ in lanes[Policy.PREDICTIVE].record.moves) < start - 30.0
    assert min(at for at, *_ in lanes[Policy.REACTIVE].record.moves) > start
    assert late(lanes[Policy.PREDICTIVE]) < late(lanes[Policy.REACTIVE])


def test_an_even_load_is_left_alone() -> None:
    """Chance alone moves nothing."""
    lanes = run(workload("even-load", 1, Generated(), SMALL), Policy.REACTIVE, Policy.PREDICTIVE)
    assert all(not lane.record.moves for lane in lanes.values())
    assert all(late(lane) == 0.0 for lane in lanes.values())


def test_a_forecast_made_bad_on_purpose_is_not_trusted() -> None:
    """It is judged by what it says, and its series are served reactively."""
    size = replace(SMALL, warm_s=2.5 * 3600.0)
    work = workload("bad-forecast", 1, Generated(), size)
    lanes = run(work, Policy.REACTIVE, Policy.PREDICTIVE)
    views = lanes[Policy.PREDICTIVE].rounds.last.series  # type: ignore[attr-defined]
    assert views
    assert not any(view.trusted for view in views)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_drawn_at_any_size(name: str) -> None:
    """Its busiest minute is below what all clusters can serve together, and the same seed draws the same."""
    work = workload(name, 2, Generated(), SMALL)
    again = workload(name, 2, Generated(), SMALL)
    assert np.array_equal(work.rate, again.rate)
    assert work.events == again.events
    assert 0.2 < work.utilisation().mean() <= 0.76
    assert work.utilisation().max() < 1.05


def test_hot_keys_keep_to_one_slot() -> None:
    """Most of a hot shard's extra load is on one slot, which cannot be split."""
    draft = Draft(np.random.default_rng(1), SMALL, Generated())
    hot_shards(draft)
    cells = draft.built("hot").cells
    assert len(cells.on_slots()) >= 1


def test_without_a_balancer_the_mapping_stays() -> None:
    """While nobody leads nothing moves; afterwards it goes on."""
    from streams.core.simulation.workload import Span

    work = surge()
    first = work.time(work.warm_bins)
    lanes = run(replace(work, leaderless=(Span(first, first + 1_100.0),)), Policy.REACTIVE)
    times = [at for at, *_ in lanes[Policy.REACTIVE].record.moves]
    assert times
    assert min(times) >= first + 1_100.0


def test_a_loss_of_capacity_is_seen_through_the_reporters() -> None:
    """A cluster loses nearly half, unannounced: reports of its CPU tell. Without them it is seen later."""
    work = surge()
    factor = work.capacity_factor.copy()
    factor[work.warm_bins + 60 :, 1] = 0.55
    work = replace(work, rate=np.full_like(work.rate, 75.0), capacity_factor=factor)
    from streams.core.simulation.workload import Span

    silent = tuple((name, Span(0.0, 1e12)) for name in work.clusters)
    (seen,) = run(work, Policy.REACTIVE).values()
    (unseen,) = run(replace(work, silent=silent), Policy.REACTIVE).values()
    assert {move.source for _, move, _ in seen.record.moves} == {work.clusters[1]}
    assert late(seen) <= late(unseen)


def test_a_move_back_within_ten_minutes_is_a_reversal() -> None:
    """There and back counts once; elsewhere, or later, it does not."""

    def moved(at: float, source: str, target: str) -> tuple[float, Move, float]:
        reason = Reason.OVERLOAD
        return (
            at,
            Move(shard=1, source=source, target=target, slots=[(0, 8)], load_cps=1.0, reason=reason),
            0.0,
        )

    assert reversals([moved(0, "a", "b"), moved(500, "b", "a")]) == 1
    assert reversals([moved(0, "a", "b"), moved(700, "b", "a")]) == 0
    assert reversals([moved(0, "a", "b"), moved(100, "b", "c")]) == 0
