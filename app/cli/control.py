"""Verbs that say who is in control: mode, freeze, resume."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app import operators
from app.cli.common import config_option, read_config
from app.config import Config
from schemas.errors import InvalidRecordError
from schemas.records import Answer, Command, Freeze, Mode, Resume, SetMode


def say(config: Config, command: Command, *, wait: bool = True) -> None:
    """Sends a command and prints the leader's answer; a refusal ends with its exit status."""
    answer = operators.command(config, command, wait=wait)
    if answer is None:
        click.echo(f"stored as {command.id}; the next leading balancer applies it")
        return
    show_answer(answer)
    if not answer.accepted:
        sys.exit(InvalidRecordError.exit_status)


def show_answer(answer: Answer) -> None:
    """Prints what the leader said; a refusal goes to stderr."""
    click.echo(answer.text if answer.accepted else f"refused: {answer.text}", err=not answer.accepted)


wait_option = click.option("--wait/--no-wait", default=True, help="Wait for the balancer's answer.")


@click.command()
@click.argument("mode", type=click.Choice([mode.value for mode in Mode]))
@config_option
@wait_option
def mode(mode: str, config_path: Path | None, wait: bool) -> None:
    """Let the balancer act (auto), or only decide and write down (observe)."""
    config = read_config(config_path)
    now = config.clock.now()
    say(config, SetMode(id=operators.new_id("mode"), at=now, by=operators.who(), mode=Mode(mode)), wait=wait)


@click.command()
@click.option("--reason", default="", help="Shown with every round until resume.")
@config_option
@wait_option
def freeze(reason: str, config_path: Path | None, wait: bool) -> None:
    """Stop all plans until resume, but for those that empty a cluster that is down."""
    config = read_config(config_path)
    now = config.clock.now()
    say(config, Freeze(id=operators.new_id("freeze"), at=now, by=operators.who(), reason=reason), wait=wait)


@click.command()
@config_option
@wait_option
def resume(config_path: Path | None, wait: bool) -> None:
    """End a freeze."""
    config = read_config(config_path)
    now = config.clock.now()
    say(config, Resume(id=operators.new_id("resume"), at=now, by=operators.who()), wait=wait)
