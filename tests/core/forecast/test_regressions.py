"""What ruined other forecasters: each course here made a known model explode, freeze or forecast nothing.

SNARIMAX and scaled linear models reached 1e79 after one spike; Holt-Winters divides by a season of zeros;
exponential weights underflow to a forecast of 0 for ever; one NaN poisons a model for good.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from schemas.records import Event
from streams.core.events import EventBook
from streams.core.forecast import Forecaster
from streams.core.forecast.profile import Floats
from streams.core.key_rules import KeyRules, RequestType, parse_field
from streams.core.load import Step
from streams.core.outlook import Outlook
from streams.core.steps import STEP_S

DAY = 2880
WARM = DAY + 360
AFTER = 240
"""Steps that are scored after what happened: two hours."""


def usual(start: int, steps: int) -> Floats:
    """A day's shape with Poisson noise, some 600 requests a step."""
    shape = 1.2 + np.sin(2 * np.pi * np.arange(start, start + steps) / DAY)
    return np.random.default_rng(start + 1).poisson(500.0 * shape).astype(np.float64)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """What a forecaster knows after more than a day."""
    forecaster = Forecaster(1)
    for index, value in enumerate(usual(0, WARM)):
        forecaster.learn(index, np.array([value]))
    return forecaster.to_arrays()


def spike() -> Floats:
    return np.array([usual(WARM, 1)[0] * 20.0])


def spikes_in_a_row() -> Floats:
    return usual(WARM, 5) * 20.0


def day_of_zeros() -> Floats:
    return np.zeros(DAY)


def unknown() -> Floats:
    return np.array([np.nan, 500.0, np.nan, np.nan])


def gap_of_an_hour() -> Floats:
    return np.full(120, np.nan)


def constant() -> Floats:
    return np.full(DAY // 2, 700.0)


def nothing() -> Floats:
    return np.zeros(0)


def check(forecaster: Forecaster, largest: float) -> None:
    """Finite, not negative, at most twice the largest value, the bounds too but for their margin."""
    path = forecaster.forecast()[0]
    assert np.isfinite(path).all()
    assert path.min() >= 0.0
    assert path.max() <= 2.0 * largest * (1 + 1e-9)
    for level in (0.05, 0.9, 0.95):
        bound = forecaster.bound(level)
        assert np.isfinite(bound).all()
        assert bound.min() >= 0.0
        assert bound.max() <= 20.0 * largest


@pytest.mark.parametrize(
    ("happens", "lasting", "limit"),
    [
        (nothing, 1.0, 1.0),
        (spike, 1.0, 1.2),
        (spikes_in_a_row, 1.0, 2.5),
        (day_of_zeros, 1.0, 1.5),
        (unknown, 1.0, 1.1),
        (gap_of_an_hour, 1.0, 1.1),
        (constant, 1.0, 1.5),
        (nothing, 1.6, 1.3),
        (nothing, 1 / 1.6, 1.3),
    ],
)
def test_it_survives_and_is_useful_again(
    state: dict[str, np.ndarray], happens: Callable[[], Floats], lasting: float, limit: float
) -> None:
    """Whatever happens, and for the two hours after it: bounded, and never far worse than the last value."""
    forecaster = Forecaster(1)
    forecaster.restore(state)
    course = happens()
    after = lasting * usual(WARM + len(course), AFTER)
    largest = float(np.nanmax([*usual(0, WARM), *course, *after]))
    index = WARM
    for value in course:
        forecaster.learn(index, np.array([value]))
        check(forecaster, largest)
        index += 1
    made = []
    for value in after:
        forecaster.learn(index, np.array([value]))
        check(forecaster, largest)
        made.append(forecaster.forecast()[0])
        index += 1
    paths = np.array(made)
    ours = np.mean([np.abs(paths[: AFTER - h, h] - after[h:]).mean() for h in range(1, 11)])
    naive = np.mean([np.abs(after[: AFTER - h] - after[h:]).mean() for h in range(1, 11)])
    assert ours <= limit * naive


def test_an_event_that_is_cancelled_without_a_word_is_not_believed_for_long() -> None:
    """Announced as three times the load, it does not come: bounded before, forgotten within ten minutes."""
    key = (parse_field("json:id"),)
    rules = KeyRules(4, (parse_field("json:type"),), (RequestType("order", key),))
    outlook, book = Outlook(rules), EventBook(rules, ())
    start = 2 * DAY * STEP_S
    event = Event(id="c1", kind="campaign", start=start, end=start + 3600, types=["order"], uplift=3.0)
    book.add(event)
    first = 2 * DAY - 400
    counts = usual(first, 440)
    for index, value in zip(range(first, first + 440), counts, strict=True):
        outlook.learn(Step(index, np.full((1, 4), value / 4)), book)
        rates = np.full((1, 4), value / 4 / STEP_S)
        load = outlook.demand((index + 1) * STEP_S, rates, {}, book).load
        assert np.isfinite(load).all()
        assert load.min() >= 0.0
        assert load.sum(axis=0).max() * STEP_S <= 3.0 * 2.0 * counts.max()
        if (index + 1) * STEP_S >= start + 600:
            assert load.sum(axis=0).max() * STEP_S <= 1.3 * value
