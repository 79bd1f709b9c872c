"""Load records in parts: together they are counted as the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Counts, LoadHistory, LoadReport, OffsetRange, PartitionLoad
from streams.core.load import LoadBook
from streams.core.load_parts import history_parts, report_parts
from streams.core.router_reports import RouterReports
from streams.core.series import SeriesRows
from streams.core.steps import StepBook

SHARDS, PARTITIONS = 8, 4
cells = st.lists(st.tuples(st.integers(0, 2), st.integers(0, SHARDS - 1), st.integers(1, 9)), max_size=12)


def counts(found: list[tuple[int, int, int]]) -> Counts:
    return Counts(series=[c[0] for c in found], shard=[c[1] for c in found], count=[c[2] for c in found])


def books() -> tuple[SeriesRows, SeriesRows]:
    return SeriesRows(["a", "b"], {"a": "json:x"}), SeriesRows(["a", "b"], {"a": "json:x"})


@given(st.lists(cells, min_size=PARTITIONS, max_size=PARTITIONS), st.integers(1, 15))
def test_parts_of_a_report_are_the_report(found: list[list[tuple[int, int, int]]], most: int) -> None:
    """The same rates, forwarded requests, hot slots and keys; each part small, or of one partition."""
    parts = [
        PartitionLoad(
            partition=number,
            from_offset=0,
            to_offset=sum(c[2] for c in one),
            requests=sum(c[2] for c in one),
            bytes=0,
            lag=0,
            forwarded=counts(one),
        )
        for number, one in enumerate(found)
    ]
    report = LoadReport(
        router="r",
        window_from=0.0,
        window_to=5.0,
        epoch=1,
        version=1,
        series=["a", "b", "a/x"],
        partitions=parts,
        clusters={"c1": [7, 9]},
        hot_slots=[(3, 9)],
        dead_letters=2,
    )
    made = report_parts(report, most)
    for part in made:
        assert sum(len(one.forwarded.count) for one in part.partitions) <= most or len(part.partitions) == 1
    assert sum(part.dead_letters for part in made) == 2
    whole, pieces = (LoadBook(series, SHARDS, PARTITIONS) for series in books())
    newest = RouterReports()
    whole.add(report)
    for part in made:
        read = LoadReport.from_json(part.to_json())
        pieces.add(read)
        newest.add(read)
    first, second = whole.rates(5.0), pieces.rates(5.0)
    assert first is not None
    assert second is not None
    assert np.allclose(first, second)
    assert whole.forwarded("c1").tolist() == pieces.forwarded("c1").tolist()
    assert whole.hot_slots(5.0) == pieces.hot_slots(5.0)
    assert newest._newest["r"].hot_slots == report.hot_slots


@given(cells, st.integers(1, 15))
def test_parts_of_a_step_are_the_step(found: list[tuple[int, int, int]], most: int) -> None:
    """It is closed only when the last part is there, with everything."""
    history = LoadHistory(
        router="r",
        step=3,
        step_s=30.0,
        ranges=[OffsetRange(partition=0, from_offset=0, to_offset=5)],
        series=["a", "b", "a/x"],
        arrivals=counts(found),
    )
    whole, pieces = (StepBook(series, SHARDS, 1) for series in books())
    whole.add(history)
    made = history_parts(history, most)
    for number, part in enumerate(made):
        assert len(part.arrivals.count) <= most
        pieces.add(LoadHistory.from_json(part.to_json()))
        if number < len(made) - 1:
            assert pieces.close(121.0) == []
    (one,), (other,) = whole.close(121.0), pieces.close(121.0)
    assert one.values == other.values
    assert one.counts is not None
    assert other.counts is not None
    assert np.array_equal(one.counts, other.counts)
