"""Which row a series has: types first, then values of `forecast_by` in the order of their requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.load import LoadBook
from streams.core.series import VALUES_HEARD, VALUES_KEPT, SeriesRows
from streams.core.steps import Step, StepBook
from tests.core.load_records import history, part, report

SHARDS = 4


def rows() -> SeriesRows:
    """Types update (by tenant), login, and * (by region)."""
    return SeriesRows(["update", "login", "*"], {"update": "json:tenant", "*": "json:region"})


def test_a_type_without_forecast_by_is_one_row() -> None:
    """Nothing in reserve, and figures are handed through as they are."""
    plain, counts = SeriesRows(["a", "b"]), np.arange(8.0).reshape(2, 4)
    assert (plain.names, plain.type_of.tolist()) == (["a", "b"], [0, 1])
    assert plain.by_row(counts, ()) is counts
    assert plain.numbers(["b", "a", "a/x", "c"]).tolist() == [1, 0, 0, -1]


def test_names_of_records_find_their_type() -> None:
    """A value of a type that is not split here counts as the type's; an unknown type as that of `*`."""
    series = rows()
    names = ["login/acme", "new", "new/acme", "update", "update/acme", "update/a/b", "*/eu", "update/acme"]
    assert series.numbers(names).tolist() == [1, 2, 2, 0, 3, 4, 5, 3]
    assert [series.known(name) for name in names] == [False, False, False, True, True, True, True, True]


def test_the_largest_new_values_get_rows_first() -> None:
    """Of one step by requests, then by name; what comes later gets what is left, and nobody loses a row."""
    series = rows()
    names = [f"update/{number:03d}" for number in range(70)]
    series.assign(names[:3], np.array([5.0, 9.0, 0.0]))
    assert series.names[3:5] == ["update/001", "update/000"]
    series.assign(names, np.arange(70.0) // 2)
    given_rows = series.names[3 : 3 + VALUES_KEPT]
    assert given_rows[2:6] == ["update/068", "update/069", "update/066", "update/067"]
    assert {f"update/{number:03d}" for number in range(2, 8)}.isdisjoint(given_rows)
    series.assign(["update/late"], np.array([1e6]))
    assert series.names[3 : 3 + VALUES_KEPT] == given_rows
    assert series.row("update/late") == series.row("update/005") == 0
    assert series.scope("update/late") == []
    assert series.scope("update") == [0, *range(3, 3 + VALUES_KEPT)]
    assert series.scope("*") == [2]


def test_values_heard_are_bounded() -> None:
    """What makes up new values without end fills no memory: from some number on they are their type's."""
    series = rows()
    numbers = series.numbers([f"update/{number}" for number in range(VALUES_HEARD + 50)])
    assert len(np.unique(numbers)) == VALUES_HEARD + 1
    assert series.numbers(["*/eu"]).tolist() == [3 + VALUES_HEARD]


values = st.sampled_from(["update", "login", "other", *(f"update/t{n}" for n in range(80)), "*/eu", "*/us"])


@given(st.lists(st.lists(st.tuples(values, st.integers(0, SHARDS - 1), st.integers(1, 9))), max_size=5))
def test_rows_add_up_to_their_types(records: list[list[tuple[str, int, int]]]) -> None:
    """Whatever comes under which name: by type and shard nothing is lost or counted twice."""
    series, plain = rows(), SeriesRows(["update", "login", "*"])
    books = [StepBook(one, SHARDS, 1) for one in (series, plain)]
    for step, cells in enumerate(records):
        for book in books:
            names = sorted({name for name, _, _ in cells})
            numbered = [(names.index(name), shard, count) for name, shard, count in cells]
            book.add(history(step, *numbered, names=names))
    for split, whole in zip(*(book.close(1e6) for book in books), strict=True):
        assert isinstance(split, Step)
        assert (split.counts is None) == (whole.counts is None)
        if split.counts is None or whole.counts is None:
            continue
        series.assign(split.values, split.counts[3:].sum(axis=1))
        counts = series.by_row(split.counts, split.values)
        for shard in range(SHARDS):
            assert series.by_type(counts[:, shard]).tolist() == whole.counts[:, shard].tolist()
        assert not counts[series.reserve].any()


def test_live_rates_are_in_the_same_rows_as_forecasts() -> None:
    """Before a value has a row its requests are its type's; from then on its own, also those before."""
    series = rows()
    load = LoadBook(series, SHARDS, 1)
    forwarded = part(0, 0, (0, 0, 10), (1, 1, 20), (2, 1, 30))
    load.add(report(0, forwarded, names=["update", "update/acme", "login"]))
    before = load.rates(5.0)
    assert before is not None
    assert before[:3].sum(axis=1).tolist() == [6.0, 6.0, 0.0]
    series.assign(["update/acme"], np.array([20.0]))
    after = load.rates(5.0)
    assert after is not None
    assert after[:4].sum(axis=1).tolist() == [2.0, 6.0, 0.0, 4.0]
    assert after[3, 1] == 4.0


def test_a_predecessors_rows_are_taken_as_they_were() -> None:
    """In their places; other types, another number of rows or a row of another type are refused."""
    series, heir = rows(), rows()
    series.assign(["*/eu", "update/b", "update/a"], np.array([1.0, 2.0, 3.0]))
    heir.take(series.names)
    assert (heir.names, heir.reserve.tolist()) == (series.names, series.reserve.tolist())
    assert heir.scope("update") == [0, 3, 4]
    wrong = list(series.names)
    wrong[5] = "*/us"
    for names in (wrong, series.names[:-1], ["login", *series.names[1:]]):
        other = rows()
        with pytest.raises(ValueError, match="do not fit types update, login"):
            other.take(names)
        assert other.reserve.sum() == 2 * VALUES_KEPT
