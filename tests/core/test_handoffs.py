"""What the handoffs of one router share: memory, the mapping, what is known of groups and dead clusters."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.records import ClusterState
from streams.core.fences import ClusterNumbers
from streams.core.handoff import Base, HandoffSettings, Phase
from streams.core.handoffs import Handoffs, aim_of
from streams.core.held import ROW_BYTES, HeldRequest
from streams.core.keys import KeyReader
from streams.core.routing import Routes, Sent, route
from tests.simulation.handoff_world import RULES, Record, World, name_at

NEVER = 1e9


class Site:
    """Two ingest partitions of one router; slot 0 of both is on its way from a to b."""

    def __init__(self, **settings: object) -> None:
        made = HandoffSettings(**settings)  # type: ignore[arg-type]
        self.world = World(made, rule_kept=False, home="a")
        self.numbers = ClusterNumbers()
        self.handoffs = Handoffs(made, self.numbers)
        self.take_up(0.0)
        for partition in (0, 1):
            self.handoffs.begin(partition, 0, None, Base(), 0.0)
            self.send(partition, 0, last={("a", 0): 5})
        self.world.move([0], "b")
        self.take_up(1.0)
        self.handoffs.advance(2.0)

    def take_up(self, now: float) -> None:
        """The router uses the newest mapping."""
        self.handoffs.change(aim_of(self.world.snapshots[-1], self.numbers), now)

    def send(self, partition: int, slot: int, last: dict[tuple[str, int], int]) -> None:
        """A transaction with one request of a slot, to a; `last` is what was reported of it."""
        one = [np.array([number]) for number in (partition, slot, 0, slot % 2)]
        sent = Sent(*one, ordered=np.array([True]))
        self.handoffs.sent(sent)
        self.handoffs.written(sent, last)

    def hold(self, partition: int, *offsets: int, size: int = 0) -> None:
        """Holds requests of slot 0."""
        for offset in offsets:
            self.handoffs.active[partition].hold(request(offset, size))


def request(offset: int, size: int = 0) -> HeldRequest:
    """A request of slot 0, as it is held."""
    return HeldRequest(offset, 0, "ordered", b"v" * size, None, None, 1)


def test_there_is_no_aim_before_the_first_mapping() -> None:
    """Who asks too early is told what comes first."""
    handoffs = Handoffs(HandoffSettings(), ClusterNumbers())
    assert not handoffs.has_aim
    with pytest.raises(RuntimeError, match=r"no mapping yet: change\(\) comes first"):
        _ = handoffs.aim


def test_phases_are_counted_over_all_partitions() -> None:
    """Both partitions hold slot 0; only a's progress would change that."""
    handoffs = Site().handoffs
    assert (handoffs.phases(), handoffs.moving()) == ({Phase.WATCH: 0, Phase.HOLD: 2}, True)
    assert {handoffs.numbers.names[number] for number in handoffs.awaited()} == {"a"}


def test_a_fence_that_nobody_reported_is_not_passed() -> None:
    """Without a delivery report of its output partition a record could be anywhere."""
    site = Site()
    site.send(0, 2, last={("a", 1): 3, ("b", 0): 3})
    site.world.move([2], "b")
    site.take_up(3.0)
    site.handoffs.reached(0, [1 << 40, 1 << 40])
    site.handoffs.advance(4.0)
    assert site.handoffs.phases() == {Phase.WATCH: 0, Phase.HOLD: 1}


def test_reports_of_a_lost_partition_are_ignored() -> None:
    """Its transaction is committed, but the partition is another router's by now."""
    site = Site()
    site.handoffs.end([1])
    one = [np.array([number]) for number in (1, 0, 0, 0)]
    site.handoffs.written(Sent(*one, ordered=np.array([True])), {("a", 0): 9})
    assert list(site.handoffs.active) == [0]


def test_released_requests_go_out_by_offset_a_partition_after_the_other() -> None:
    """At most as many as are asked for; the rest later."""
    site = Site()
    site.hold(0, 7, 9)
    site.hold(1, 8)
    site.handoffs.reached(0, [6, 6])
    assert [round(waited) for waited in site.handoffs.advance(3.0)] == [1, 1]
    assert site.handoffs.released() == 3
    assert [(p, one.offset) for p, one in site.handoffs.take_released(1)] == [(0, 7)]
    assert [(p, one.offset) for p, one in site.handoffs.take_released(9)] == [(0, 9), (1, 8)]
    assert site.handoffs.released() == 0


def test_what_is_released_goes_before_what_is_read() -> None:
    """In one transaction: first the held ones, then the request that came after them."""
    site = Site()
    site.hold(0, 7, 9)
    site.handoffs.reached(0, [6, 6])
    site.handoffs.advance(3.0)
    routes = Routes(site.handoffs.aim, site.numbers, "dead", 10_000, "in")
    routed = route([Record(0, 50, name_at(0), b"ordered")], routes, KeyReader(RULES), site.handoffs)
    assert routed.origins == [(0, 7), (0, 9), (0, 50)]
    assert [(outgoing[0], outgoing[1]) for outgoing in routed.outgoing] == [
        ("b", b""),
        ("b", b""),
        ("b", b"v"),
    ]
    assert routed.sent.slot.tolist() == [0, 0, 0]


def test_all_partitions_share_the_room_for_held_requests() -> None:
    """Three at most: two are held in one partition, so one more fits in the other."""
    site = Site(held_requests=3)
    site.hold(0, 7, 8)
    wanted = [request(offset) for offset in range(20, 25)]
    assert site.handoffs.room(1, wanted) == 1
    assert not site.handoffs.has_room(1)
    site.hold(1, 20)
    assert (site.handoffs.room(0, wanted), site.handoffs.room(0, [])) == (0, 0)
    site.handoffs.end([0])
    assert site.handoffs.has_room(1)


def test_all_partitions_share_the_bytes_for_held_requests() -> None:
    """Large ones count as what they are."""
    site = Site(held_bytes=4 * (ROW_BYTES + 1_000))
    site.hold(0, 7, size=1_000)
    wanted = [request(offset, 1_000) for offset in range(20, 30)]
    assert site.handoffs.room(1, wanted) == 3
    site.hold(1, 20, 21, size=1_000)
    assert (site.handoffs.room(1, wanted), site.handoffs.has_room(1)) == (1, False)
    site.handoffs.end([0])
    assert site.handoffs.has_room(1)


def test_a_dead_cluster_is_given_its_time_from_when_it_was_first_seen_down() -> None:
    """Later mappings do not begin it anew; when it was up meanwhile, they do."""
    site = Site(dead_grace_s=30.0)
    site.world.set_state("c", ClusterState.DOWN)
    site.take_up(10.0)
    site.world.move([3], "b")
    site.take_up(25.0)
    assert [site.handoffs.sight(now).gone for now in (39.0, 40.0)] == [frozenset(), frozenset({2})]
    site.world.set_state("c", ClusterState.ACTIVE)
    site.take_up(41.0)
    assert site.handoffs.sight(NEVER).gone == frozenset()
    site.world.set_state("c", ClusterState.DOWN)
    site.take_up(50.0)
    assert [bool(site.handoffs.sight(now).gone) for now in (79.0, 80.0)] == [False, True]


def test_a_dead_cluster_is_never_gone_where_order_is_strict() -> None:
    """However long it takes."""
    site = Site(on_dead="strict")
    site.world.set_state("a", ClusterState.DOWN)
    site.take_up(10.0)
    assert site.handoffs.sight(NEVER).gone == frozenset()
