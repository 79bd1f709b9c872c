"""`foreshard events`: announced demand and capacity changes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from app import operators
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.config import Config
from schemas import topics
from schemas.errors import InvalidRecordError
from schemas.records import Event, EventKey, describe
from streams.core.events import SMALL_UPLIFT, EventBook


@click.group()
def events() -> None:
    """Post, list and cancel announced events."""


def _key(text: str) -> EventKey:
    kind, colon, values = text.partition(":")
    if not colon or not values:
        raise InvalidRecordError(
            f"{text!r} names no key; write TYPE:VALUE, or TYPE:VALUE,VALUE for several fields"
        )
    return EventKey(type=kind, values=list(next(csv.reader([values]))))


def _checked(config: Config, fields: dict[str, Any]) -> Event:
    """Returns the event; raises InvalidRecordError where a balancer would refuse it."""
    try:
        event = Event(**fields)
    except ValidationError as error:
        raise InvalidRecordError(describe(error)) from None
    known = {cluster.name: cluster for cluster in operators.clusters(config)} if event.cluster else {}
    EventBook(config.rules, known).add(event)
    return event


@events.command()
@click.option("--id", "event_id", help="Name of the event [default: a new one].")
@click.option("--kind", required=True, help="campaign, import, maintenance, ...")
@click.option("--at", required=True, help="Start, UTC: now, +15m, 10:00, tomorrow 10:00 or ISO 8601.")
@click.option("--for", "duration", required=True, help="Duration: 90s, 15m, 2h, 1d.")
@click.option("--type", "types", multiple=True, help="Request type in its scope; may be repeated.")
@click.option("--key", "keys", multiple=True, help="TYPE:VALUE[,VALUE...] in its scope; may be repeated.")
@click.option("--cluster", help="Cluster whose capacity changes.")
@click.option("--uplift", type=float, help="Load of the scope is multiplied by this.")
@click.option("--rps", "requests_per_s", type=float, help="Requests/s added to the scope.")
@click.option("--total", type=float, help="Requests added in all, spread evenly over the duration.")
@click.option("--capacity-factor", type=float, help="Capacity of the cluster is multiplied by this.")
@click.option("--note", default="", help="Kept with the event.")
@config_option
def post(config_path: Path | None, event_id: str | None, at: str, duration: str, **given: Any) -> None:
    """Announce an event; it is checked before it is sent.

    It needs one scope (--type, --key or --cluster) and one effect (--uplift, --rps or --total; for a
    cluster --capacity-factor). A key is the values of its fields in the order of the type's rule; quote a
    value that holds a comma: --key 'order:acme,"7,5"'.
    """
    config = read_config(config_path)
    try:
        start = operators.moment(at, config.clock.now())
        length_s = operators.seconds(duration)
    except ValueError as error:
        raise InvalidRecordError(str(error)) from None
    total = given.pop("total")
    if total is not None:
        if given["requests_per_s"] is not None:
            raise InvalidRecordError("--rps and --total say the same thing; give one of them")
        given["requests_per_s"] = total / length_s
    given |= {
        "id": event_id or operators.new_id(given["kind"]),
        "types": list(given["types"]),
        "keys": [_key(text) for text in given["keys"]],
        "start": start,
        "end": start + length_s,
    }
    event = _checked(config, given)
    operators.send(config, topics.EVENTS, event.id, event)
    span = f"{operators.shown_time(event.start)} to {operators.shown_time(event.end)}"
    click.echo(f"posted {event.id}: {_scope(event)} {_effect(event)}, {span}")
    if event.end < config.clock.now():
        click.echo("note: it is over already", err=True)
    if event.uplift is not None and event.uplift <= SMALL_UPLIFT:
        click.echo(f"note: an uplift of {SMALL_UPLIFT} or less changes no forecast", err=True)


@events.command("list")
@config_option
@json_option
def list_events(config_path: Path | None, as_json: bool) -> None:
    """List the posted events."""
    config = read_config(config_path)
    found = operators.events(config)
    if as_json:
        print_json([event.model_dump(mode="json", by_alias=True) for event in found])
        return
    now = config.clock.now()
    rows = [
        (
            e.id,
            e.kind,
            "over" if e.end <= now else "on" if e.start <= now else "to come",
            operators.shown_time(e.start),
            operators.shown_time(e.end),
            _scope(e),
            _effect(e),
        )
        for e in found
    ]
    print_table(["event", "kind", "", "start", "end", "scope", "effect"], rows, empty="no events")


def _scope(event: Event) -> str:
    keys = [f"{key.type}:{','.join(str(value) for value in key.values)}" for key in event.keys]
    return event.cluster or " ".join([*event.types, *keys])


def _effect(event: Event) -> str:
    if event.uplift is not None:
        return f"x {event.uplift:g}"
    if event.requests_per_s is not None:
        return f"+ {event.requests_per_s:g} requests/s"
    return f"capacity x {event.capacity_factor:g}"


@events.command()
@click.argument("event_id")
@config_option
def cancel(event_id: str, config_path: Path | None) -> None:
    """Withdraw an event."""
    config = read_config(config_path)
    if event_id not in operators.table(config, topics.EVENTS):
        raise InvalidRecordError(f"there is no event {event_id}; see `foreshard events list`")
    operators.send(config, topics.EVENTS, event_id, None)
    click.echo(f"withdrawn: {event_id}")
