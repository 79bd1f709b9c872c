"""Load records in a line each: what routers report, from a few counts."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.records import Counts, LoadHistory, LoadReport, OffsetRange, PartitionLoad

SERIES = ("a", "b")
Cell = tuple[int, int, int]


def counts(*cells: Cell) -> Counts:
    """Counts from (series, shard, count)."""
    return Counts(
        series=[cell[0] for cell in cells],
        shard=[cell[1] for cell in cells],
        count=[cell[2] for cell in cells],
    )


def part(partition: int, start: int, *cells: Cell, stop: int | None = None) -> PartitionLoad:
    """One partition's load; its offsets are one per request unless `stop` says otherwise."""
    requests = sum(cell[2] for cell in cells)
    end = start + requests if stop is None else stop
    return PartitionLoad(
        partition=partition, from_offset=start, to_offset=end, requests=requests, bytes=0, lag=0,
        forwarded=counts(*cells),
    )  # fmt: skip


def report(
    window: int,
    *parts: PartitionLoad,
    names: Sequence[str] = SERIES,
    clusters: dict[str, list[int]] | None = None,
    hot: list[tuple[int, int]] | None = None,
    windows: float = 1,
    dead: int = 0,
) -> LoadReport:
    """A report of the 5-s window number `window`, or of `windows` of them."""
    return LoadReport(
        router="r1", window_from=window * 5.0, window_to=(window + windows) * 5.0, epoch=1, version=1,
        series=list(names), partitions=list(parts), clusters=clusters or {},
        hot_slots=hot or [], dead_letters=dead,
    )  # fmt: skip


def history(
    step: int,
    *cells: Cell,
    names: Sequence[str] = SERIES,
    ranges: Sequence[tuple[int, int, int]] = ((0, 0, 0),),
) -> LoadHistory:
    """A history record of one step; ranges are (partition, from, to)."""
    return LoadHistory(
        router="r1", step=step, step_s=30.0, series=list(names), arrivals=counts(*cells),
        ranges=[OffsetRange(partition=p, from_offset=f, to_offset=t) for p, f, t in ranges],
    )  # fmt: skip
