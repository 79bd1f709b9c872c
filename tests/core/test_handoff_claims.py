"""What a take-over must suspect: the clusters that a slot belonged to since the settled version."""

from __future__ import annotations

import numpy as np

from schemas.records import SLOTS, ClusterState, MappedCluster, MappingMeta, MappingRecord, Segment
from streams.core.fences import NOTHING, ClusterNumbers
from streams.core.handoff import claims_after
from streams.core.mapping import Snapshot, advance

Past = list[tuple[int, list[Segment]]]


def snapshot(past: Past, segments: list[Segment], names: str = "abc", shards: int = 1) -> Snapshot:
    """Version 9 of a mapping whose last shard has this past; the others have none."""
    clusters = {
        name: MappedCluster(topic=name, group=name, partitions=2, state=ClusterState.ACTIVE) for name in names
    }
    records = {
        shard: MappingRecord(
            shard=shard,
            version=9,
            epoch=1,
            home="a",
            segments=segments if shard == shards - 1 else [(0, SLOTS, "a")],
            previous=[
                {"version": version, "segments": were} for version, were in past if shard == shards - 1
            ],
            plan="1.1",
            reason="test",
        )
        for shard in range(shards)
    }
    meta = MappingMeta(version=9, epoch=1, shards=shards, rules_hash="f" * 64, clusters=clusters)
    return advance(None, records, meta)


def suspects(found: Snapshot, settled: int) -> dict[str, list[int]]:
    """Name of a cluster -> slots that may have something uncommitted there."""
    numbers = ClusterNumbers()
    numbers.number("z", MappedCluster(topic="z", group="z", partitions=1, state=ClusterState.ACTIVE))
    claims = claims_after(found, numbers, settled)
    assert set(claims["fence"].tolist()) <= {NOTHING}
    return {
        numbers.names[number]: np.sort(claims["slot"][claims["cluster"] == number]).tolist()
        for number in np.unique(claims["cluster"]).tolist()
    }


ALL_A: list[Segment] = [(0, SLOTS, "a")]
ALL_B: list[Segment] = [(0, SLOTS, "b")]
PART: list[Segment] = [(0, 2, "b"), (2, SLOTS, "a")]


def test_a_mapping_without_a_past_leaves_nothing_to_suspect() -> None:
    """Nothing ever moved."""
    assert suspects(snapshot([], ALL_A), 0) == {}


def test_an_entry_counts_while_the_settled_version_is_not_after_it() -> None:
    """Its version is the last one in which it was in force: settled 5 still needs the entry of 5."""
    moved = snapshot([(5, PART)], ALL_A)
    assert suspects(moved, 4) == {"b": [0, 1]}
    assert suspects(moved, 5) == {"b": [0, 1]}
    assert suspects(moved, 6) == {}


def test_every_cluster_on_the_way_is_a_suspect_but_the_one_in_use() -> None:
    """a -> b -> c -> a: b and c."""
    way: Past = [(5, ALL_A), (6, [(0, 1, "b"), (1, SLOTS, "a")]), (7, [(0, 1, "c"), (1, SLOTS, "a")])]
    assert suspects(snapshot(way, ALL_A), 5) == {"b": [0], "c": [0]}
    assert suspects(snapshot(way, ALL_A), 7) == {"c": [0]}


def test_a_cluster_that_was_there_twice_is_one_suspect() -> None:
    """One claim per slot and cluster."""
    way: Past = [(5, PART), (6, ALL_A), (7, PART)]
    assert suspects(snapshot(way, ALL_A), 0) == {"b": [0, 1]}


def test_a_cluster_that_has_left_the_mapping_is_none() -> None:
    """It was removed only once it had drained."""
    assert suspects(snapshot([(5, PART)], ALL_A, names="ac"), 0) == {}


def test_slots_are_counted_over_all_shards() -> None:
    """The past of shard 2 is that of global slots 512 and on."""
    assert suspects(snapshot([(5, PART)], ALL_A, shards=3), 0) == {"b": [512, 513]}


def test_a_shard_that_moved_as_a_whole_is_suspected_as_a_whole() -> None:
    """All 256 slots."""
    assert suspects(snapshot([(5, ALL_A)], ALL_B), 3) == {"a": list(range(SLOTS))}
