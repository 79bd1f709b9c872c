"""Numbers that stay with a cluster, and tables of offsets that grow with what is asked of them."""

from __future__ import annotations

import numpy as np

from schemas.records import ClusterState, MappedCluster
from streams.core.fences import NOTHING, PENDING, ClusterNumbers, OffsetTable


def cluster(topic: str, partitions: int = 2) -> MappedCluster:
    """A cluster as the mapping names it."""
    return MappedCluster(topic=topic, group="g", partitions=partitions, state=ClusterState.ACTIVE)


def test_a_cluster_keeps_its_number_while_others_come_and_go() -> None:
    """Snapshots count clusters in sorted names, which shift when one joins."""
    numbers = ClusterNumbers()
    assert [numbers.number(name, cluster(name)) for name in ("b", "c")] == [0, 1]
    assert [numbers.number(name, cluster(name)) for name in ("a", "b", "c")] == [2, 0, 1]
    assert (numbers.names, numbers.partitions) == (["b", "c", "a"], [2, 2, 2])


def test_a_cluster_that_comes_back_with_another_topic_has_another_number() -> None:
    """Fences of the old topic say nothing about the new one; so for another partition count."""
    numbers = ClusterNumbers()
    found = [numbers.number("a", cluster(*what)) for what in (("t1", 2), ("t2", 2), ("t2", 3), ("t1", 2))]
    assert found == [0, 1, 2, 0]
    assert numbers.by_topic == {"t1": [0], "t2": [1, 2]}


def test_what_was_never_set_is_unknown() -> None:
    """Also beyond the table, and after it has grown."""
    table, pending = OffsetTable(), OffsetTable(PENDING)
    table.set(1, 2, 7)
    pending.set(0, 1, 7)
    places = np.array([0, 1, 1, 5]), np.array([0, 2, 9, 3])
    assert table.at(*places).tolist() == [NOTHING, 7, NOTHING, NOTHING]
    assert pending.at(*places).tolist() == [PENDING, PENDING, PENDING, PENDING]
    assert pending.at(np.array([0]), np.array([1])).tolist() == [7]


def test_a_row_replaces_the_offsets_that_it_names() -> None:
    """A group that was set back has a lower one: the latest counts."""
    table = OffsetTable()
    table.set_row(1, [5, 6, 7])
    table.set_row(1, [4, 9])
    assert table.row(1).tolist() == [4, 9, 7]
    assert table.row(0).tolist() == [NOTHING] * 3


def test_a_row_that_was_asked_for_is_a_copy() -> None:
    """Who changes it changes nothing here."""
    table = OffsetTable()
    table.set_row(0, [5, 6])
    table.row(0)[0] = 99
    assert table.row(0).tolist() == [5, 6]


def test_nothing_asked_is_nothing_answered() -> None:
    """An empty question to an empty table."""
    none = np.zeros(0, dtype=np.int64)
    assert OffsetTable().at(none, none).tolist() == []


def test_a_fence_where_nothing_was_written_is_passed_by_offset_0_and_a_pending_one_by_none() -> None:
    """The two ends of the scale."""
    assert NOTHING < 0 < PENDING
    assert np.iinfo(np.int64).max > PENDING > 1 << 60
