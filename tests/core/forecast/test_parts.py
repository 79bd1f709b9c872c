"""The forecaster's parts: features, the usual day, heads, the verdict, the evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from streams.core.forecast import SeriesForecaster, evaluate
from streams.core.forecast.features import COUNT, Features
from streams.core.forecast.heads import Head
from streams.core.forecast.profile import Profile
from streams.core.forecast.skill import Errors, Score

DAY = 2880


def test_there_are_22_features_within_their_limits() -> None:
    """A spike in the values does not show in full."""
    features = Features(30.0, 10)
    for index in range(100):
        features.push(index, 5.0 + 0.01 * (index % 2), known=True)
        row = features.vector()
    features.push(100, 50.0, known=True)
    spiked = features.vector()
    assert len(row) == COUNT == 22
    assert np.abs(spiked[1:13]).max() < 1.0


def test_features_do_not_depend_on_scale() -> None:
    """Ten times the requests are a constant in the logs: the same features."""
    small, large = Features(30.0, 10), Features(30.0, 10)
    rng = np.random.default_rng(1)
    for index in range(DAY + 200):
        value = float(rng.normal())
        small.push(index, value, known=True)
        large.push(index, value + np.log(10.0), known=True)
    np.testing.assert_allclose(small.vector(), large.vector(), atol=1e-9)


def test_the_weekend_is_a_feature() -> None:
    """Step 0 is a Thursday midnight; Saturday begins two days later and Monday four."""
    days = []
    for day in range(6):
        features = Features(30.0, 10)
        features.push(day * DAY, 0.0, known=True)
        days.append(features.vector()[-1])
    assert days == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_the_profile_knows_minutes_after_a_day() -> None:
    """Unknown before; then linear between the middles of minutes."""
    profile = Profile(30.0)
    assert profile.at(600.0) is None
    for index in range(DAY + 2):
        second = (index + 0.5) * 30.0 % 86_400
        profile.learn(second, float(second // 60))
    assert profile.at(630.0) == pytest.approx(10.0)
    assert profile.at(660.0) == pytest.approx(10.5)
    assert profile.at(660.0 + 86_400) == pytest.approx(10.5)


def test_the_profile_uses_ten_minutes_for_slow_series() -> None:
    """Steps of 5 minutes leave minutes empty."""
    profile = Profile(300.0)
    for index in range(288 + 2):
        profile.learn((index + 0.5) * 300.0 % 86_400, 3.0)
    assert profile.at(12_345.0) == pytest.approx(3.0)


def test_the_profile_weighs_the_first_days_alike_and_then_newer_ones_more() -> None:
    """Days 1, 2, 3 make 2; after many days of 2 a day of 4 counts 15 %."""
    profile = Profile(600.0)
    for day, level in enumerate([1.0, 2.0, 3.0, *[2.0] * 20, 4.0]):
        for place in range(144):
            profile.learn(place * 600.0, level)
        if day == 2:
            assert profile.at(300.0) == pytest.approx(2.0)
    assert profile.at(300.0) == pytest.approx(2.3, abs=0.01)


def test_a_head_learns_a_linear_rule_in_spite_of_outliers() -> None:
    """Weights 0.5 and -0.3 from noisy samples, every 50th of them absurd."""
    head, rng = Head(5), np.random.default_rng(1)
    for number in range(3000):
        x = rng.normal(size=2)
        sample = {0: 1.0, 1: float(x[0]), 2: float(x[1])}
        truth = 0.5 * x[0] - 0.3 * x[1] + rng.normal(0, 0.05)
        head.learn(sample, head.predict(sample), float(truth if number % 50 else truth + 40.0))
    assert head.predict({0: 0.0, 1: 1.0, 2: 0.0}) == pytest.approx(0.5, abs=0.05)
    assert head.predict({0: 0.0, 1: 0.0, 2: 1.0}) == pytest.approx(-0.3, abs=0.05)


def test_an_untaught_head_predicts_no_change() -> None:
    """Zero weights: the level stays."""
    assert Head(1).predict({0: 1.0, 1: 3.0}) == 0.0


@pytest.mark.parametrize(
    ("model", "naive", "trusted", "said"),
    [
        (1.05, 1.0, True, ""),
        (1.2, 1.0, False, "last value"),
        (4.0, 8.0, False, "of the load"),
    ],
)
def test_the_gate(model: float, naive: float, trusted: bool, said: str) -> None:
    """Worse than 1.1 times the last value, or errors over 35 % of the load: not trusted, and why."""
    score = Score(30.0)
    score.known = 1000
    for index in range(500):
        score.add(index, model, naive, 10.0)
    skill = score.skill(499)
    assert skill.trusted is trusted
    assert said in skill.why_not


def test_trust_is_won_back_when_bad_errors_are_a_day_old() -> None:
    """Half a bad day, then good steps: trusted as soon as the bad ones left the window of 24 h."""
    score = Score(30.0)
    score.known = 1000
    for index in range(DAY // 2):
        score.add(index, 9.0, 2.0, 10.0)
    for index in range(DAY // 2, DAY):
        score.add(index, 1.0, 2.0, 10.0)
    assert not score.skill(DAY - 1).trusted
    for index in range(DAY, DAY + DAY // 2):
        score.add(index, 1.0, 2.0, 10.0)
    assert score.skill(DAY + DAY // 2).trusted


def test_nothing_scored_in_a_day_is_not_trusted() -> None:
    """Data, but all of it longer ago than a day."""
    score = Score(30.0)
    score.known = 1000
    score.add(10, 1.0, 1.0, 10.0)
    assert score.skill(DAY + 10).why_not == "no forecast of the last 24 h could be checked"


def test_a_constant_series_has_a_finite_relative_error() -> None:
    """The last value makes no errors: tiny ones of the model are no reason to distrust it."""
    assert Errors(model=0.5, naive=0.0, observed=1000.0, scored=10).relative_mae == pytest.approx(1.5)
    assert Errors(model=0.0, naive=0.0, observed=0.0, scored=10).relative_mae == 1.0
    assert Errors(model=0.0, naive=0.0, observed=0.0, scored=0).relative_mae is None


def test_the_evaluation_compares_step_by_step() -> None:
    """Before 30 steps the forecast is the last value: both errors of 0, 1, 2, ... are the steps ahead."""
    done = evaluate(SeriesForecaster(), np.arange(25.0))
    np.testing.assert_allclose(done.mae[1:], np.arange(1.0, 11.0))
    np.testing.assert_allclose(done.naive_mae, done.mae)
    assert done.relative(10) == 1.0
    assert done.scored == 25
