"""The balancer's decisions, fed by records as routers, reporters and operators write them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.errors import InvalidRecordError
from schemas.records import (
    SLOTS,
    Answer,
    Cluster,
    ClusterMetrics,
    Command,
    Decision,
    Event,
    Freeze,
    MappingMeta,
    MappingRecord,
    Mode,
    Reactive,
    Reason,
    Resume,
    Skip,
)
from streams.core.mapping import homes
from tests.core.rounds_world import (
    SETTINGS,
    SHARDS,
    START,
    World,
    add,
    campaign,
    decisions,
    even,
    mapping_of,
    of,
    overloaded,
    started,
    successor,
    user_in,
    with_more,
)

OVER = 30.0
"""Orders/s more on one shard of an even 160: its cluster is over its limit."""


# ---------------------------------------------------------------------------- first start


def test_first_mapping_waits_until_commands_are_read() -> None:
    """A cluster is there, but commands that were stored at take-over are not applied yet."""
    world = World()
    world.rounds.take_over()
    assert mapping_of(world.command(add("c1"))) == []
    assert mapping_of(world.run(20, even(10.0))) == []
    world.rounds.commands_read = True
    written = mapping_of(world.rounds.evaluate(world.now))
    assert len(written) == SHARDS + 1
    assert isinstance(written[-1], MappingMeta)
    assert written[-1].version == 1


def test_first_mapping_waits_for_a_cluster() -> None:
    """Nothing is written while no cluster is registered."""
    world = World().lead()
    assert world.run(30, even(10.0)) == []
    assert world.rounds.snapshot is None


def test_first_mapping_holds_every_cluster_that_was_added_before() -> None:
    """Version 1 has homes on all clusters whose commands were read, in proportion to capacity."""
    world = World()
    world.rounds.take_over()
    for name in ("c1", "c2", "c3"):
        world.command(add(name))
    world.rounds.commands_read = True
    outs = world.rounds.first_start(world.now)
    wanted = homes(SHARDS, {"c1": 100.0, "c2": 100.0, "c3": 100.0})
    assert [r.home for r in of(outs, MappingRecord)] == wanted  # type: ignore[attr-defined]
    assert "16 shards over 3 clusters" in decisions(outs)[0].detail


# ---------------------------------------------------------------------------- commands


def test_command_read_twice_is_applied_once() -> None:
    """The second copy of a command writes nothing, not even an answer."""
    world = started()
    assert of(world.command(Freeze(id="f1", at=START)), Answer)
    world.command(Resume(id="r1", at=START))
    assert world.command(Freeze(id="f1", at=START)) == []
    assert not world.rounds.frozen


def test_cluster_without_its_topic_is_refused() -> None:
    """The answer says what to do; nothing is registered."""
    world = started()
    (answer,) = of(world.command(add("c9"), partitions=None), Answer)
    assert not answer.accepted  # type: ignore[attr-defined]
    assert "requests.c9 does not exist" in answer.text  # type: ignore[attr-defined]
    assert "c9" not in world.rounds.clusters


@pytest.mark.parametrize(
    ("command", "partitions", "reason"),
    [
        (add("c1", number=1, topic="other"), 3, "exists with topic requests.c1"),
        (add("c1", number=1), 4, "had 3 partitions, has 4"),
    ],
)
def test_known_cluster_keeps_topic_and_partitions(command: Command, partitions: int, reason: str) -> None:
    """Another topic or partition count would break the order of keys: refused, nothing written of it."""
    world = started()
    outs = world.command(command, partitions)
    (answer,) = of(outs, Answer)
    assert not answer.accepted  # type: ignore[attr-defined]
    assert reason in answer.text  # type: ignore[attr-defined]
    assert of(outs, Cluster) == []


def test_known_cluster_gets_its_new_capacity() -> None:
    """The registry changes, the mapping does not."""
    world = started()
    outs = world.command(add("c1", capacity=50.0, number=1))
    assert [c.capacity_cps for c in of(outs, Cluster)] == [50.0]  # type: ignore[attr-defined]
    assert mapping_of(outs) == []


def test_known_cluster_gets_its_new_group_in_a_new_version() -> None:
    """Readers learn groups from the mapping only, so a new version says it."""
    world = started()
    (meta,) = mapping_of(world.command(add("c1", number=1, group="other")))
    assert isinstance(meta, MappingMeta)
    assert (meta.version, meta.clusters["c1"].group) == (2, "other")


# ---------------------------------------------------------------------------- joining


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.OBSERVE])
def test_joining_cluster_gets_homes_at_once_and_slots_by_and_by(mode: Mode) -> None:
    """One plan changes homes and moves nothing; slots follow within the budget of each round."""
    world = started(mode=mode)
    world.run(60, even(60.0))
    outs = world.command(add("c4"))
    records = [r for r in mapping_of(outs) if isinstance(r, MappingRecord)]
    assert records
    assert all(r.home == "c4" and r.segments[0][2] != "c4" and r.reason == "join" for r in records)
    assert isinstance(mapping_of(outs)[-1], MappingMeta)
    budget = SETTINGS.planner.budget * 60.0
    made = [d for d in decisions(world.run(600, even(60.0))) if d.skip is None]
    assert {move.reason for d in made for move in d.moves} == {Reason.JOIN}
    assert all(sum(m.load_cps for m in d.moves) <= budget * 1.05 for d in made)
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    assert all(owner == r.home for r in snapshot.records for *_, owner in r.segments)
    assert world.rounds.joined == set()


def test_successor_goes_on_with_a_join() -> None:
    """Homes changed, then the leader died before a slot had followed: they follow all the same."""
    world = started(mode=Mode.OBSERVE)
    world.run(60, even(60.0))
    world.command(add("c4"))
    heir = successor(world).lead()
    assert any(d.skip is None for d in decisions(heir.run(300, even(60.0))))
    assert heir.rounds.joined == set()


# ---------------------------------------------------------------------------- modes and skips


def test_overload_is_moved_in_auto_mode() -> None:
    """The plan is written after its decision, meta last, and the decision has its version."""
    world = started()
    outs = world.run(30, overloaded(world))
    (first, *_) = [d for d in decisions(outs) if d.skip is None]
    assert {move.reason for move in first.moves} == {Reason.OVERLOAD}
    assert all(move.source == "c1" for move in first.moves)
    assert first.version == 2


def test_observe_mode_shows_the_plan_and_writes_none() -> None:
    """The same moves as in auto mode, under the skip observe-mode; the mapping stays at version 1."""
    watching, acting = started(mode=Mode.OBSERVE), started()
    seen = next(d for d in decisions(watching.run(60, overloaded(watching))) if d.moves)
    made = next(d for d in decisions(acting.run(60, overloaded(acting))) if d.moves)
    assert (seen.skip, seen.version) == (Skip.OBSERVE_MODE, 1)
    assert seen.moves == made.moves
    assert watching.rounds.moved == {}


def test_frozen_balancer_says_why_and_moves_nothing_until_resume() -> None:
    """The plan that would have been is shown; after resume it is made."""
    world = started()
    world.command(Freeze(id="f", at=START, reason="release day"))
    rates = overloaded(world)
    frozen = decisions(world.run(60, rates))
    assert {d.skip for d in frozen} == {Skip.FROZEN}
    assert frozen[-1].detail == "release day"
    assert frozen[-1].moves
    world.command(Resume(id="r", at=START))
    assert any(d.skip is None for d in decisions(world.run(30, rates)))


def test_without_reports_nothing_is_decided() -> None:
    """No router has reported yet; later, one has been silent for more than 30 s."""
    world = started()
    (decision,) = decisions(world.rounds.evaluate(world.now + 10))
    assert decision.skip is Skip.INCOMPLETE_METRICS
    world.run(60, overloaded(world))
    (decision,) = decisions(world.rounds.evaluate(world.now + 31))
    assert decision.skip is Skip.INCOMPLETE_METRICS
    assert "ingest partitions [0]" in decision.detail


def test_one_cluster_is_nothing_to_balance() -> None:
    """The round says single-cluster, however full the cluster is."""
    world = started(add("c1"))
    assert {d.skip for d in decisions(world.run(60, even(150.0)))} == {Skip.SINGLE_CLUSTER}


def test_cluster_without_readings_is_left_alone() -> None:
    """A cluster whose group was never read is not known, and the round names it."""
    world = started()
    for _ in range(4):
        world.now += 5.0
        world.rounds.on_load(world.router.report(world.now, even(60.0)))
    (decision,) = decisions(world.rounds.evaluate(world.now))
    assert [view.known for view in decision.clusters] == [False, False, False]


# ---------------------------------------------------------------------------- events


def test_announced_campaign_moves_its_shard_before_it_starts() -> None:
    """Untrusted series: announced demand is planned for all the same, with reason event."""
    world = started()
    user, slot = user_in(world.at_home("c1"))
    world.run(30, even(200.0))
    world.rounds.on_event(f"campaign-{user}", campaign(world.now + 240, world.now + 1200, user, 60.0))
    outs = world.run(120, even(200.0))
    made = [d for d in decisions(outs) if d.skip is None]
    moved = [m for d in made for m in d.moves if m.reason is Reason.EVENT]
    assert slot // SLOTS in {move.shard for move in moved}
    assert made[0].events == [f"campaign-{user}"]


def test_withdrawn_event_moves_nothing() -> None:
    """A tombstone takes it back before its first round."""
    world = started()
    user, _ = user_in(world.at_home("c1"))
    world.run(30, even(200.0))
    world.rounds.on_event(f"campaign-{user}", campaign(world.now + 240, world.now + 1200, user, 60.0))
    world.rounds.on_event(f"campaign-{user}", None)
    assert all(d.skip is not None and d.events == [] for d in decisions(world.run(120, even(200.0))))


def test_announced_loss_of_capacity_empties_in_time() -> None:
    """A cluster that will have half its capacity gives load away before."""
    world = started()
    world.run(30, even(200.0))
    event = Event(
        id="m1",
        kind="maintenance",
        start=world.now + 200,
        end=world.now + 1200,
        cluster="c1",
        capacity_factor=0.5,
    )
    world.rounds.on_event("m1", event)
    made = [d for d in decisions(world.run(60, even(200.0))) if d.skip is None]
    assert {m.source for d in made for m in d.moves} == {"c1"}
    assert {m.reason for d in made for m in d.moves} == {Reason.PREDICTED_OVERLOAD}


@pytest.mark.parametrize(
    "event",
    [
        Event(id="e", kind="k", start=0, end=9, cluster="nowhere", capacity_factor=0.5),
        Event(id="e", kind="k", start=0, end=9, types=["nothing"], uplift=2.0),
    ],
)
def test_event_that_fits_nothing_here_is_refused(event: Event) -> None:
    """An unknown cluster or type: InvalidRecordError, for the caller to dead-letter."""
    with pytest.raises(InvalidRecordError, match="event e names"):
        started().rounds.on_event("e", event)


def test_metrics_of_an_unknown_cluster_are_refused() -> None:
    """A reporter with a mistyped name."""
    with pytest.raises(InvalidRecordError, match="c9, which is not registered"):
        started().rounds.on_metrics(ClusterMetrics(cluster="c9", instance="i", at=START, interval_s=10.0))


# ---------------------------------------------------------------------------- prediction and its worth


def announced(world: World) -> tuple[list[Decision], int]:
    """Lives through a campaign on c1 that was announced and comes; returns the decisions, and its start."""
    user, slot = user_in(world.at_home("c1"))
    world.run(30, even(200.0))
    start = int(world.now) + 240
    world.rounds.on_event(f"campaign-{user}", campaign(start, start + 1200, user, 60.0))
    before = decisions(world.run(240, even(200.0)))
    busy = with_more(even(200.0), [slot // SLOTS], 60.0)
    return before + decisions(world.run(120, busy)), start


def test_moves_made_ahead_are_judged_when_their_load_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The round that moves them says how many; when the campaign has come, by how much it was earlier.

    Room is made for what is declared only, since no more comes: what is moved for more proves unneeded.
    """
    monkeypatch.setattr("streams.core.trust.CAUTION", 0.0)
    made, start = announced(started())
    ahead = [d for d in made if d.prediction is not None and d.prediction.ahead]
    assert ahead[0].at < start
    assert Reason.EVENT in {m.reason for m in ahead[0].moves}
    judged = [item for d in made if d.prediction is not None for item in d.prediction.judged]
    early = {d.id for d in made if d.at < start}
    before = [item for item in judged if item.plan in early]
    assert before
    later = [item for item in before if item.reactive is Reactive.LATER]
    assert sum(item.load_cps for item in later) > 0.9 * sum(item.load_cps for item in before)
    assert min(item.lead_s for item in later) > 60
    assert sum(d.prediction.avoided_overload_s for d in made if d.prediction is not None) > 0


def test_a_reactive_balancer_waits_until_the_load_is_there() -> None:
    """The same campaign under policy = "reactive": no move before its start, then overload, none ahead."""
    world = started(settings=replace(SETTINGS, policy="reactive"))
    made, start = announced(world)
    first = next(d for d in made if d.moves)
    assert first.at > start
    assert {m.reason for d in made for m in d.moves} == {Reason.OVERLOAD}
    assert all(d.prediction is None for d in made)
    assert first.events, "it is announced all the same, and shown"


def test_a_decision_names_what_it_was_made_from() -> None:
    """The offsets that the round had read: its inputs can be read again."""
    world = started()
    world.rounds.offsets = {"p.load": [(0, 17), (1, 4)]}
    (decision, *_) = decisions(world.run(10, even(60.0)))
    assert decision.offsets == {"p.load": [(0, 17), (1, 4)]}
