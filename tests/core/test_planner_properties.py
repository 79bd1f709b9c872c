"""The planner's promises, attacked with random worlds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import ClusterState, Reason, Segment, Skip
from streams.core.planner import ClusterInput, Plan, PlanInput, PlannerSettings, plan
from streams.core.planner.board import Board
from tests.core.planner_world import COLUMNS, NOW, after, cluster, world

SETTINGS = PlannerSettings()
EPS = 1e-6
LEAVING = (Reason.DRAIN, Reason.DOWN)


@st.composite
def worlds(draw: st.DrawFn) -> PlanInput:
    """Random loads, capacities, states and mappings: 1-12 shards on 1-5 clusters."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    names = "abcde"[: draw(st.integers(1, 5))]
    states = st.sampled_from([*[ClusterState.ACTIVE] * 5, ClusterState.DRAINING, ClusterState.DOWN])
    clusters = [
        replace(
            cluster(name, capacity=random.uniform(10, 200) * np.minimum(random.uniform(0.5, 2, COLUMNS), 1)),
            state=draw(states),
            known=random.random() > 0.1,
            closed=str(random.choice(["", "", "", "", "memory", "latency"])),
            backlog=float(random.choice([0.0, 0.0, random.uniform(0, 1000)])),
        )
        for name in names
    ]
    shards = draw(st.integers(1, 12))
    total = sum(float(c.capacity[0]) for c in clusters) * draw(st.floats(0, 1.3))
    base = random.pareto(1.2, shards) + 0.01
    loads = (base / base.sum() * total)[:, None] * random.uniform(0.3, 2.5, (shards, COLUMNS))
    loads[random.random(shards) < 0.1] = 0.0
    homes = [str(random.choice(list(names))) for _ in range(shards)]
    drifts = {s: _segments(random, names) for s in range(shards) if random.random() < 0.4}
    skew = {s: _skew(random) for s in range(shards) if random.random() < 0.3}
    return world(
        list(loads),
        homes,
        clusters,
        drifts,
        skew=skew,
        arrived={
            (s, n): NOW - 200 * random.random() for s in range(shards) for n in names if random.random() < 0.2
        },
        moved={s: NOW - 2_000 * random.random() for s in range(shards) if random.random() < 0.5},
        pending={s for s in range(shards) if random.random() < 0.1},
        event_shards={s for s in range(shards) if random.random() < 0.3},
    )


def _segments(random: np.random.Generator, names: str) -> list[Segment]:
    cuts = sorted({0, 256, *random.integers(1, 256, random.integers(0, 6)).tolist()})
    owners = [str(random.choice(list(names))) for _ in cuts[1:]]
    return list(zip(cuts[:-1], cuts[1:], owners, strict=True))


def _skew(random: np.random.Generator) -> np.ndarray:
    weights = random.random(256) * 0.01
    weights[random.integers(0, 256, 3)] += random.pareto(1.0, 3)
    return np.asarray(weights / weights.sum())


def check(inputs: PlanInput, made: Plan, limits: PlannerSettings) -> None:
    """Asserts everything that every plan promises."""
    by_name = {c.name: c for c in inputs.clusters}
    assert (made.skip is None) == bool(made.moves)
    assert made.detail
    records = after(inputs, made.moves)  # raises when a slot is not its source's or does not tile
    for move in made.moves:
        source, target = by_name[move.source], by_name[move.target]
        assert target.known
        assert target.state is ClusterState.ACTIVE
        assert not target.closed
        assert source.known or source.state is not ClusterState.ACTIVE
        assert move.shard not in inputs.pending or source.state is ClusterState.DOWN
        if move.reason not in LEAVING:
            arrived = inputs.arrived.get((move.shard, move.source))
            assert arrived is None or NOW - arrived >= limits.cooldown_s
        if move.reason is Reason.RETURN:
            assert move.target == inputs.records[move.shard].home
            assert NOW - inputs.moved.get(move.shard, 0.0) > limits.dwell_s
    spent = sum(m.load_cps for m in made.moves if m.reason not in LEAVING)
    assert spent <= limits.budget * inputs.load[:, 0].sum() + EPS
    had_to_leave = {m.shard for m in made.moves if m.reason in LEAVING}
    for old, new in zip(inputs.records, records, strict=True):
        if old.shard in had_to_leave:
            continue
        before = {s[2] for s in old.segments} - {old.home}
        now = {s[2] for s in new.segments} - {new.home}
        assert len(now) <= max(len(before), limits.max_targets)
    _check_limits(inputs, made, limits)


def _check_limits(inputs: PlanInput, made: Plan, limits: PlannerSettings) -> None:
    """No move fills a target over its limit, nor makes anything fuller than the fullest was."""
    if any(move.reason in LEAVING for move in made.moves):
        return
    board = Board(inputs, limits)
    full, demand = board.limits.fill_to, dict(made.demand)
    for move in made.moves:
        target = board.row[move.target]
        slots = np.concatenate([np.arange(*item) for item in move.slots])
        moved = board.weights(move.shard, slots).sum() * inputs.load[move.shard]
        demand[move.source] = demand[move.source] - moved
        demand[move.target] = demand[move.target] + moved
        loaded = moved > EPS
        assert (demand[move.target] <= full * board.capacity[target] + EPS)[loaded].all()
    highest_return = float(board.limits.home_below.max())
    known = [c.name for c in inputs.clusters if c.known]
    if known:
        worst_before = max(made.score_before[name] for name in known)
        assert max(made.score_after[name] for name in known) <= max(worst_before, highest_return) + EPS


@settings(max_examples=300, deadline=None, derandomize=True)
@given(worlds())
def test_every_plan_keeps_every_promise(inputs: PlanInput) -> None:
    """Slots, tiling, budget, targets, cooldown, dwell, limits: at the settings as shipped."""
    check(inputs, plan(inputs, SETTINGS), SETTINGS)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(worlds(), st.floats(0.0, 1.0), st.integers(1, 3), st.integers(0, 4))
def test_promises_hold_for_other_settings(inputs: PlanInput, budget: float, targets: int, moves: int) -> None:
    """With any budget, number of targets and number of moves."""
    limits = replace(SETTINGS, budget=budget, max_targets=targets, max_moves=moves)
    check(inputs, plan(inputs, limits), limits)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_same_inputs_give_the_same_plan(inputs: PlanInput, random: object) -> None:
    """Whatever the order in which clusters, arrivals and moves are listed."""
    clusters: list[ClusterInput] = list(inputs.clusters)
    random.shuffle(clusters)  # type: ignore[attr-defined]
    shuffled = replace(
        inputs,
        clusters=clusters,
        arrived=dict(reversed(list(inputs.arrived.items()))),
        moved=dict(reversed(list(inputs.moved.items()))),
    )
    one, other = plan(inputs, SETTINGS), plan(shuffled, SETTINGS)
    assert (one.moves, one.skip, one.detail, one.stuck) == (
        other.moves,
        other.skip,
        other.detail,
        other.stuck,
    )


def test_even_load_moves_nothing_all_day() -> None:
    """8,640 rounds of 60 shards on 6 clusters with 10 % of noise and a daily wave: no move."""
    random = np.random.default_rng(7)
    clusters = [cluster(f"c{n}", 100.0) for n in range(6)]
    homes = [f"c{n % 6}" for n in range(60)]
    for number in range(0, 8_640, 20):
        wave = 5.5 + 1.3 * np.sin(2 * np.pi * (number + 3 * np.arange(COLUMNS)) / 8_640)
        loads = wave * random.normal(1, 0.1, (60, 1))
        made = plan(world(list(loads), homes, clusters), SETTINGS)
        assert (made.moves, made.skip in (Skip.BALANCED, Skip.WITHIN_BAND)) == ([], True)
