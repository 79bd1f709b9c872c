"""A simulation: the same requests, second by second, under every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from streams.core.load import WINDOW_S
from streams.core.planner import PlannerSettings
from streams.core.round_settings import RoundSettings
from streams.core.simulation.lanes import (
    UNMOVED,
    Balanced,
    Lane,
    Policy,
    Spilling,
    homes_by_hash,
    homes_by_load,
)
from streams.core.simulation.views import Blind, Measured, Truth, View, step_counts, taught, warm_steps
from streams.core.simulation.workload import BIN_S, BINS_PER_STEP, Floats, Ints, Workload
from streams.core.steps import STEP_S, Step

SECONDS = round(BIN_S)
WINDOW = round(WINDOW_S)
SOURCES = 1_000
"""Numbers of the sources of chance: others than those of the scenarios."""
EVERY_BINS = 360
"""Progress is told every hour."""


@dataclass(frozen=True)
class Setting:
    """Which policies, at which intervals of rounds, under which settings."""

    policies: Sequence[Policy] = tuple(Policy)
    rounds_s: Sequence[float] = (10.0,)
    """Multiples of 10 s."""
    settings: RoundSettings = field(default_factory=lambda: RoundSettings(PlannerSettings()))

    def __post_init__(self) -> None:
        wrong = [length for length in self.rounds_s if length <= 0 or length % BIN_S]
        if wrong:
            raise ValueError(f"rounds every {wrong[0]} s: the simulator takes multiples of {BIN_S:.0f} s")


def simulate(
    work: Workload, setting: Setting, seed: int, told: Callable[[float], None] = lambda _part: None
) -> list[Lane]:
    """Returns what became of the load under every policy. The same seed gives the same result.

    1. learn the days before: once for all policies; 2. every 10 s: tell what was measured, let every
    policy decide, let the requests come. `told` hears which part is done.
    """
    warm, chance, errors = (np.random.default_rng([seed, SOURCES + number]) for number in range(3))
    world = World(work, setting, warm, errors)
    bins = range(work.warm_bins, len(work.rate))
    for number in bins:
        if (number - work.warm_bins) % EVERY_BINS == 0:
            told((number - work.warm_bins) / len(bins))
        world.tell(number)
        for lane in world.lanes:
            lane.decide(number)
        rate = work.rate[number].astype(np.float64)
        world.come(number, chance.poisson(rate, (SECONDS, len(rate))).astype(np.float64))
    return world.lanes


class World:
    """All lanes, and what their balancers measure and forecast together."""

    def __init__(
        self, work: Workload, setting: Setting, warm: np.random.Generator, errors: np.random.Generator
    ) -> None:
        self.work = work
        self.measured = Measured(work.rules)
        self._bins: list[Floats] = []
        """Requests of the bins that are not told yet, float64[seconds, cells]."""
        self._step = np.zeros(len(work.cells))
        self._views = _views(work, setting.policies, warm, errors)
        forecasting = (self._views[policy] for policy in FORECASTING if policy in self._views)
        self._learning = list({id(view): view for view in forecasting}.values())
        by_load = homes_by_load(work.known_load(), work.capacity_cps)
        self.lanes = [
            self._lane(policy, round_s, by_load, setting.settings)
            for policy in setting.policies
            for round_s in setting.rounds_s[: None if policy in COMPARED else 1]
        ]

    def _lane(self, policy: Policy, round_s: float, by_load: Ints, settings: RoundSettings) -> Lane:
        work = self.work
        by_hash = homes_by_hash(
            work.rules.shards, dict(zip(work.clusters, work.capacity_cps.tolist(), strict=True))
        )
        if policy is Policy.BOUNDED:
            return Spilling(work, policy, round_s, by_hash)
        if policy in UNMOVED:
            return Lane(work, policy, round_s, by_hash if policy is Policy.HASH else by_load)
        knows = self.measured, self._views[policy], self._views[ANNOUNCED.get(policy, policy)]
        return Balanced(work, policy, by_load, replace(settings, round_s=round_s), knows)

    def come(self, number: int, requests: Floats) -> None:
        """Lets the requests of a bin come to every policy's clusters."""
        for lane in self.lanes:
            lane.advance(number, requests)
        self._bins.append(requests)

    def tell(self, number: int) -> None:
        """Tells what was measured up to 10 s before a bin begins, and closes the step that ended then."""
        if len(self._bins) < 2:
            return
        requests = self._bins.pop(0)
        end = self.work.time(number - 1)
        for first in range(0, SECONDS, WINDOW):
            window = requests[first : first + WINDOW].sum(axis=0)
            self.measured.report(self.work.cells, window, end - BIN_S + first + WINDOW)
        self._step += requests.sum(axis=0)
        if (number - 1 - self.work.warm_bins) % BINS_PER_STEP == 0:
            step = Step(round(end / STEP_S) - 1, step_counts(self.work, self._step))
            self._step[:] = 0.0
            for view in self._learning:
                view.learn(step, view.events)


COMPARED = frozenset({Policy.REACTIVE, Policy.PREDICTIVE})
"""Policies that are run at every interval of rounds; the others at the first one."""
FORECASTING = (Policy.PREDICTIVE, Policy.NO_EVENTS)
ANNOUNCED = {Policy.UNORDERED: Policy.REACTIVE, Policy.NO_EVENTS: Policy.REACTIVE}
"""Whose events a policy knows, where not its own: those two know of none."""


def _views(
    work: Workload, policies: Sequence[Policy], warm: np.random.Generator, errors: np.random.Generator
) -> dict[Policy, View]:
    """Returns what each policy with a balancer looks ahead with; what is equal is one object."""
    blind = Blind(work)
    views: dict[Policy, View] = {Policy.REACTIVE: blind, Policy.UNORDERED: blind}
    if Policy.ORACLE in policies:
        views[Policy.ORACLE] = Truth(work)
    forecasting = [policy for policy in FORECASTING if policy in policies]
    if not forecasting:
        return views
    steps = list(warm_steps(work, warm))
    noise = errors.spawn(2)
    demand = any(event.cluster is None for event in work.events)
    if Policy.PREDICTIVE in policies or not demand:
        views[Policy.PREDICTIVE] = taught(work, work.events, steps, noise[0])
    if Policy.NO_EVENTS in policies:
        views[Policy.NO_EVENTS] = taught(work, (), steps, noise[1]) if demand else views[Policy.PREDICTIVE]
    return views
