"""The stored history as a table, from records as routers write them."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from app.load_history import History, write_table
from schemas.errors import ForeshardError, InvalidRecordError
from schemas.records import Counts, LoadHistory

SERIES = ("order", "import")
START = 3_000.0
"""Model time of step 100."""


def record(
    step: int, cells: list[tuple[str, int, int]], router: str = "r1", step_s: float = 30.0
) -> LoadHistory:
    """Returns a router's part of a step: (series, shard, requests), under names in an order of its own."""
    names = sorted({name for name, _, _ in cells})
    return LoadHistory(
        router=router,
        step=step,
        step_s=step_s,
        series=names,
        arrivals=Counts(
            series=[names.index(name) for name, _, _ in cells],
            shard=[shard for _, shard, _ in cells],
            count=[count for *_, count in cells],
        ),
    )


def history(*, by_shard: bool) -> History:
    """Two steps: the second by two routers and a late correction; one before and one after."""
    made = History(SERIES, 16, START, START + 90, by_shard=by_shard)
    for item in (
        record(99, [("order", 1, 50)]),
        record(100, [("order", 1, 5), ("order", 3, 2)]),
        record(102, [("order", 1, 4), ("import", 2, 1)]),
        record(102, [("import", 2, 6)], router="r2"),
        record(102, [("order", 1, 1)], router="r2"),
        record(103, [("order", 1, 70)]),
        record(101, [("order", 1, 70)], step_s=10.0),
    ):
        made.add(item)
    return made


def test_totals_are_summed_over_routers_for_every_series_of_a_known_step() -> None:
    """A step that nobody stored has no row; those before the begin and after the end neither."""
    assert list(history(by_shard=False).rows()) == [
        (3000, "order", 7),
        (3000, "import", 0),
        (3060, "order", 5),
        (3060, "import", 7),
    ]


def test_shards_have_rows_where_they_got_requests() -> None:
    """The same, a row per shard."""
    assert list(history(by_shard=True).rows()) == [
        (3000, "order", 1, 5),
        (3000, "order", 3, 2),
        (3060, "order", 1, 5),
        (3060, "import", 2, 7),
    ]


def test_the_mean_load_is_per_shard_and_weighed_by_cost() -> None:
    """Over the two known steps of 30 s: shard 2 had 7 imports of cost 3."""
    load = history(by_shard=True).load(np.array([1.0, 3.0]))
    assert load[[1, 2, 3]] == pytest.approx([10 / 60, 21 / 60, 2 / 60])
    assert load.sum() == pytest.approx(33 / 60)


def test_series_that_are_not_configured_are_left_out() -> None:
    """Of a request type that is gone."""
    made = History(SERIES, 16, START, START + 600, by_shard=False)
    made.add(record(100, [("order", 1, 5), ("gone", 1, 9)]))
    assert list(made.rows()) == [(3000, "order", 5), (3000, "import", 0)]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_a_written_table_reads_back(tmp_path: Path, name: str) -> None:
    """Heading and rows, plain or compressed."""
    path = tmp_path / name
    assert write_table(path, history(by_shard=False)) == 4
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith(".gz") else path.read_text()
    heading, *rows = csv.reader(text.splitlines())
    assert heading == ["time", "series", "requests"]
    assert [(int(t), s, int(n)) for t, s, n in rows] == list(history(by_shard=False).rows())


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an extra")
def test_parquet_has_the_same_columns(tmp_path: Path) -> None:
    """time and shard and requests are integers, the series a text."""
    import pyarrow.parquet

    path = tmp_path / "out.parquet"
    assert write_table(path, history(by_shard=True)) == 4
    table = pyarrow.parquet.read_table(path).to_pydict()
    assert list(zip(*table.values(), strict=True)) == list(history(by_shard=True).rows())
    assert list(table) == ["time", "series", "shard", "requests"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is here")
def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path) -> None:
    """And leaves no file behind."""
    path = tmp_path / "out.parquet"
    with pytest.raises(ForeshardError, match=r"pip install 'foreshard\[parquet\]'"):
        write_table(path, history(by_shard=False))
    assert not path.exists()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    """With those that there are."""
    with pytest.raises(InvalidRecordError, match=r"must end in .csv, .csv.gz, .parquet"):
        write_table(tmp_path / "out.json", history(by_shard=False))
