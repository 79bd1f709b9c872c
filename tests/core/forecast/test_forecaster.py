"""The forecaster on what breaks forecasters: spikes, zeros, gaps, steps, constants; and that it is useful."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.core.forecast import Forecaster, Skill, evaluate

Floats = NDArray[np.float64]
DAY = 2880


def daily(days: float, seed: int = 1, mean: float = 600.0) -> Floats:
    """Requests per 30-s step: a daily shape, slow wandering, Poisson noise."""
    rng = np.random.default_rng(seed)
    step = np.arange(int(days * DAY))
    shape = 1.2 + np.sin(2 * np.pi * step / DAY) + 0.3 * np.sin(6 * np.pi * step / DAY)
    wander = np.exp(np.cumsum(rng.normal(0.0, 0.004, len(step))))
    values: Floats = rng.poisson(mean * np.maximum(shape, 0.05) * wander).astype(np.float64)
    return values


class One:
    """A forecaster of one series."""

    def __init__(self) -> None:
        self.all = Forecaster(1)

    def learn(self, index: int, value: float | None) -> None:
        self.all.learn(index, np.array([np.nan if value is None else value]))

    def forecast(self) -> Floats:
        path: Floats = self.all.forecast()[0]
        return path

    @property
    def skill(self) -> Skill:
        return self.all.skill()[0]


def check(forecaster: One, largest: float) -> None:
    """The promises about any forecast: finite, not negative, at most twice the largest value."""
    path = forecaster.forecast()
    assert path.shape == (11,)
    assert np.isfinite(path).all()
    assert path.min() >= 0.0
    assert path.max() <= 2.0 * largest + 1e-6
    for level in (0.05, 0.9, 0.95):
        bound = forecaster.all.bound(level)
        assert np.isfinite(bound).all()
        assert bound.min() >= 0.0


def run(values: Floats, every: int = 7) -> One:
    """Learns all values and checks the forecast at every 7th step."""
    forecaster = One()
    largest = 0.0
    for index, value in enumerate(values):
        forecaster.learn(index, float(value))
        largest = max(largest, float(np.nan_to_num(value)))
        if index % every == 0:
            check(forecaster, largest)
    return forecaster


def test_it_beats_the_last_value_on_a_daily_shape() -> None:
    """From the second day on, one, five and ten steps ahead."""
    done = evaluate(Forecaster(1), 0, daily(3)[:, None], np.array([DAY]))
    assert [done.relative(0, ahead) < 0.95 for ahead in (1, 5, 10)] == [True] * 3
    assert 0.87 < done.coverage90[0, 1:].mean() < 0.93


def test_a_recurring_import_is_expected_before_it_begins() -> None:
    """Five times the load for five minutes of every hour, never announced: seen on the third day."""
    values = daily(2.2)
    for hour in range(0, len(values), 120):
        values[hour + 60 : hour + 70] *= 5.0
    forecaster = run(values[: 2 * DAY + 56], every=1000)
    ahead = forecaster.forecast()
    assert ahead[5] > 2.0 * ahead[1]


def test_only_zeros_from_the_start_stay_zero() -> None:
    """A type that nobody uses."""
    forecaster = run(np.zeros(500))
    assert forecaster.forecast().max() == 0.0


def test_a_constant_series_is_forecast_as_constant() -> None:
    """Also after its level changes once."""
    forecaster = run(np.full(1000, 300.0))
    np.testing.assert_allclose(forecaster.forecast(), 300.0, rtol=0.01)
    assert forecaster.skill.trusted
    for index in range(1000, 1400):
        forecaster.learn(index, 480.0)
    np.testing.assert_allclose(forecaster.forecast(), 480.0, rtol=0.02)


def test_unknown_values_change_nothing_that_is_known() -> None:
    """NaN, None, negative and absurd values are skipped: the last forecast goes on, unscored."""
    values = daily(0.5)
    forecaster = run(values)
    before, skill = forecaster.forecast(), forecaster.skill
    for shift, unknown in enumerate([float("nan"), None, -5.0, float("inf"), 1e300]):
        forecaster.learn(len(values) + shift, unknown)
    np.testing.assert_array_equal(forecaster.forecast()[:6], before[5:])
    assert forecaster.skill == skill


def test_a_gap_of_an_hour_is_survived() -> None:
    """Steps that were left out, or given as None, are the same; the forecast after it is sound."""
    values = daily(1.2)
    given_none, left_out = One(), One()
    for index, value in enumerate(values):
        missing = 3000 <= index < 3120
        given_none.learn(index, None if missing else float(value))
        if not missing:
            left_out.learn(index, float(value))
    np.testing.assert_allclose(given_none.forecast(), left_out.forecast())
    check(left_out, float(values.max()))
    assert left_out.forecast()[5] == pytest.approx(values[-1], rel=0.3)


def test_a_gap_of_weeks_costs_nothing_and_forgets_the_day() -> None:
    """A million steps without data: at once; the forecast starts again from the newest value."""
    forecaster = run(daily(0.5))
    for index in range(1_000_000, 1_000_040):
        forecaster.learn(index, 50.0)
    np.testing.assert_allclose(forecaster.forecast(), 50.0, rtol=0.5)


def test_steps_must_rise() -> None:
    """A step learned twice is a mistake of the caller."""
    forecaster = One()
    forecaster.learn(5, 1.0)
    with pytest.raises(ValueError, match="step 5 does not follow step 5"):
        forecaster.learn(5, 1.0)


def test_before_30_steps_the_last_value_is_the_forecast() -> None:
    """And before the first one it is 0."""
    forecaster = One()
    assert forecaster.forecast().tolist() == [0.0] * 11
    assert not forecaster.skill.trusted
    forecaster.learn(7, 40.0)
    assert forecaster.forecast().tolist() == [40.0] * 11


def test_less_than_two_hours_of_data_are_not_trusted() -> None:
    """239 steps are not enough, 240 are: for a series that is forecast well."""
    forecaster = run(np.full(239, 300.0))
    assert not forecaster.skill.trusted
    assert "h of data" in forecaster.skill.why_not
    forecaster.learn(239, 300.0)
    assert forecaster.skill.trusted


def test_a_series_that_cannot_be_forecast_is_gated() -> None:
    """Independent values over three powers of ten: the errors are most of the load."""
    values = 10.0 ** np.random.default_rng(3).uniform(0.0, 3.0, 1000)
    skill = run(values).skill
    assert not skill.trusted
    assert "of the load" in skill.why_not


def test_a_series_does_not_depend_on_its_neighbours() -> None:
    """But for the pooled head: what one misses or begins late changes little for another."""
    values = np.stack([daily(0.6), daily(0.6, seed=2, mean=20.0), daily(0.6, seed=3)], axis=1)
    values[:800, 1] = np.nan
    values[1200:1300, 2] = np.nan
    together, alone = Forecaster(3), One()
    for index, row in enumerate(values):
        together.learn(index, row)
        alone.learn(index, float(row[0]))
    np.testing.assert_allclose(together.forecast()[0], alone.forecast(), rtol=0.1)


def test_bounds_hold_what_comes_after_a_shock() -> None:
    """A value above its bound: for ten steps the upper bounds are not below the newest value."""
    values = daily(1.2)
    forecaster = run(values, every=1000)
    forecaster.learn(len(values), float(values[-1] * 3.0))
    assert (forecaster.all.bound(0.95)[0, 1:] >= values[-1] * 3.0).all()
    assert (forecaster.all.bound(0.05)[0] <= forecaster.forecast()).all()


def test_a_successor_forecasts_the_same() -> None:
    """What was saved and restored goes on exactly, also with a gap and a series that has just begun."""
    values = np.stack([daily(1.2), daily(1.2, seed=2)], axis=1)
    values[:3440, 1] = np.nan
    first = Forecaster(2)
    for index, row in enumerate(values[:3450]):
        first.learn(index, row)
    saved = first.to_arrays()
    second = Forecaster(2)
    second.restore({name: value.copy() for name, value in saved.items()})
    for index in [*range(3450, 3453), *range(3454, len(values))]:
        first.learn(index, values[index])
        second.learn(index, values[index])
        np.testing.assert_array_equal(second.forecast(), first.forecast())
        np.testing.assert_array_equal(second.bound(0.95), first.bound(0.95))
    assert second.skill() == first.skill()


def test_the_state_of_other_series_is_refused() -> None:
    """Another number of them, or another step."""
    saved = Forecaster(2).to_arrays()
    with pytest.raises(ValueError, match="other series"):
        Forecaster(3).restore(saved)
    with pytest.raises(ValueError, match="other series"):
        Forecaster(2, step_s=60.0).restore(saved)


def test_the_same_steps_give_the_same_forecast() -> None:
    """No chance and no clock in it."""
    values = daily(0.3)
    np.testing.assert_array_equal(run(values).forecast(), run(values).forecast())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(allow_nan=True), st.floats(0, 1e6), st.just(0.0)),
        min_size=60,
        max_size=300,
    )
)
def test_whatever_comes_the_forecast_is_finite_and_bounded(values: list[float | None]) -> None:
    """Any mixture of unknown, absurd and usual values."""
    forecaster = One()
    largest = 0.0
    for index, value in enumerate(values):
        forecaster.learn(index, value)
        if value is not None and 0 <= value <= 1e15:
            largest = max(largest, value)
        path = forecaster.forecast()
        assert np.isfinite(path).all()
        assert path.min() >= 0.0
        assert path.max() <= 2.0 * largest * (1 + 1e-9) + 1e-6
