"""`foreshard clusters`: the registry of backend clusters."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ValidationError

from app import operators, topic_admin
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.cli.control import say, wait_option
from schemas.errors import InvalidRecordError, TopicError
from schemas.records import ClusterAdd, describe
from schemas.topics import OWN_TOPICS


@click.group()
def clusters() -> None:
    """Register and list backend clusters."""


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
                raise TopicError(f"topic {made.topic} was not made: {made.text}")
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
