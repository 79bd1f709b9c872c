"""`foreshard load`: the stored history of arrivals."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app import operators
from app.cli.common import config_option, read_config
from schemas.errors import ForeshardError, InvalidRecordError, NotReadyError
from streams.core.steps import HISTORY_S


@click.group()
def load() -> None:
    """Take out the stored history of arrivals."""


@load.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--from", "start", help="Begin, as 2026-01-31T10:00 or today 10:00 [default: all there is].")
@click.option("--to", "end", help="End [default: now].")
@click.option("--shards", "by_shard", is_flag=True, help="One row per shard that got requests.")
@config_option
def export(file: Path, start: str | None, end: str | None, by_shard: bool, config_path: Path | None) -> None:
    """Write the stored history to FILE, a .csv, .csv.gz or .parquet; - is CSV to the terminal.

    One row per step of 30 s and series: time (seconds since 1970), series, requests. Steps of which
    nothing was stored have no row. Parquet needs pyarrow.
    """
    from app.load_history import read_history, write_csv, write_table

    config = read_config(config_path)
    now = config.clock.now()
    try:
        first = operators.moment(start, now) if start else now - HISTORY_S
        last = operators.moment(end, now) if end else now
    except ValueError as error:
        raise InvalidRecordError(str(error)) from None
    if last <= first:
        raise InvalidRecordError("--to is not after --from")
    history = read_history(config, first, last, by_shard=by_shard)
    if not history.steps:
        raise NotReadyError("nothing is stored of that time; routers store a step of 30 s once it is over")
    if str(file) == "-":
        write_csv(sys.stdout, history.columns, history.rows())
        return
    try:
        rows = write_table(file, history)
    except OSError as error:
        raise ForeshardError(f"{file}: cannot be written: {error.strerror}") from None
    click.echo(f"{rows} rows of {len(history.steps)} steps in {file}")
    if history.unreadable:
        click.echo(f"left out {history.unreadable} records that cannot be read", err=True)
