"""`foreshard clusters`: the registry of backend clusters."""

from __future__ import annotations

import getpass
from pathlib import Path

import click
from pydantic import ValidationError

from app import operators, topic_admin
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.cli.control import say, wait_option
from schemas.errors import InvalidRecordError, TopicError
from schemas.records import ClusterAdd, describe


@click.group()
def clusters() -> None:
    """Register and list backend clusters."""


@clusters.command()
@click.argument("name")
@click.option("--capacity", type=float, required=True, help="What it can serve, cost units/s.")
@click.option("--guess", is_flag=True, help="Mark the capacity as a guess.")
@click.option("--topic", help="Use this existing topic [default: make <prefix>requests.NAME].")
@click.option("--group", help="Consumer group of the backend [default: NAME].")
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
    """Register a cluster, or change its capacity."""
    config = read_config(config_path)
    try:
        command = ClusterAdd(
            id=operators.new_id("cluster-add"),
            at=config.clock.now(),
            by=getpass.getuser(),
            cluster=name,
            topic=topic or f"{config.prefix}requests.{name}",
            group=group or name,
            capacity_cps=capacity,
            capacity_guessed=guess,
        )
    except ValidationError as error:
        raise InvalidRecordError(f"cluster {name}: {describe(error)}") from None
    if topic is None:
        wrong = [item for item in topic_admin.create_cluster_topic(config, command.topic) if not item.ok]
        if wrong:
            raise TopicError(f"topic {wrong[0].topic} was not made: {wrong[0].text}")
    elif topic_admin.partitions(config, topic) is None:
        raise TopicError(f"topic {topic} does not exist; leave --topic out to make one")
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
    print_table(["cluster", "state", "capacity/s>", "topic", "partitions>", "group"], rows)
