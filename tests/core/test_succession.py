"""A new leader goes on where the last one stopped, from what that one wrote."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import RulesMismatchError
from schemas.records import Freeze, MappingMeta, Mode, Reason, Resume
from streams.core.keys import KeyRules
from streams.core.learned import SAVE_STEPS
from streams.core.rounds import Rounds
from tests.core.rounds_world import (
    RULES,
    SETTINGS,
    START,
    World,
    add,
    campaign,
    decisions,
    even,
    mapping_of,
    overloaded,
    started,
    successor,
    user_in,
)


def test_take_over_writes_the_new_epoch_at_once() -> None:
    """Meta with the old version and the next epoch, before any round; a third leader goes one higher."""
    world = started()
    heir = successor(world).lead()
    (meta,) = mapping_of(heir.written[len(world.written) :])
    assert isinstance(meta, MappingMeta)
    assert (meta.epoch, meta.version) == (2, 1)
    third = successor(heir).lead()
    assert third.rounds.epoch == 3


def test_epoch_rises_before_there_is_a_mapping() -> None:
    """Also a leader that found no cluster leaves its epoch behind."""
    world = World().lead()
    assert successor(world).lead().rounds.epoch == 2


def test_other_rules_may_not_lead() -> None:
    """Another shard count or key rule: refused with both hashes, whatever the rest."""
    rules = KeyRules(shards=32, type_from=RULES.type_from, types=RULES.types)
    rounds = Rounds(rules, SETTINGS, 1)
    for record in mapping_of(started().written):
        rounds.builder.apply(record)
    with pytest.raises(RulesMismatchError, match=r"16 shards.*32 shards"):
        rounds.take_over()


def test_successor_continues_as_if_nothing_had_happened() -> None:
    """Mode, freeze, cooldowns, dwells, shares, answers, round numbers: then the same decisions follow."""
    world = started()
    first = int(START // 30)
    world.run(400, overloaded(world))
    world.command(Freeze(id="f", at=START, reason="x"))
    world.command(Resume(id="r", at=START))
    heir = successor(world)
    assert (heir.rounds.mode, heir.rounds.frozen, heir.rounds.round) == (Mode.AUTO, False, world.rounds.round)
    assert heir.rounds.arrived == world.rounds.arrived
    assert heir.rounds.moved == world.rounds.moved != {}
    assert heir.rounds.answered == world.rounds.answered
    assert heir.rounds.clusters == world.rounds.clusters
    assert same_owners(heir, world)
    heir.rounds.learn(heir.now, 1_000)
    assert heir.rounds.outlook.newest_step == world.rounds.outlook.newest_step >= first
    assert np.array_equal(heir.rounds.outlook.shares.share, world.rounds.outlook.shares.share)
    heir.lead()
    rates = even(60.0)
    ours, theirs = (decisions(one.run(1200, rates)) for one in (world, heir))
    assert [(d.round, d.skip, d.moves, d.version) for d in ours] == [
        (d.round, d.skip, d.moves, d.version) for d in theirs
    ]
    assert any(m.reason is Reason.RETURN for d in ours for m in d.moves)


def test_successor_in_mid_campaign_forecasts_the_same() -> None:
    """Killed between two saves: what was learned since is learned again, and nothing differs afterwards."""
    world = started()
    user, _ = user_in(world.at_home("c2"))
    step = int(START // 30)
    world.history(step - 500, 500, even(60.0, 8.0), swing=0.3)
    world.announce(campaign(START + 200, START + 4000, user, 62.0))
    world.run(1160, even(60.0, 8.0))
    heir = successor(world)
    taken = heir.rounds.outlook.newest_step
    assert taken is not None
    heir.rounds.learn(heir.now, 1_000)
    assert 0 < world.rounds.outlook.newest_step - taken < SAVE_STEPS  # type: ignore[operator]
    heir.lead()
    for _ in range(3):
        for one in (world, heir):
            one.run(300, even(60.0, 8.0))
        ours, theirs = world.rounds, heir.rounds
        assert np.allclose(
            ours.outlook.forecaster.forecast(), theirs.outlook.forecaster.forecast(), atol=1e-9
        )
        assert ours.events.trust == theirs.events.trust
        assert ours.events.trust.tracks
        assert (ours.arrived, ours.moved) == (theirs.arrived, theirs.moved)
    assert world.rounds.moved
    assert same_owners(heir, world)


def same_owners(one: World, other: World) -> bool:
    first, second = one.rounds.snapshot, other.rounds.snapshot
    assert first is not None
    assert second is not None
    return first.version == second.version and bool((first.owners == second.owners).all())


def test_frozen_balancer_stays_frozen_under_its_successor() -> None:
    """The reason is kept too."""
    world = started()
    world.command(Freeze(id="f", at=START, reason="release day"))
    heir = successor(world).lead()
    assert (heir.rounds.frozen, heir.rounds.freeze_reason) == (True, "release day")


def test_successor_knows_how_far_the_last_leader_had_read() -> None:
    """What was dead-lettered before those offsets is not dead-lettered again."""
    world = started()
    world.rounds.offsets = {"p.load": [(0, 17), (1, 4)]}
    world.run(10, even(10.0))
    assert successor(world).rounds.offsets == {"p.load": [(0, 17), (1, 4)]}


def test_same_signals_make_the_same_bytes() -> None:
    """No clock, chance or order of hashing decides anything."""

    def life() -> list[bytes]:
        world = started()
        user, _ = user_in(world.at_home("c2"))
        world.rounds.on_event(f"campaign-{user}", campaign(START + 300, START + 900, user, 50.0))
        world.history(int(START // 30) - 260, 260, even(150.0), swing=0.3)
        world.run(200, overloaded(world))
        world.command(add("c4"))
        world.run(600, even(200.0))
        return [out.record.to_json() for out in world.written if out.record]

    assert life() == life()
