"""Rescue and new key rules, as the leader answers for them."""

from __future__ import annotations

import pytest

from schemas.records import (
    AcceptRules,
    Cluster,
    Freeze,
    MappingMeta,
    Rescue,
    Skip,
)
from tests.core.rounds_world import (
    RULES,
    SHARDS,
    START,
    World,
    add,
    decisions,
    even,
    mapping_of,
    of,
    started,
    successor,
)
from tests.core.test_cluster_states import answer, drained, state

RATES = even(60.0)


def rescue(number: int = 0, cluster: str = "c1") -> Rescue:
    return Rescue(id=f"rescue-{number}", at=START, cluster=cluster)


def rescuing() -> World:
    """Returns a world in which c1 is being rescued."""
    world = drained("down")
    world.run(10, RATES, lags={"c1": 700})
    outs = world.command(rescue(), members=0)
    assert answer(outs).accepted, answer(outs).text
    return world


# ---------------------------------------------------------------------------- rescue


def test_a_rescue_begins_with_an_answer_that_says_how_much_waits() -> None:
    """What it moves and when it ends is told by decisions."""
    world = drained("down")
    world.run(10, RATES, lags={"c1": 700})
    text = answer(world.command(rescue(), members=0)).text
    assert text == "the rescue of c1 has begun: about 700 requests wait in requests.c1"


def test_a_rescue_is_refused_where_it_would_lose_repeat_or_go_nowhere() -> None:
    """Not down, not empty, a group with members, members not known: each with what to type."""
    world = started()
    world.run(30, RATES)
    assert "cluster c9 is not registered" in answer(world.command(rescue(1, "c9"), members=0)).text
    assert "type `foreshard clusters down c1` first" in answer(world.command(rescue(2), members=0)).text
    world.command(state("c1", "down"))
    assert "c1 is down and still owns" in answer(world.command(rescue(3), members=0)).text
    world.run(10, RATES)
    text = answer(world.command(rescue(4), members=2)).text
    assert "group c1-group has members (2)" in text
    assert "stop the backend of c1" in text
    assert "is not known; ask again" in answer(world.command(rescue(5))).text
    assert world.rounds.rescue is None


def test_nothing_is_planned_and_no_state_changes_while_a_rescue_runs() -> None:
    """Slots must stay where their rescued requests go."""
    world = rescuing()
    world.rounds.on_rescued(300, 0)
    made = decisions(world.run(30, even(200.0)))
    assert {d.skip for d in made} == {Skip.HANDOFF_PENDING}
    assert made[0].detail == "c1 is being rescued: 300 requests so far"
    for number, command in enumerate(
        (state("c2", "down"), state("c1", "active"), rescue(1), add("c1", number=7, group="other"))
    ):
        outs = world.command(command, members=0)
        assert not answer(outs).accepted, number
        assert "c1 is being rescued" in answer(outs).text
        assert mapping_of(outs) == []


def test_the_end_of_a_rescue_raises_rescues_in_a_new_version() -> None:
    """Routers see the number rise; the decision carries the id of the command that began it."""
    world = rescuing()
    world.rounds.on_rescued(700, 3)
    outs = world.rounds.end_rescue(world.now)
    world.written += outs
    (cluster,) = of(outs, Cluster)
    (meta,) = mapping_of(outs)
    (decision,) = decisions(outs)
    assert isinstance(cluster, Cluster)
    assert isinstance(meta, MappingMeta)
    assert cluster.rescues == meta.clusters["c1"].rescues == 1
    assert decision.detail == "rescued 700 requests of c1, 3 of them to the dead-letter topic"
    assert (decision.command, decision.skip, decision.version) == ("rescue-0", None, meta.version)
    assert decisions(world.run(10, RATES))[0].skip is not Skip.HANDOFF_PENDING
    assert successor(world).rounds.clusters["c1"].rescues == 1
    assert answer(world.command(state("c1", "removed"), waiting=False)).accepted


@pytest.mark.parametrize("moved", [0, 20])
def test_a_rescue_that_stops_says_why_and_rounds_go_on(moved: int) -> None:
    """What it moved until then counts for routers as well."""
    world = rescuing()
    world.rounds.on_rescued(moved, 0)
    outs = world.rounds.end_rescue(world.now, "group c1-group has members now (1)")
    stopped = decisions(outs)[-1]
    assert (
        stopped.detail
        == f"the rescue of c1 stopped after {moved} requests: group c1-group has members now (1)"
    )
    assert (stopped.command, stopped.skip) == ("rescue-0", Skip.HANDOFF_PENDING)
    assert len(mapping_of(outs)) == (moved > 0)
    assert world.rounds.rescue is None
    assert answer(world.command(rescue(1), members=0)).accepted


def test_a_successor_goes_on_with_the_rescue() -> None:
    """The leader died in the middle: the next one carries it out, and says that it was not all of it."""
    heir = successor(rescuing()).lead()
    assert heir.rounds.rescue is not None
    assert decisions(heir.run(10, RATES))[0].skip is Skip.HANDOFF_PENDING
    heir.rounds.on_rescued(5, 0)
    (decision,) = decisions(heir.rounds.end_rescue(heir.now))
    assert decision.detail == "rescued 5 requests of c1, the rest of what a leader before had begun"
    assert heir.rounds.clusters["c1"].rescues == 1


def test_a_rescue_runs_in_every_mode() -> None:
    """A freeze stops plans, not an operator's command."""
    world = drained("down")
    world.command(Freeze(id="f", at=START))
    assert answer(world.command(rescue(), members=0)).accepted


# ---------------------------------------------------------------------------- new key rules

NEW = "ab" * 32


def accept(number: int = 0, shards: int = SHARDS, rules_hash: str = NEW) -> AcceptRules:
    return AcceptRules(id=f"accept-{number}", at=START, rules_hash=rules_hash, shards=shards)


def test_new_rules_are_written_and_make_the_leader_obsolete() -> None:
    """Meta with the next version and the new hash; no slot moves; the leader says what to start now."""
    world = started()
    outs = world.command(accept(), members=0, held_slots=0)
    assert answer(outs).accepted
    (meta,) = mapping_of(outs)
    assert isinstance(meta, MappingMeta)
    assert (meta.version, meta.rules_hash, meta.shards) == (2, NEW, SHARDS)
    assert decisions(outs)[0].version == 2
    assert "start balancers and routers with the configuration that was accepted" in world.rounds.obsolete


def test_new_rules_wait_for_routers_and_held_requests() -> None:
    """And never for another number of shards. Each refusal says what to do, and changes nothing."""
    world = started()
    for number, (command, found, text) in enumerate(
        [
            (accept(1, shards=32), {"members": 0, "held_slots": 0}, "set shards = 16 in [sharding]"),
            (accept(2), {"members": 2, "held_slots": 0}, "2 routers of the group run; stop all routers"),
            (accept(3), {"members": 0, "held_slots": 1}, "held requests of 1 slot; start one again"),
            (accept(4), {"members": None, "held_slots": 0}, "is not known; ask again"),
            (accept(5), {"members": 0, "held_slots": None}, "is not known; ask again"),
        ]
    ):
        outs = world.command(command, **found)
        assert not answer(outs).accepted, number
        assert text in answer(outs).text
        assert mapping_of(outs) == []
    assert world.rounds.obsolete == ""
    same = answer(world.command(accept(6, rules_hash=RULES.rules_hash()), members=3))
    assert (same.accepted, same.text) == (
        True,
        f"the mapping has these rules already: {RULES.rules_hash()[:12]}",
    )
    assert "no mapping yet" in answer(World().lead().command(accept(), members=0, held_slots=0)).text


def test_a_rescue_ends_before_rules_change() -> None:
    """It reads keys by the old ones."""
    outs = rescuing().command(accept(), members=0, held_slots=0)
    assert "c1 is being rescued by the old rules" in answer(outs).text
