"""Surges: shards that become popular are seen in the round's own rates, and as growing while they grow."""

from __future__ import annotations

import numpy as np
import pytest

from streams.core.surges import AHEAD, Surges

SHARE = np.array([[0.25] * 4, [0.0, 0.0, 0.0, 1.0]])
"""Of two series, one even, one on shard 3 alone."""
ONE = np.ones(2)


def rates(*first: float, second: float = 0.0) -> np.ndarray:
    return np.array([first, [0.0, 0.0, 0.0, second]])


def test_a_shard_that_becomes_popular_keeps_what_it_has_beyond_its_share() -> None:
    """100 requests/s each, one 160: 115 would be its share; cost decides."""
    surging = Surges().expect(0.0, SHARE, rates(100, 160, 100, 100), np.array([2.0, 1.0]))
    assert surging.tolist() == [0.0, pytest.approx(2.0 * (160 - 115)), 0.0, 0.0]


@pytest.mark.parametrize("round_s", [10, 30])
def test_what_it_has_gained_in_half_a_minute_is_expected_again(round_s: int) -> None:
    """From 160 to 190 in 30 s, whatever the interval of rounds; then it stands still, and nothing more."""
    surges = Surges()
    for at in range(0, 31, round_s):
        surging = surges.expect(float(at), SHARE, rates(100, 160 + at, 100, 100), ONE)
    more, gain = 190 - 490 / 4, (190 - 490 / 4) - (160 - 115)
    assert surging[1] == pytest.approx(more + AHEAD * gain)
    for at in range(30 + round_s, 61, round_s):
        surging = surges.expect(float(at), SHARE, rates(100, 190, 100, 100), ONE)
    assert surging[1] == pytest.approx(more)


def test_to_look_twice_at_the_same_time_changes_nothing() -> None:
    """A round may ask again, without events or with others."""
    once, twice = Surges(), Surges()
    for at in (0.0, 30.0):
        first = once.expect(at, SHARE, rates(100, 160 + at, 100, 100), ONE)
        twice.expect(at, SHARE, rates(100, 160 + at, 100, 100), ONE)
        assert twice.expect(at, SHARE, rates(100, 160 + at, 100, 100), ONE).tolist() == first.tolist()


def test_a_gain_is_not_measured_from_long_ago() -> None:
    """After two minutes without a round what was seen before says nothing of a speed."""
    surges = Surges()
    surges.expect(0.0, SHARE, rates(100, 100, 100, 100), ONE)
    assert surges.expect(120.0, SHARE, rates(100, 160, 100, 100), ONE)[1] == pytest.approx(45.0)


def test_a_series_that_grows_is_no_surge_of_its_shards() -> None:
    """Three times as much on every shard, or on the only one that the series has."""
    assert not Surges().expect(0.0, SHARE, rates(300, 300, 300, 300, second=900.0), ONE).any()


@pytest.mark.parametrize(("rate", "seen"), [(112.0, False), (130.0, True)])
def test_little_more_than_its_share_is_no_surge(rate: float, seen: bool) -> None:
    """15 % of a shard's share is within what shares wander."""
    assert (Surges().expect(0.0, SHARE, rates(rate, 100, 100, 100), ONE)[0] > 0) == seen


def test_what_chance_explains_is_no_surge() -> None:
    """Half as much again of 1 request/s is 5 requests in 10 s; of 100 it is 500."""
    assert not Surges().expect(0.0, SHARE, rates(1.5, 1.0, 1.0, 1.0), ONE).any()


def test_a_shard_left_to_its_event_is_neither_judged_nor_a_measure_for_others() -> None:
    """Its campaign would otherwise make the series' other shards look small, and a real surge, too."""
    surging = Surges().expect(0.0, SHARE, rates(900, 150, 100, 100), ONE, {0})
    assert surging[0] == 0.0
    assert surging[1] == pytest.approx(150 - 350 / 3)


def test_a_shard_without_a_share_can_surge() -> None:
    """A new tenant on a shard that had nothing."""
    share = np.array([[0.5, 0.5, 0.0, 0.0]])
    surging = Surges().expect(0.0, share, np.array([[100.0, 100.0, 50.0, 0.0]]), np.ones(1))
    assert surging[2] == pytest.approx(50.0)
