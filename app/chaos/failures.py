"""What will fail when: a seeded schedule, made before the run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Role = Literal["router", "backend", "mapping", "broker"]
What = Literal["kill", "freeze", "routers"]

GAP_S = 4.0
"""Mean seconds between two failures."""
GAP_MIN_S, GAP_MAX_S = 0.3, 10.0
QUIET_S = 3.0
"""Seconds at the beginning in which nothing fails: a run that never worked shows nothing."""
ROLES: tuple[tuple[Role, float], ...] = (("router", 0.5), ("backend", 0.4), ("mapping", 0.1))
KILL_SHARE = 0.6
"""Of failures; the rest are stopped processes that continue."""
AT_ONCE_SHARE = 0.3
"""Of killed processes: started again at once, as a supervisor does."""
DEAD_MAX_S = 6.0
LONG_SHARE = 0.35
"""Of stopped processes: longer than the router's 8 s session, so that others take over."""
SHORT_S, LONG_S = (0.3, 4.0), (9.0, 13.0)
SCALES = ((0.12, 3), (0.65, 2))
"""(part of the run, routers from then on); it begins with one."""
BROKER_AT = (0.35, 0.5)
"""Part of the run between which the broker is killed."""
BROKER_DEAD_S = (5.0, 7.0)
"""Longer than the 4 s after which the controller has fenced it: see app/chaos/kafka.py."""


@dataclass(frozen=True)
class Failure:
    """One thing that will happen."""

    at_s: float
    what: What
    role: Role
    pick: float = 0.0
    """In 0..1: which of the role's processes that run then."""
    for_s: float = 0.0
    """Until it is started again, or continued."""
    count: int = 0
    """Routers from then on, for `what` = routers."""


def schedule(seed: int, seconds: float) -> list[Failure]:
    """Returns the failures of a run of so many seconds, by time."""
    chance = random.Random(f"failures-{seed}")
    planned = [Failure(part * seconds, "routers", "router", count=count) for part, count in SCALES]
    broker_at = chance.uniform(*BROKER_AT) * seconds
    planned.append(Failure(broker_at, "kill", "broker", for_s=chance.uniform(*BROKER_DEAD_S)))
    at_s = QUIET_S
    while True:
        at_s += min(max(chance.expovariate(1 / GAP_S), GAP_MIN_S), GAP_MAX_S)
        if at_s >= seconds:
            return sorted(planned, key=lambda failure: failure.at_s)
        planned.append(_failure(chance, at_s))


def _failure(chance: random.Random, at_s: float) -> Failure:
    role = chance.choices([role for role, _ in ROLES], [share for _, share in ROLES])[0]
    pick = chance.random()
    if chance.random() < KILL_SHARE:
        dead_s = 0.0 if chance.random() < AT_ONCE_SHARE else chance.uniform(0.0, DEAD_MAX_S)
        return Failure(at_s, "kill", role, pick, dead_s)
    span = LONG_S if chance.random() < LONG_SHARE else SHORT_S
    return Failure(at_s, "freeze", role, pick, chance.uniform(*span))
