"""`foreshard key`: which shard a key belongs to, and what rules make of requests, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.config import Config
from app.explain import Explained, TypeSample, explain, records_of, values_of
from schemas.errors import BadRequestError, InvalidRecordError
from schemas.records import SLOTS
from streams.core.keys import locate
from streams.core.series import VALUES_KEPT

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


@key.command("explain")
@click.argument("file", type=click.File("rb"))
@click.option("--records", is_flag=True, help="A line is a record: value, key and headers, all optional.")
@config_option
@json_option
def explain_file(file: BinaryIO, records: bool, config_path: Path | None, as_json: bool) -> None:
    """Show what the request types make of sample requests.

    A line of FILE (- for standard input) is the value of a request; with --records it is
    {"value": ..., "key": "...", "headers": {"name": "..."}}.
    """
    config = read_config(config_path)
    found = explain(config.rules, records_of(file) if records else values_of(file))
    if as_json:
        print_json(_explained(found, config.rules.shards))
        return
    rows = [
        (
            one.name,
            one.requests,
            len(one.keys),
            f"{one.hottest:.1%}",
            f"{one.spread(config.rules.shards):.2f}",
            f"{len(one.values)} of {one.forecast_by}" if one.forecast_by else "",
        )
        for one in found.types
    ]
    print_table(["type", "requests>", "keys>", "hottest key>", "fullest / mean shard>", "forecast by"], rows)
    for one in found.types:
        if len(one.values) > VALUES_KEPT:
            click.echo(_too_many(one))
    for bad, count in found.refused.most_common():
        click.echo(f"{count} to the dead letters: {bad.value}, first {found.reasons[bad]}")


def _too_many(one: TypeSample) -> str:
    what = f"warning: {one.name} has {len(one.values)} values of {one.forecast_by}, of which {VALUES_KEPT}"
    largest = f"the {VALUES_KEPT} largest have {one.kept:.0%} of the requests"
    return f"{what} get a forecast of their own: those that come first; {largest}"


def _explained(found: Explained, shards: int) -> dict[str, object]:
    types = [
        {
            "type": one.name,
            "requests": one.requests,
            "keys": len(one.keys),
            "hottest_key": one.hottest,
            "fullest_shard": one.spread(shards),
            "forecast_by": one.forecast_by or None,
            "values": len(one.values),
            "warning": _too_many(one) if len(one.values) > VALUES_KEPT else None,
        }
        for one in found.types
    ]
    refused = [
        {"code": bad.value, "requests": count, "first": found.reasons[bad]}
        for bad, count in found.refused.most_common()
    ]
    return {"types": types, "refused": refused}
