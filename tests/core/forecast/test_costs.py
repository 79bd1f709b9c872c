"""What requests cost, learned from CPU."""

from __future__ import annotations

import numpy as np
import pytest

from streams.core.forecast import Costs

CONFIGURED = np.array([1.0, 1.0, 2.0])
TRUE = np.array([0.5, 2.0, 2.0])
BASE = 0.05
CAPACITIES = (100.0, 300.0)


def taught(samples: int, noise: float = 0.02, true: np.ndarray = TRUE, seed: int = 1) -> Costs:
    """Returns costs taught by clusters whose mix of requests wanders."""
    costs, chance = Costs(CONFIGURED), np.random.default_rng(seed)
    for number in range(samples):
        capacity = CAPACITIES[number % 2]
        rps = capacity * np.array([0.3, 0.15, 0.05]) * chance.uniform(0.5, 1.5, 3)
        cpu = BASE + float(true @ rps) / capacity + noise * chance.standard_normal()
        costs.learn(rps, capacity, cpu)
        costs.count(np.array([60.0, 30.0, 10.0]))
    return costs


def test_as_configured_until_two_hours_are_learned() -> None:
    """239 samples are too few, whatever they say."""
    assert np.array_equal(taught(239).now(), CONFIGURED)
    assert not np.array_equal(taught(240).now(), CONFIGURED)


def test_proportions_are_learned_and_the_mean_is_kept() -> None:
    """True costs come out, scaled: the mean request costs as much as it is configured to."""
    found = taught(1000).now()
    assert found / found[1] == pytest.approx(TRUE / TRUE[1], rel=0.1)
    mix = np.array([60.0, 30.0, 10.0])
    assert float(found @ mix) == pytest.approx(float(CONFIGURED @ mix))


def test_cpu_that_requests_do_not_explain_teaches_nothing() -> None:
    """Pure noise: the error stays over 15 % of what is used, so what is configured counts."""
    costs, chance = Costs(CONFIGURED), np.random.default_rng(2)
    for _ in range(1000):
        costs.learn(chance.uniform(1, 50, 3), 100.0, float(chance.uniform(0.05, 0.9)))
        costs.count(np.ones(3))
    assert not costs.learned
    assert (costs.relative_error or 0.0) > 0.15
    assert np.array_equal(costs.now(), CONFIGURED)


def test_a_type_that_never_comes_keeps_its_proportion() -> None:
    """Of a type without requests nothing is learned: its cost stays that of the configuration, scaled."""
    costs, chance = Costs(CONFIGURED), np.random.default_rng(3)
    for _ in range(1000):
        rps = np.array([*(100 * np.array([0.3, 0.15]) * chance.uniform(0.5, 1.5, 2)), 0.0])
        costs.learn(rps, 100.0, BASE + float(TRUE @ rps) / 100)
        costs.count(np.array([60.0, 30.0, 0.0]))
    assert costs.learned
    assert costs.now()[2] == pytest.approx(2.0, rel=0.15)


def test_impossible_samples_are_passed_over() -> None:
    """Full CPU, no capacity, no requests, NaN."""
    costs, rps = Costs(CONFIGURED), np.array([10.0, 5.0, 1.0])
    for bad in ((rps, 100.0, 1.0), (rps, 0.0, 0.5), (0 * rps, 100.0, 0.5), (rps * np.nan, 100.0, 0.5)):
        costs.learn(*bad)
    costs.learn(rps, 100.0, float("nan"))
    assert costs.samples == 0


def test_costs_follow_a_change_of_the_backend() -> None:
    """A release makes type 0 four times as heavy: most of it is known within a thousand samples (8 h)."""
    costs, chance = taught(1000), np.random.default_rng(4)
    for _ in range(1000):
        rps = 100.0 * np.array([0.3, 0.15, 0.05]) * chance.uniform(0.5, 1.5, 3) * 0.7
        costs.learn(rps, 100.0, BASE + float(np.array([2.0, 2.0, 2.0]) @ rps) / 100)
    found = costs.now()
    assert found[0] / found[1] > 0.7


def test_restored_they_continue_exactly() -> None:
    """And those of another number of series are refused."""
    ours, theirs = taught(500), Costs(CONFIGURED)
    theirs.restore(ours.to_arrays())
    for one in (ours, theirs):
        one.learn(np.array([10.0, 5.0, 1.0]), 100.0, 0.4)
    assert np.array_equal(ours.now(), theirs.now())
    with pytest.raises(ValueError, match="3 series"):
        Costs(CONFIGURED[:2]).restore(ours.to_arrays())
