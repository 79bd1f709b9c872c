"""Options and output that the verbs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.config import Config, load

UNFOLDED = 100_000
"""Columns of a table that is not shown on a terminal."""

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file [default: $FORESHARD_CONFIG, else foreshard.toml here].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def read_config(path: Path | None) -> Config:
    """Returns the configuration; raises ConfigError with every mistake."""
    return load(path)


def print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", empty: str = ""
) -> None:
    """Prints a table; columns whose name ends in `>` are right-aligned. Without rows, prints `empty`.

    On a terminal long cells fold; what goes elsewhere has one line per row.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if title:
        click.echo(title)
    if not cells and empty:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        right = name.endswith(">")
        table.add_column(name.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    plain = Console(file=StringIO(), width=UNFOLDED)
    with plain.capture() as captured:
        plain.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
