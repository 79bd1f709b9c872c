"""`foreshard config`: check the configuration before anything starts."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.common import config_option, json_option, print_json, read_config


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Check the whole configuration; all mistakes are reported at once."""
    found = read_config(config_path)
    rules = found.rules
    if as_json:
        shown = {
            "ok": True,
            "shards": rules.shards,
            "types": list(rules.series),
            "rules_hash": rules.rules_hash(),
        }
        print_json(shown)
        return
    where = found.path or "defaults and environment"
    click.echo(f"{where}: good; {rules.shards} shards, request types {', '.join(rules.series)}")
    click.echo(f"rules hash {rules.rules_hash()}")
