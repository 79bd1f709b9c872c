"""The stored history of arrivals: read from the load topic, summed over routers, given out as a table."""

from __future__ import annotations

import csv
import gzip
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException, Message

from app import topic_admin
from app.config import Config
from schemas import topics
from schemas.errors import BrokerUnreachableError, ForeshardError, InvalidRecordError
from schemas.records import LoadHistory, load_record
from streams.balancer_records import REPORT
from streams.core.counts import flat_cells
from streams.core.series import SeriesRows
from streams.core.steps import LATE_S, STEP_S
from streams.feed import Feed
from streams.tables import offsets_since

SILENCE_S = 60.0
"""Wall seconds without a single record after which the read is given up."""
Row = tuple[int, str, int] | tuple[int, str, int, int]
"""(time, series, requests), or (time, series, shard, requests); time in seconds since 1970."""


class History:
    """Requests per step, type and shard; `by_shard=False` keeps only the types' totals.

    Steps that begin at `start` or later and have ended by `end`, model time.
    """

    def __init__(
        self, series: Sequence[str], shards: int, start: float, end: float, *, by_shard: bool
    ) -> None:
        self.series = tuple(series)
        self.shards = shards
        self.by_shard = by_shard
        self._first, self._stop = int(np.ceil(start / STEP_S)), int(end // STEP_S)
        self._index = SeriesRows(series)
        self._steps: dict[int, list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]]] = {}
        self.unreadable = 0
        """Records that are no records of ours."""

    def add(self, record: LoadHistory) -> None:
        """Counts one router's part of a step; of a step outside start and end nothing."""
        if record.step_s != STEP_S or not self._first <= record.step < self._stop:
            return
        cells, counts, _ = flat_cells(record.arrivals, self._index.numbers(record.series), self.shards)
        if not self.by_shard:
            totals = np.bincount(cells // self.shards, counts, len(self.series)).astype(np.float64)
            cells, counts = np.flatnonzero(totals), totals[totals > 0]
        self._steps.setdefault(record.step, []).append((cells.astype(np.int32), counts))

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the names of what `rows` yields."""
        return ("time", "series", "shard", "requests") if self.by_shard else ("time", "series", "requests")

    @property
    def steps(self) -> list[int]:
        """Returns the steps of which anything was reported; the others are not known."""
        return sorted(self._steps)

    def counts(self, step: int) -> npt.NDArray[np.float64]:
        """Returns float64[series, shards] of one step, float64[series, 1] without shards."""
        width = self.shards if self.by_shard else 1
        parts = self._steps[step]
        cells = np.concatenate([cells for cells, _ in parts])
        counts = np.concatenate([counts for _, counts in parts])
        total = np.bincount(cells, counts, len(self.series) * width).astype(np.float64)
        return total.reshape(len(self.series), width)

    def load(self, costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns float64[shards]: the mean load over the known steps, cost units/s."""
        total = np.zeros((len(self.series), self.shards))
        for step in self._steps:
            total += self.counts(step)
        return np.asarray(costs @ total / (max(len(self._steps), 1) * STEP_S), dtype=np.float64)

    def rows(self) -> Iterator[Row]:
        """Yields every series of every known step, also where it is 0; by shard only what is not."""
        for step in self.steps:
            at, counts = int(step * STEP_S), self.counts(step)
            if not self.by_shard:
                yield from ((at, name, int(counts[i, 0])) for i, name in enumerate(self.series))
                continue
            for series, shard in zip(*np.nonzero(counts), strict=True):
                yield at, self.series[series], int(shard), int(counts[series, shard])


def read_history(config: Config, start: float, end: float, *, by_shard: bool) -> History:
    """Returns what is stored of [start, end), model time, but steps that may still get records.

    Raises TopicError where there is no load topic, BrokerUnreachableError where no broker answers.
    """
    topic = config.topic(topics.LOAD)
    topic_admin.require(config, topic)
    end = min(end, config.clock.now() - LATE_S)
    history = History(config.rules.series, config.rules.shards, start, end, by_shard=by_shard)
    failures: list[BaseException] = []
    moved, ended = threading.Event(), threading.Event()

    def take(messages: list[Message]) -> None:
        moved.set()
        for message in messages:
            value = message.value() or b""
            if value.startswith(REPORT):
                continue
            try:
                record = load_record(value)
            except InvalidRecordError:
                history.unreadable += 1
            else:
                if isinstance(record, LoadHistory):
                    history.add(record)

    def failed(error: BaseException) -> None:
        failures.append(error)
        ended.set()

    starts = {topic: _offsets(config, topic, start)}
    feed = Feed("history", config.kafka, starts, take, on_failure=failed, on_caught_up=ended.set)
    feed.start()
    while not ended.wait(SILENCE_S):
        if not moved.is_set():
            failures.append(BrokerUnreachableError(f"{topic}: nothing read for {SILENCE_S:.0f} s"))
            break
        moved.clear()
    feed.stop()
    if failures:
        raise failures[0]
    return history


def _offsets(config: Config, topic: str, start: float) -> dict[int, int]:
    """Returns per partition the first offset of what was stored at `start` or later.

    A step is stored after its end, so nothing of interest lies before.
    """
    try:
        return offsets_since(config.kafka, topic, config.clock.wall(start))
    except KafkaException as error:
        raise topic_admin.unreachable(config, error.args[0]) from None


def write_table(path: Path, history: History) -> int:
    """Writes the rows to a .csv, .csv.gz or .parquet file; returns how many.

    Raises InvalidRecordError for another ending, ForeshardError where Parquet needs what is not there.
    """
    for ending, write in WRITERS.items():
        if path.name.endswith(ending):
            return write(path, history.columns, history.rows())
    raise InvalidRecordError(f"{path}: the name must end in {', '.join(WRITERS)}")


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterator[Row]) -> int:
    """Writes a heading and the rows; returns how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last one counts
        writer.writerow(row)
    return count


def _csv(path: Path, columns: Sequence[str], rows: Iterator[Row]) -> int:
    with path.open("w", encoding="utf-8", newline="") as file:
        return write_csv(file, columns, rows)


def _csv_gz(path: Path, columns: Sequence[str], rows: Iterator[Row]) -> int:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        return write_csv(file, columns, rows)


def _parquet(path: Path, columns: Sequence[str], rows: Iterator[Row]) -> int:
    try:
        import pyarrow  # noqa: PLC0415 - 50 MB that nobody else needs
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ForeshardError(
            "Parquet needs pyarrow, which is not installed: pip install 'foreshard[parquet]', or write .csv"
        ) from None
    values = list(rows)
    kinds = {"series": pyarrow.string()}
    arrays = {
        name: pyarrow.array([row[place] for row in values], kinds.get(name, pyarrow.int64()))
        for place, name in enumerate(columns)
    }
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)
    return len(values)


WRITERS: Mapping[str, Callable[[Path, Sequence[str], Iterator[Row]], int]] = {
    ".csv": _csv,
    ".csv.gz": _csv_gz,
    ".parquet": _parquet,
}
