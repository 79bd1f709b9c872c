"""The stored history is learned in bounded time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streams import balancer_history
from streams.balancer_history import learn_history
from streams.clock import Clock
from tests.core.rounds_world import START, World, even

STEPS = 600
FIRST = int(START // 30) - STEPS
STOPPED = Clock(start=START, t0=0.0, time_scale=1e-12)


def stored() -> World:
    """Returns a world with stored steps up to START that nobody has learned."""
    world = World()
    world.history(FIRST, STEPS, even(60.0, 8.0))
    return world


def test_all_of_it_is_learned_where_it_fits() -> None:
    """Every step once, up to the newest."""
    world = stored()
    asyncio.run(learn_history(world.rounds, STOPPED, lambda: True))
    assert world.rounds.outlook.learned == STEPS
    assert world.rounds.outlook.newest_step == FIRST + STEPS - 1


def test_the_oldest_is_passed_over_where_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No time is left after the first 200 steps: the rest is passed over, and the log says so."""
    monkeypatch.setattr(balancer_history, "LEARN_S", 0.0)
    world = stored()
    with caplog.at_level(logging.WARNING):
        asyncio.run(learn_history(world.rounds, STOPPED, lambda: True))
    assert world.rounds.outlook.learned == balancer_history.MEASURED
    assert "passed over" in caplog.text
    assert world.rounds.steps.waiting(START) == 0


def test_it_ends_when_the_term_does() -> None:
    """Another balancer leads: nothing more is learned."""
    world = stored()
    asyncio.run(learn_history(world.rounds, STOPPED, lambda: False))
    assert world.rounds.outlook.learned == 0
