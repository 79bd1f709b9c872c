"""Load records in parts that fit a topic: many values on many shards are more counts than a record takes."""

from __future__ import annotations

from schemas.records import Counts, LoadHistory, LoadReport, PartitionLoad

MOST_CELLS = 40_000
"""Counts of one record: 16 B each at most, 640 KB of the 1 MB that a broker takes by default."""


def report_parts(report: LoadReport, most: int = MOST_CELLS) -> list[LoadReport]:
    """Returns the report in parts of whole partitions, each with up to `most` counts, or one partition.

    Which partitions a part is of is all that it needs to be counted. The first has the busiest ones, and
    whatever is not of single partitions.
    """
    if sum(len(part.forwarded.count) for part in report.partitions) <= most:
        return [report]
    groups: list[list[PartitionLoad]] = []
    room = 0
    for part in sorted(report.partitions, key=lambda part: -len(part.forwarded.count)):
        room -= len(part.forwarded.count)
        if not groups or room < 0:
            groups.append([])
            room = most - len(part.forwarded.count)
        groups[-1].append(part)
    rest = {"clusters": {}, "hot_slots": [], "hot_keys": [], "dead_letters": 0}
    return [
        report.model_copy(update={"partitions": group} | (rest if number else {}))
        for number, group in enumerate(groups)
    ]


def history_parts(history: LoadHistory, most: int = MOST_CELLS) -> list[LoadHistory]:
    """Returns the record of a step in parts with up to `most` counts each.

    The last one says which offsets were counted: read up to it, all of them are.
    """
    arrivals = history.arrivals
    starts = range(0, max(len(arrivals.count), 1), most)
    return [
        history.model_copy(
            update={
                "ranges": history.ranges if start == starts[-1] else [],
                "arrivals": Counts.model_construct(
                    series=arrivals.series[start : start + most],
                    shard=arrivals.shard[start : start + most],
                    count=arrivals.count[start : start + most],
                ),
            }
        )
        for start in starts
    ]
