"""Fluid clusters and the handoff between them: seconds, queues and waits that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import SLOTS, Move, Reason
from streams.core.simulation.backends import Backends, Waits
from streams.core.simulation.bounded import EPSILON, Bounded
from streams.core.simulation.lanes import homes_by_load
from streams.core.simulation.workload import SPREAD, Cells

CAPACITY = np.array([100.0, 100.0])
ROWS = {"a": 0, "b": 1}


def backends(slots: tuple[int, ...] = (SPREAD, SPREAD), hold: bool = True) -> Backends:
    """Returns two clusters, each the home of one shard with one cell of cost 1."""
    cells = Cells(np.zeros(len(slots), np.int64), np.arange(len(slots)), np.array(slots))
    return Backends(cells, np.ones(len(slots)), owners(0, 1), 2, hold)


def owners(first: int, second: int, moved: int = 0) -> np.ndarray:
    """Returns the owners of two shards; of the first one, `moved` slots are at the second cluster."""
    found = np.array([first, second]).repeat(SLOTS).astype(np.uint16)
    found[:moved] = 1
    return found


def seconds(count: int, *rates: float) -> np.ndarray:
    return np.tile(np.array(rates), (count, 1))


def move(slots: int) -> Move:
    return Move(shard=0, source="a", target="b", slots=[(0, slots)], load_cps=1.0, reason=Reason.OVERLOAD)


def test_a_queue_grows_by_what_is_too_much_and_its_waits_are_counted() -> None:
    """120/s on 100: after 10 s 200 wait, 2 s of work. The 6th to 10th second's requests waited over 1 s."""
    world = backends()
    served = world.advance(seconds(10, 120.0, 50.0), CAPACITY)
    assert world.queue.tolist() == pytest.approx([200.0, 0.0])
    assert served.tolist() == pytest.approx([1000.0, 500.0])
    assert world.waits.requests == pytest.approx(1700.0)
    assert world.waits.over.tolist() == pytest.approx([600.0, 0.0])


def test_half_of_a_second_counts_where_its_waits_cross_the_limit() -> None:
    """Waits from 0.5 to 1.5 s: half of the requests waited more than 1 s."""
    waits = Waits()
    waits.count(np.array([80.0]), np.array([0.5]), np.array([1.5]))
    assert waits.over.tolist() == pytest.approx([40.0, 0.0])


def test_moved_slots_are_held_until_the_old_queue_is_served() -> None:
    """200 wait at `a`, so what comes for the moved half waits 2 s; then it goes on, all of it, at `b`."""
    world = backends()
    world.advance(seconds(10, 120.0, 0.0), CAPACITY)
    world.move([move(128)], ROWS, owners(0, 1, 128), version=2)
    assert world.settled(2) == 1
    world.advance(seconds(2, 60.0, 0.0), CAPACITY)
    assert world.arrived[1] == 0.0
    world.advance(seconds(1, 60.0, 0.0), CAPACITY)
    assert world.settled(2) == 2
    assert world.held_s == [2.0]
    assert world.arrived[1] == pytest.approx(90.0), "two held seconds and the new one"
    assert world.queue.tolist() == pytest.approx([0.0, 0.0])


def test_an_empty_cluster_holds_nothing() -> None:
    """Nothing of the slot can be in a queue that is empty: it is settled at once."""
    world = backends()
    world.advance(seconds(10, 90.0, 0.0), CAPACITY)
    world.move([move(256)], ROWS, owners(1, 1), version=2)
    world.advance(seconds(1, 90.0, 0.0), CAPACITY)
    assert world.settled(2) == 2
    assert world.held_s == []
    assert world.arrived[1] == pytest.approx(90.0)


def test_without_order_nothing_is_held() -> None:
    """The reference sends moved slots on at once, past what waits of them."""
    world = backends(hold=False)
    world.advance(seconds(10, 120.0, 0.0), CAPACITY)
    world.move([move(256)], ROWS, owners(1, 1), version=2)
    world.advance(seconds(1, 60.0, 0.0), CAPACITY)
    assert world.arrived[1] == pytest.approx(60.0)


def test_a_hot_key_moves_with_its_slot_only() -> None:
    """Slots 0..127 move; the key on slot 200 stays, the one on slot 3 goes."""
    for slot, target in ((200, 0), (3, 1)):
        world = backends((slot, SPREAD))
        world.move([move(128)], ROWS, owners(0, 1, 128), version=2)
        world.advance(seconds(1, 50.0, 0.0), CAPACITY)
        assert world.arrived[target] == pytest.approx(50.0)


@settings(max_examples=60, deadline=None)
@given(
    rates=st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300)), min_size=3, max_size=30),
    moves=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 255)), max_size=3),
)
def test_no_request_is_lost_or_counted_twice(
    rates: list[tuple[float, float]], moves: list[tuple[int, int]]
) -> None:
    """Whatever moves and queues there are: in the end all that came has arrived and was counted once."""
    world = backends()
    due = dict(moves)
    for number, rate in enumerate(rates):
        if number in due and not world.holds:
            moved = int((owners(0, 1, due[number])[:SLOTS] == 1).sum())
            if (world._by_owner[0] == [1.0, 0.0]).all():
                world.move([move(moved)], ROWS, owners(0, 1, moved), version=number + 2)
        world.advance(seconds(1, *rate), CAPACITY)
    world.advance(seconds(200, 0.0, 0.0), CAPACITY)
    total = sum(sum(rate) for rate in rates)
    assert world.holds == []
    assert world.arrived.sum() == pytest.approx(total)
    assert world.arrived_requests.sum() == pytest.approx(total)
    assert world.waits.requests == pytest.approx(total)
    assert world.queue.tolist() == pytest.approx([0.0, 0.0])


def test_bounded_loads_fill_no_cluster_beyond_its_bound() -> None:
    """All load on one shard: the first cluster takes 1.25 times the mean, the next in order the rest."""
    bounded = Bounded(4, {"a": 100.0, "b": 100.0})
    given_ = bounded.spread(np.array([100.0, 0, 0, 0]), np.zeros(2))
    assert sorted(given_.tolist()) == pytest.approx([100 - 50 * (1 + EPSILON), 50 * (1 + EPSILON)])


def test_bounded_loads_count_what_waits() -> None:
    """A cluster whose queue is over the bound gets nothing."""
    bounded = Bounded(16, {"a": 100.0, "b": 100.0})
    given_ = bounded.spread(np.full(16, 5.0), np.array([400.0, 0.0]))
    assert given_.tolist() == pytest.approx([0.0, 80.0])


def test_homes_by_load_fill_evenly() -> None:
    """The largest first, each to where it fills least, by capacity."""
    homes = homes_by_load(np.array([1.0, 5.0, 3.0, 3.0]), np.array([100.0, 100.0]))
    assert np.bincount(homes, weights=[1.0, 5.0, 3.0, 3.0]).tolist() == [6.0, 6.0]
    assert np.bincount(homes_by_load(np.ones(50), np.array([100.0, 400.0]))).tolist() == [10, 40]
