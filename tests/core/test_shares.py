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
