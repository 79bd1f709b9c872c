"""The forecaster's parts: features, the usual day, heads, the verdict, the evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from streams.core.forecast import Forecaster, evaluate
from streams.core.forecast.features import COUNT, Features
from streams.core.forecast.heads import Heads
from streams.core.forecast.mix import Mix
from streams.core.forecast.profile import Floats, Profile
from streams.core.forecast.skill import Errors, Score, Skill

DAY = 2880
ONE = np.array([0])


def push(features: Features, index: int, value: float) -> None:
    features.push(ONE, index, np.array([value]), ONE)


def vector(features: Features, index: int) -> Floats:
    found = features.matrix(index, features.usual_day(index), features.yesterday(index))
    row: Floats = features.clamp(ONE, found)[0]
    return row


def add(score: Score, index: int, model: float, naive: float, observed: float) -> None:
    score.add(index, np.array([True]), np.array([model]), np.array([naive]), np.array([observed]))


def verdict(score: Score, newest: int) -> Skill:
    return score.skills(np.array([1000]), newest)[0]


def level(profile: Profile, second: float) -> float:
    return float(profile.at(np.array([second]))[0, 0])


def test_there_are_22_features_within_their_limits() -> None:
    """A spike in the values does not show in full."""
    features = Features(1, 30.0, 10)
    for index in range(100):
        push(features, index, 5.0 + 0.01 * (index % 2))
        row = vector(features, index)
    push(features, 100, 50.0)
    spiked = vector(features, 100)
    assert len(row) == COUNT == 22
    assert np.abs(spiked[1:13]).max() < 1.0


def test_features_do_not_depend_on_scale() -> None:
    """Ten times the requests are a constant in the logs: the same features."""
    small, large = Features(1, 30.0, 10), Features(1, 30.0, 10)
    rng = np.random.default_rng(1)
    for index in range(DAY + 200):
        value = float(rng.normal())
        push(small, index, value)
        push(large, index, value + np.log(10.0))
    np.testing.assert_allclose(vector(small, index), vector(large, index), atol=1e-5)


def test_the_weekend_is_a_feature() -> None:
    """Step 0 is a Thursday midnight; Saturday begins two days later and Monday four."""
    days = []
    for day in range(6):
        features = Features(1, 30.0, 10)
        push(features, day * DAY, 0.0)
        days.append(vector(features, day * DAY)[-1])
    assert days == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_the_profile_knows_minutes_after_a_day() -> None:
    """Unknown before; then linear between the middles of minutes."""
    profile = Profile(1, 30.0)
    assert np.isnan(level(profile, 600.0))
    for index in range(DAY + 2):
        second = (index + 0.5) * 30.0 % 86_400
        profile.learn(ONE, second, np.array([second // 60]))
    assert level(profile, 630.0) == pytest.approx(10.0)
    assert level(profile, 660.0) == pytest.approx(10.5)
    assert level(profile, 660.0 + 86_400) == pytest.approx(10.5)


def test_the_profile_uses_ten_minutes_for_slow_series() -> None:
    """Steps of 5 minutes leave minutes empty."""
    profile = Profile(1, 300.0)
    for index in range(288 + 2):
        profile.learn(ONE, (index + 0.5) * 300.0 % 86_400, np.array([3.0]))
    assert level(profile, 12_345.0) == pytest.approx(3.0)


def test_the_profile_weighs_the_first_days_alike_and_then_newer_ones_more() -> None:
    """Days 1, 2, 3 make 2; after many days of 2 a day of 4 counts 15 %."""
    profile = Profile(1, 600.0)
    for day, usual in enumerate([1.0, 2.0, 3.0, *[2.0] * 20, 4.0]):
        for place in range(144):
            profile.learn(ONE, place * 600.0, np.array([usual]))
        if day == 2:
            assert level(profile, 300.0) == pytest.approx(2.0)
    assert level(profile, 300.0) == pytest.approx(2.3, abs=0.01)


def test_heads_learn_a_linear_rule_in_spite_of_outliers() -> None:
    """Weights 0.5 and -0.3 from noisy samples, every 50th of them absurd; the pooled one learns it too."""
    heads, rng = Heads(2, (1, 5)), np.random.default_rng(1)
    rows = np.array([0])
    for number in range(3000):
        sample = np.zeros((1, COUNT))
        sample[0, :3] = 1.0, *rng.normal(size=2)
        truth = 0.5 * sample[0, 1] - 0.3 * sample[0, 2] + rng.normal(0, 0.05)
        own, pooled = heads.predict(rows, sample)
        seen = np.array([truth if number % 50 else truth + 40.0])
        heads.learn(1, rows, sample, own[1], pooled[1], seen)
    unit = np.zeros((2, COUNT))
    unit[0, 1] = unit[1, 2] = 1.0
    own, pooled = heads.predict(np.array([0, 0]), unit)
    assert own[1] == pytest.approx([0.5, -0.3], abs=0.05)
    assert pooled[1] == pytest.approx([0.5, -0.3], abs=0.05)
    assert own[0].tolist() == [0.0, 0.0], "a head that learned nothing predicts no change"
    assert heads.predict(np.array([1]), unit[:1])[0].tolist() == [[0.0], [0.0]]


def test_the_pooled_head_is_taught_by_every_series_in_turn() -> None:
    """By eight of them at a time."""
    heads = Heads(20, (1,))
    told: set[int] = set()
    for _ in range(10):
        told |= set(heads._in_turn(20))
    assert told == set(range(20))


def test_the_mix_follows_the_better_expert_and_leaves_it_again() -> None:
    """One of three is right at first, later another one."""
    mix = Mix(1, 1, 3)
    rng = np.random.default_rng(1)
    np.testing.assert_allclose(mix.weights(), 1 / 3)
    for better in (0, 2):
        for _ in range(2000):
            truth = 100.0 + rng.normal(0, 10)
            experts = truth + rng.normal(0, 10, 3)
            experts[better] = truth + rng.normal(0, 1)
            mixed = (mix.weights()[0, 0] * experts).sum()
            mix.learn(
                np.array([[True]]),
                experts[None, None],
                np.array([[mixed]]),
                np.array([[truth + rng.normal(0, 10)]]),
                np.array([truth]),
            )
        assert mix.weights()[0, 0, better] > 0.8
    before = mix.weights()
    mix.learn(
        np.array([[False]]), experts[None, None] * 9, np.array([[1.0]]), np.array([[1.0]]), np.array([5.0])
    )
    np.testing.assert_array_equal(mix.weights(), before)


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
    score = Score(1, 30.0)
    for index in range(500):
        add(score, index, model, naive, 10.0)
    skill = verdict(score, 499)
    assert skill.trusted is trusted
    assert said in skill.why_not


def test_trust_is_won_back_when_bad_errors_are_a_day_old() -> None:
    """Half a bad day, then good steps: trusted as soon as the bad ones left the window of 24 h."""
    score = Score(1, 30.0)
    for index in range(DAY // 2):
        add(score, index, 9.0, 2.0, 10.0)
    for index in range(DAY // 2, DAY):
        add(score, index, 1.0, 2.0, 10.0)
    assert not verdict(score, DAY - 1).trusted
    for index in range(DAY, DAY + DAY // 2):
        add(score, index, 1.0, 2.0, 10.0)
    assert verdict(score, DAY + DAY // 2).trusted


def test_nothing_scored_in_a_day_is_not_trusted() -> None:
    """Data, but all of it longer ago than a day."""
    score = Score(1, 30.0)
    add(score, 10, 1.0, 1.0, 10.0)
    assert verdict(score, DAY + 10).why_not == "no forecast of the last 24 h could be checked"


def test_a_constant_series_has_a_finite_relative_error() -> None:
    """The last value makes no errors: tiny ones of the model are no reason to distrust it."""
    assert Errors(model=0.5, naive=0.0, observed=1000.0, scored=10).relative_mae == pytest.approx(1.5)
    assert Errors(model=0.0, naive=0.0, observed=0.0, scored=10).relative_mae == 1.0
    assert Errors(model=0.0, naive=0.0, observed=0.0, scored=0).relative_mae is None


def test_the_evaluation_compares_step_by_step() -> None:
    """Before 30 steps the forecast is the last value: both errors of 0, 1, 2, ... are the steps ahead."""
    done = evaluate(Forecaster(1), 0, np.arange(25.0)[:, None], np.array([0]))
    np.testing.assert_allclose(done.mae[0, 1:], np.arange(1.0, 11.0))
    np.testing.assert_allclose(done.naive_mae, done.mae)
    assert done.relative(0, 10) == 1.0


def test_the_evaluation_scores_nothing_that_is_not_known() -> None:
    """Neither what came while unknown, nor forecasts made then, nor what was to be skipped."""
    values = np.full((60, 2), 5.0)
    values[20:30, 0] = np.nan
    values[:, 1] = np.arange(60.0)
    done = evaluate(Forecaster(2), 0, values, np.array([0, 50]))
    np.testing.assert_allclose(done.mae[0], 0.0, atol=0.1)
    assert np.isfinite(done.mae).all()
    assert done.coverage90[0, 1] == 1.0
