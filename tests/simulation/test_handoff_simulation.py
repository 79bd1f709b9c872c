"""Whole stories of routers, backends, balancer and broker: nothing is lost, repeated or out of order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.simulation.handoff_judge import BrokenPromiseError
from tests.simulation.handoff_story import episode
from tests.simulation.nightly import NIGHTLY, tries

EPISODES = tries(60, 1_500)
"""Of each kind."""
FIRST = random.SystemRandom().randrange(1 << 40) if NIGHTLY else 0

NEEDED = {
    "watched": 100,
    "held": 100,
    "released in parts": 5,
    "take-over": 200,
    "replay": 10,
    "replay of a replay, or of several holds": 3,
    "cut": 10,
    "unproven": 5,
    "poison refused": 10,
    "rescue": 2,
    "cluster joined": 5,
    "note erased": 3,
    "group expired": 1,
    "tail below an open transaction": 3,
}
"""What must have happened in all stories of one kind together, else they try less than they say."""


@pytest.mark.parametrize("rule_kept", [True, False], ids=["rule kept", "rule broken"])
def test_random_stories_keep_the_promise(rule_kept: bool) -> None:
    """Also where the balancer moves shards before their last move is settled."""
    happened: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + EPISODES):
        try:
            happened += episode(seed, rule_kept=rule_kept).happened
        except (BrokenPromiseError, ArithmeticError, LookupError, ValueError) as error:
            raise AssertionError(f"episode({seed}, rule_kept={rule_kept}): {error}") from error
    rare = {what: happened[what] for what, count in NEEDED.items() if happened[what] < count}
    assert not rare, f"of all that is needed there was only {rare}"
