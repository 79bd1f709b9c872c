"""`foreshard topics`: foreshard's own topics."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app import operators, topic_admin
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from schemas.errors import TopicError


@click.group()
def topics() -> None:
    """Make and check foreshard's topics."""


def _show(findings: list[topic_admin.Finding], as_json: bool) -> None:
    if as_json:
        print_json([{"topic": f.topic, "ok": f.ok, "text": f.text} for f in findings])
    else:
        print_table(["topic", "", "what"], [(f.topic, "ok" if f.ok else "WRONG", f.text) for f in findings])
    if not all(finding.ok for finding in findings):
        sys.exit(TopicError.exit_status)


@topics.command()
@config_option
@json_option
@click.option("--ingest-partitions", type=click.IntRange(1), help="Make the ingest topic too.")
def create(config_path: Path | None, as_json: bool, ingest_partitions: int | None) -> None:
    """Make every topic that is missing."""
    _show(topic_admin.create(read_config(config_path), ingest_partitions=ingest_partitions), as_json)


@topics.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Check partitions and settings of all topics, those of the registered clusters included."""
    config = read_config(config_path)
    try:
        of_clusters = [cluster.topic for cluster in operators.clusters(config)]
    except TopicError:  # the registry itself is missing: the check says so
        of_clusters = []
    _show(topic_admin.check(config, of_clusters), as_json)
