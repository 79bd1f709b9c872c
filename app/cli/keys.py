"""`foreshard key`: which shard a key belongs to, without a broker."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.common import config_option, json_option, print_json, read_config
from app.config import Config
from schemas.errors import BadRequestError, InvalidRecordError
from schemas.records import SLOTS
from streams.core.keys import locate

type_option = click.option("--type", "type_name", help="Request type [default: the only one configured].")
values_argument = click.argument("values", nargs=-1, required=True)


def place(config: Config, type_name: str | None, values: tuple[str, ...]) -> tuple[str, int, int]:
    """Returns (type, shard, global slot) of a key given as its fields' values, in the rule's order."""
    names = config.rules.series
    if type_name is None and len(names) == 1 and names[0] != "*":
        type_name = names[0]
    if type_name is None:
        raise InvalidRecordError(f"say which request type with --type; configured: {', '.join(names)}")
    try:
        shard, slot = locate(config.rules, type_name, list(values))
    except BadRequestError as error:
        raise InvalidRecordError(str(error)) from None
    return type_name, shard, slot


@click.group()
def key() -> None:
    """Look at keys and shards."""


@key.command()
@values_argument
@type_option
@config_option
@json_option
def shard(values: tuple[str, ...], type_name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show the shard and slot of a key; VALUES are its key fields in the rule's order."""
    config = read_config(config_path)
    name, number, slot = place(config, type_name, values)
    if as_json:
        print_json(
            {"type": name, "values": list(values), "shard": number, "slot": slot % SLOTS, "global_slot": slot}
        )
    else:
        click.echo(f"shard {number} of {config.rules.shards}, slot {slot % SLOTS} of {SLOTS}")
