"""`foreshard clusters`: the registry of backend clusters."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from pydantic import ValidationError

from app import operators, topic_admin
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.cli.control import say, show_answer, wait_option
from schemas.errors import InvalidRecordError, RescueError, TopicError
from schemas.records import ClusterAdd, Rescue, SetClusterState, WantedState, describe
from schemas.topics import OWN_TOPICS


@click.group()
def clusters() -> None:
    """Register, list, empty, give up and remove backend clusters."""


@clusters.command()
@click.argument("name")
@click.option("--capacity", type=float, required=True, help="What it can serve, cost units/s.")
@click.option("--guess", is_flag=True, help="Mark the capacity as a guess.")
@click.option(
    "--topic", help="Use this existing topic [default: make <prefix>requests.NAME, or as registered]."
)
@click.option("--group", help="Consumer group of the backend [default: NAME, or as registered].")
@config_option
@wait_option
def add(
    name: str,
    capacity: float,
    guess: bool,
    topic: str | None,
    group: str | None,
    config_path: Path | None,
    wait: bool,
) -> None:
    """Register a cluster and make its topic, or change the capacity of a registered one."""
    config = read_config(config_path)
    registered = {cluster.name: cluster for cluster in operators.clusters(config)}
    old = registered.pop(name, None)
    try:
        command = ClusterAdd(
            id=operators.new_id("cluster-add"),
            at=config.clock.now(),
            by=operators.who(),
            cluster=name,
            topic=topic or (old.topic if old else f"{config.prefix}requests.{name}"),
            group=group or (old.group if old else name),
            capacity_cps=capacity,
            capacity_guessed=guess,
        )
    except ValidationError as error:
        raise InvalidRecordError(f"cluster {name}: {describe(error)}") from None
    taken = {config.ingest: "the ingest topic"} | {config.topic(spec): "our own" for spec in OWN_TOPICS}
    taken |= {other.topic: f"cluster {other.name}'s" for other in registered.values()}
    if command.topic in taken:
        raise TopicError(f"topic {command.topic} is {taken[command.topic]}; give cluster {name} another one")
    if topic is None:
        for made in topic_admin.create_cluster_topic(config, command.topic):
            if not made.ok:
                raise TopicError(f"topic {made.topic} is not usable: {made.text}")
    found = topic_admin.check_cluster_topic(config, command.topic)
    if not found.ok:
        raise TopicError(f"topic {found.topic} of cluster {name}: {found.text}")
    say(config, command, wait=wait)


@clusters.command("list")
@config_option
@json_option
def list_clusters(config_path: Path | None, as_json: bool) -> None:
    """List the registered clusters."""
    found = operators.clusters(read_config(config_path))
    if as_json:
        print_json([cluster.model_dump(mode="json", by_alias=True) for cluster in found])
        return
    none = "no clusters yet; type `foreshard clusters add NAME --capacity N`"
    rows = [
        (
            c.name,
            c.state.value,
            f"{c.capacity_cps:g}{' (guess)' * c.capacity_guessed}",
            c.topic,
            c.partitions,
            c.group,
        )
        for c in found
    ]
    print_table(["cluster", "state", "capacity/s>", "topic", "partitions>", "group"], rows, empty=none)


@clusters.command()
@click.argument("name")
@config_option
@wait_option
def drain(name: str, config_path: Path | None, wait: bool) -> None:
    """Move everything off a cluster, in order; then it can be removed."""
    _set_state(name, WantedState.DRAINING, config_path, wait=wait)


@clusters.command()
@click.argument("name")
@config_option
@wait_option
def down(name: str, config_path: Path | None, wait: bool) -> None:
    """Say that a cluster is dead: its slots leave without waiting for it."""
    _set_state(name, WantedState.DOWN, config_path, wait=wait)


@clusters.command()
@click.argument("name")
@config_option
@wait_option
def activate(name: str, config_path: Path | None, wait: bool) -> None:
    """Take a cluster back that drains or is down."""
    _set_state(name, WantedState.ACTIVE, config_path, wait=wait)


@clusters.command()
@click.argument("name")
@config_option
@wait_option
def remove(name: str, config_path: Path | None, wait: bool) -> None:
    """Forget a cluster that owns nothing and for which nothing waits. Its topic stays."""
    _set_state(name, WantedState.REMOVED, config_path, wait=wait)


def _set_state(name: str, state: WantedState, config_path: Path | None, *, wait: bool) -> None:
    config = read_config(config_path)
    try:
        command = SetClusterState(
            id=operators.new_id("cluster-state"),
            at=config.clock.now(),
            by=operators.who(),
            cluster=name,
            state=state,
        )
    except ValidationError as error:
        raise InvalidRecordError(f"cluster {name}: {describe(error)}") from None
    say(config, command, wait=wait)


@clusters.command()
@click.argument("name")
@config_option
@click.option("--wait/--no-wait", default=True, help="Wait until everything is re-routed.")
def rescue(name: str, config_path: Path | None, wait: bool) -> None:
    """Re-route the requests that wait in the topic of a cluster that is down, each exactly once."""
    config = read_config(config_path)
    try:
        command = Rescue(
            id=operators.new_id("rescue"), at=config.clock.now(), by=operators.who(), cluster=name
        )
    except ValidationError as error:
        raise InvalidRecordError(f"cluster {name}: {describe(error)}") from None
    if not wait:
        say(config, command, wait=False)
        return
    ended = operators.long_command(config, command, show_answer)
    if ended is None:
        sys.exit(InvalidRecordError.exit_status)
    if ended.skip is not None:
        raise RescueError(ended.detail)
    click.echo(ended.detail)
