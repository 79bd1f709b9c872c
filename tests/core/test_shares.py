"""Shares: how much of a series each shard has, learned step by step."""

from __future__ import annotations

import numpy as np
import pytest

from streams.core.shares import Shares

SHARDS = 4


def test_the_first_step_sets_the_shares() -> None:
    """Rows sum to 1, or to 0 for a series that never had a request."""
    shares = Shares(2, SHARDS)
    shares.update(np.array([[30.0, 10.0, 0.0, 0.0], [0.0] * 4]))
    assert shares.share.tolist() == [[0.75, 0.25, 0.0, 0.0], [0.0] * 4]
    shares.update(None)
    shares.update(np.zeros((2, SHARDS)))
    assert shares.share[0].tolist() == [0.75, 0.25, 0.0, 0.0]


def test_a_moved_hot_key_is_learned_in_three_steps_and_noise_slowly() -> None:
    """Off by more than 4 sd twice running: fast; one odd step moves a share by a twentieth."""
    shares = Shares(1, 2)
    for _ in range(40):
        shares.update(np.array([[500.0, 500.0]]))
    shares.update(np.array([[900.0, 100.0]]))
    assert shares.share[0, 0] == pytest.approx(0.52)
    shares.update(np.array([[900.0, 100.0]]))
    shares.update(np.array([[900.0, 100.0]]))
    assert shares.share[0, 0] > 0.73
    assert shares.share.sum() == pytest.approx(1.0)


def test_shares_continue_exactly_from_their_arrays() -> None:
    """to_arrays and from_arrays are a round trip, in the middle of a change too."""
    shares = Shares(2, SHARDS)
    rng = np.random.default_rng(1)
    for _ in range(5):
        shares.update(rng.poisson(50, (2, SHARDS)).astype(float))
    again = Shares.from_arrays(shares.to_arrays())
    step = rng.poisson(90, (2, SHARDS)).astype(float)
    shares.update(step)
    again.update(step)
    np.testing.assert_array_equal(again.share, shares.share)


def learned() -> Shares:
    """Shares of two series: even ones of the first, all of the second on shard 3."""
    shares = Shares(2, SHARDS)
    shares.update(np.array([[300.0] * 4, [0.0, 0.0, 0.0, 300.0]]))
    return shares


def test_a_shard_that_becomes_popular_is_expected_to_grow_as_much_again() -> None:
    """100 requests/s each, one 160: the mean of the other three says what it should have, cost decides."""
    surges = learned().surges(np.array([[100.0, 160.0, 100.0, 100.0], [0.0] * 4]), np.array([2.0, 1.0]))
    assert surges.tolist() == [0.0, pytest.approx(2 * 2.0 * (160 - 115)), 0.0, 0.0]


def test_a_series_that_grows_is_no_surge_of_its_shards() -> None:
    """Three times as much on every shard, or on the only one that the series has."""
    assert not learned().surges(np.array([[300.0] * 4, [0.0, 0.0, 0.0, 900.0]]), np.ones(2)).any()


@pytest.mark.parametrize(("rate", "seen"), [(112.0, False), (130.0, True)])
def test_little_more_than_its_share_is_no_surge(rate: float, seen: bool) -> None:
    """15 % of a shard's share is within what shares wander."""
    surges = learned().surges(np.array([[rate, 100.0, 100.0, 100.0], [0.0] * 4]), np.ones(2))
    assert (surges[0] > 0) == seen


def test_what_chance_explains_is_no_surge() -> None:
    """Half as much again of 1 request/s is 5 requests in 10 s; of 100 it is 500."""
    assert not learned().surges(np.array([[1.5, 1.0, 1.0, 1.0], [0.0] * 4]), np.ones(2)).any()


def test_a_shard_left_to_its_event_is_neither_judged_nor_a_measure_for_others() -> None:
    """Its campaign would otherwise make the series' other shards look small, and a real surge, too."""
    rates = np.array([[900.0, 150.0, 100.0, 100.0], [0.0] * 4])
    surges = learned().surges(rates, np.ones(2), {0})
    assert surges[0] == 0.0
    assert surges[1] == pytest.approx(2 * (150 - 350 / 3))


def test_a_shard_without_a_share_can_surge() -> None:
    """A new tenant on a shard that had nothing."""
    shares = Shares(1, SHARDS)
    shares.update(np.array([[300.0, 300.0, 0.0, 0.0]]))
    assert shares.surges(np.array([[100.0, 100.0, 50.0, 0.0]]), np.ones(1))[2] == pytest.approx(100.0)
