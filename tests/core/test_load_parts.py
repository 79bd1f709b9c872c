"""Load records in parts: together they are counted as the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import LoadHistory, LoadReport
from streams.core.load import LoadBook
from streams.core.load_parts import history_parts, report_parts
from streams.core.router_reports import RouterReports
from streams.core.series import SeriesRows
from streams.core.steps import StepBook
from tests.core.load_records import history, part, report

SHARDS, PARTITIONS = 8, 4
NAMES = ["a", "b", "a/x"]
cells = st.lists(st.tuples(st.integers(0, 2), st.integers(0, SHARDS - 1), st.integers(1, 9)), max_size=12)


def books() -> tuple[SeriesRows, SeriesRows]:
    return SeriesRows(["a", "b"], {"a": "json:x"}), SeriesRows(["a", "b"], {"a": "json:x"})


@given(st.lists(cells, min_size=PARTITIONS, max_size=PARTITIONS), st.integers(1, 15))
def test_parts_of_a_report_are_the_report(found: list[list[tuple[int, int, int]]], most: int) -> None:
    """The same rates, forwarded requests, hot slots and keys; each part small, or of one partition."""
    parts = [part(number, 0, *one) for number, one in enumerate(found)]
    sent = report(0, *parts, names=NAMES, clusters={"c1": [7, 9]}, hot=[(3, 9)], dead=2)
    made = report_parts(sent, most)
    for piece in made:
        assert sum(len(one.forwarded.count) for one in piece.partitions) <= most or len(piece.partitions) == 1
    assert sum(piece.dead_letters for piece in made) == 2
    whole, pieces = (LoadBook(series, SHARDS, PARTITIONS) for series in books())
    newest = RouterReports()
    whole.add(sent)
    for piece in made:
        read = LoadReport.from_json(piece.to_json())
        pieces.add(read)
        newest.add(read)
    first, second = whole.rates(5.0), pieces.rates(5.0)
    assert first is not None
    assert second is not None
    assert np.allclose(first, second)
    assert whole.forwarded("c1").tolist() == pieces.forwarded("c1").tolist()
    assert whole.hot_slots(5.0) == pieces.hot_slots(5.0)
    assert newest._newest["r1"].hot_slots == sent.hot_slots


@given(cells, st.integers(1, 15))
def test_parts_of_a_step_are_the_step(found: list[tuple[int, int, int]], most: int) -> None:
    """It is closed only when the last part is there, with everything."""
    sent = history(3, *found, names=NAMES, ranges=[(0, 0, 5)])
    whole, pieces = (StepBook(series, SHARDS, 1) for series in books())
    whole.add(sent)
    made = history_parts(sent, most)
    for number, piece in enumerate(made):
        assert len(piece.arrivals.count) <= most
        pieces.add(LoadHistory.from_json(piece.to_json()))
        if number < len(made) - 1:
            assert pieces.close(121.0) == []
    (one,), (other,) = whole.close(121.0), pieces.close(121.0)
    assert one.values == other.values
    assert one.counts is not None
    assert other.counts is not None
    assert np.array_equal(one.counts, other.counts)
