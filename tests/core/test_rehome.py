"""Other homes: what is proposed, what a command does, and what stays away for a day."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.records import Freeze, MappingMeta, MappingRecord, Mode, Reason, Rehome, Resume
from streams.core.rehome import EVEN, STAYED_S, propose, settle_in
from tests.core.rounds_world import (
    SETTINGS,
    SHARDS,
    START,
    World,
    decisions,
    even,
    mapping_of,
    overloaded,
    started,
    successor,
)
from tests.core.test_cluster_states import answer, state

# ---------------------------------------------------------------------------- proposals


def full(load: np.ndarray, homes: list[str], capacities: dict[str, float]) -> float:
    """Returns how full the fullest cluster is with these homes."""
    held = {name: sum(load[s] for s, home in enumerate(homes) if home == name) for name in capacities}
    return max(held[name] / capacity for name, capacity in capacities.items())


def test_even_homes_stay() -> None:
    """Within .05 of the mean nothing is worth moving."""
    load = np.array([10.0, 10.0, 10.4, 9.6])
    assert propose(load, ["a", "a", "b", "b"], {"a": 50.0, "b": 50.0}) == {}


def test_only_what_is_too_much_moves() -> None:
    """`a` has 40 of 50, the mean is 25: its largest shards stay, 14 of its small ones go."""
    load = np.array([12.0, 12.0, 8.0, 5.0, 3.0, 5.0, 5.0])
    homes = ["a", "a", "a", "a", "a", "b", "b"]
    assert propose(load, homes, {"a": 50.0, "b": 50.0}) == {2: "b", 3: "b"}


def test_homes_follow_capacities() -> None:
    """One cluster takes three times as much as the other."""
    load, homes, capacities = np.full(40, 1.0), ["a", "b"] * 20, {"a": 30.0, "b": 90.0}
    new = propose(load, homes, capacities)
    assert set(new.values()) == {"b"}
    assert len(new) == 10
    after = [new.get(shard, home) for shard, home in enumerate(homes)]
    assert full(load, after, capacities) <= (1 + EVEN) * 40 / 120


def test_a_shard_larger_than_any_share_goes_where_it_hurts_least() -> None:
    """60 of 80 on the small cluster: the large one is its place, and the small shards make room there."""
    load = np.array([60.0, 10.0, 10.0])
    new = propose(load, ["a", "b", "b"], {"a": 40.0, "b": 80.0})
    assert new[0] == "b"
    assert full(load, [new.get(s, h) for s, h in enumerate("abb")], {"a": 40.0, "b": 80.0}) < 60 / 40


def test_a_shard_whose_home_is_not_active_keeps_it() -> None:
    """It comes back when the cluster does."""
    load = np.array([10.0, 30.0, 30.0, 1.0])
    new = propose(load, ["x", "a", "a", "b"], {"a": 50.0, "b": 50.0})
    assert new == {2: "b"}
    assert propose(load, ["x"] * 4, {"a": 50.0}) == {}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6))
def test_a_proposal_makes_the_fullest_cluster_less_full_or_is_none(
    seed: int, shards: int, clusters: int
) -> None:
    """Whatever loads, homes and capacities there are; it names real changes only, whatever the order."""
    random = np.random.default_rng(seed)
    capacities = {f"c{n}": float(random.uniform(10, 100)) for n in range(clusters)}
    load = random.pareto(1.2, shards) * (random.random(shards) > 0.1)
    homes = [str(name) for name in random.choice(sorted(capacities), shards)]
    new = propose(load, homes, capacities)
    assert new == propose(load, homes, dict(reversed(capacities.items())))
    assert all(homes[shard] != home and home in capacities for shard, home in new.items())
    after = [new.get(shard, home) for shard, home in enumerate(homes)]
    if new:
        assert full(load, after, capacities) < full(load, homes, capacities)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_many_small_shards_become_even_with_little_movement(seed: int) -> None:
    """200 shards, none over 2 % of the load: even within a shard, and no more moves than was too much."""
    random = np.random.default_rng(seed)
    capacities = {name: float(random.uniform(50, 100)) for name in "abcde"}
    load = random.uniform(0.5, 1.5, 200)
    homes = [str(name) for name in random.choice(list("abcde"), 200, p=[0.4, 0.3, 0.1, 0.1, 0.1])]
    new = propose(load, homes, capacities)
    after = [new.get(shard, home) for shard, home in enumerate(homes)]
    mean = float(load.sum()) / sum(capacities.values())
    assert full(load, after, capacities) <= (1 + EVEN) * mean + float(load.max()) / min(capacities.values())
    held = {n: sum(load[s] for s, home in enumerate(homes) if home == n) for n in capacities}
    too_much = sum(max(held[n] - (1 + EVEN) * mean * c, 0.0) for n, c in capacities.items())
    assert sum(load[shard] for shard in new) <= too_much + 5 * float(load.max())


# ---------------------------------------------------------------------------- the command


def rehome(homes: list[tuple[int, str]], number: int = 0) -> Rehome:
    return Rehome(id=f"rehome-{number}", at=START, homes=homes)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.OBSERVE])
def test_commanded_homes_change_at_once_and_slots_follow_within_the_budget(mode: Mode) -> None:
    """In every mode; the moves say rehome, and in the end everything is at its new home."""
    world = started(mode=mode)
    world.run(60, even(60.0))
    shards = world.at_home("c1")[:3]
    outs = world.command(rehome([(shard, "c2") for shard in shards]))
    assert answer(outs).text == (
        "3 of 16 shards have new homes; the slots of 3 follow within the budget of each round"
    )
    records = [item for item in mapping_of(outs) if isinstance(item, MappingRecord)]
    assert [(r.shard, r.home, r.segments, r.reason) for r in records] == [
        (shard, "c2", [(0, 256, "c1")], "rehome") for shard in shards
    ]
    made = [d for d in decisions(world.run(300, even(60.0))) if d.skip is None]
    assert {move.reason for d in made for move in d.moves} == {Reason.REHOME}
    budget = SETTINGS.planner.budget * 60.0
    assert all(sum(m.load_cps for m in d.moves) <= budget * 1.05 for d in made)
    assert set(shards) <= set(world.at_home("c2"))
    assert world.rounds.rehomed == set()
    assert away(world) == set()


def away(world: World) -> set[int]:
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    return {r.shard for r in snapshot.records if any(owner != r.home for *_, owner in r.segments)}


def test_a_rehome_is_refused_where_it_fits_nothing() -> None:
    """No mapping, no such shard, a cluster that is not there or leaves; nothing is written of it."""
    assert "no mapping yet" in answer(World().lead().command(rehome([(0, "c1")]))).text
    world = started()
    world.run(30, even(60.0))
    world.command(state("c3", "draining"))
    for number, (homes, text) in enumerate(
        [
            ([(SHARDS, "c1")], "shard 16 is not below 16"),
            ([(0, "c9")], "c9: no active cluster"),
            ([(0, "c3"), (1, "c1")], "c3: no active cluster; type `foreshard rehome`"),
        ]
    ):
        outs = world.command(rehome(homes, number))
        assert not answer(outs).accepted
        assert text in answer(outs).text
        assert mapping_of(outs) == []
    with pytest.raises(ValidationError, match="shard 3 gets 2 homes"):
        rehome([(3, "c1"), (3, "c2")])


def test_homes_that_are_the_homes_already_change_nothing() -> None:
    """Accepted, and no version is written."""
    world = started()
    shard = world.at_home("c1")[0]
    outs = world.command(rehome([(shard, "c1")]))
    assert (answer(outs).accepted, answer(outs).text) == (True, "these are the homes already")
    assert mapping_of(outs) == []


def test_a_successor_goes_on_with_a_rehome() -> None:
    """In observe mode, where nobody else would move anything."""
    world = started(mode=Mode.OBSERVE)
    world.run(60, even(60.0))
    world.command(rehome([(world.at_home("c1")[0], "c2")]))
    heir = successor(world).lead()
    assert any(d.skip is None for d in decisions(heir.run(100, even(60.0))))
    assert away(heir) == set()


# ---------------------------------------------------------------------------- what stays away


def strayed() -> World:
    """Returns a world in which shards of c1 have moved away, and their time is running."""
    world = started()
    world.run(300, overloaded(world))
    assert world.rounds.away
    return world


def test_what_stays_away_for_a_day_is_at_home_there() -> None:
    """With most of its slots: a second earlier it is not, and the smaller drifts never are."""
    world = strayed()
    stays = {shard: cluster for shard, (cluster, _) in world.rounds.away.items()}
    since = max(at for _, at in world.rounds.away.values())
    first = min(at for _, at in world.rounds.away.values())
    assert settle_in(world.rounds, first + STAYED_S - 1) == []
    outs = settle_in(world.rounds, since + STAYED_S)
    *records, meta = mapping_of(outs)
    assert isinstance(meta, MappingMeta)
    assert {r.shard: r.home for r in records if isinstance(r, MappingRecord)} == stays
    assert {r.reason for r in records if isinstance(r, MappingRecord)} == {"rehome"}
    assert f"{len(stays)} shard" in decisions(outs)[0].detail
    assert not set(stays) & set(world.rounds.away)


def test_rounds_settle_in_what_stayed() -> None:
    """A day later the next round writes the plan, beside its own decision."""
    world = strayed()
    world.now += STAYED_S
    made = decisions(world.run(10, overloaded(world)))
    assert "away for a day, now at home where most of its slots are" in made[0].detail
    assert len(made) == 2


def test_nothing_settles_in_while_rounds_may_not_move_it_back() -> None:
    """Frozen; and a shard whose home drains comes back with it."""
    world = strayed()
    later = world.now + STAYED_S
    world.command(Freeze(id="f", at=START))
    assert settle_in(world.rounds, later) == []
    world.command(Resume(id="r", at=START))
    world.command(state("c1", "draining"))
    assert settle_in(world.rounds, later) == []
    assert world.rounds.away == {}


def test_a_successor_knows_how_long_shards_have_been_away() -> None:
    """The day goes on under the next leader."""
    world = strayed()
    heir = successor(world).lead()
    assert heir.rounds.away == world.rounds.away != {}


def test_a_new_home_begins_a_new_day() -> None:
    """A shard that was away for 23 hours gets another home by command: its day begins again."""
    world = strayed()
    shard, (cluster, since) = next(iter(sorted(world.rounds.away.items())))
    (other,) = {"c1", "c2", "c3"} - {cluster, "c1"}
    world.now = since + 23 * 3600
    assert answer(world.command(rehome([(shard, other)]))).accepted
    assert shard not in world.rounds.away
    settle_in(world.rounds, since + STAYED_S)
    assert shard not in {r.shard for r in world.rounds.snapshot.records if r.home == cluster}  # type: ignore[union-attr]
    assert world.rounds.away[shard] == (cluster, since + STAYED_S)
