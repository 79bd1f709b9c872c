"""The command line: `foreshard VERB`. One file per group of verbs."""

from __future__ import annotations

import sys
from typing import Any

import click
from confluent_kafka import KafkaException

from app.cli import (
    bench,
    clusters,
    configuration,
    control,
    events,
    keys,
    load,
    mapping,
    processes,
    rehome,
    rounds,
    simulate,
    topics,
)
from schemas.errors import ForeshardError


class Root(click.Group):
    """Turns our own errors into one clear text and their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ForeshardError as error:
            click.echo(f"foreshard: {error.code}: {error}", err=True)
            sys.exit(error.exit_status)
        except KafkaException as error:
            click.echo(f"foreshard: kafka: {error.args[0].str()}", err=True)
            sys.exit(ForeshardError.exit_status)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="foreshard")
def main() -> None:
    """Shards requests on Kafka and moves load before it arrives.

    \b
    Exit status
      0  done                        6  rules differ from the mapping's
      1  unexpected                  7  mapping
      2  wrong usage or input        8  fenced by a newer leader
      3  configuration               9  router failed
      4  no broker                  10  not ready: no mapping or no leader
      5  topics
    """


for command in (
    processes.router,
    processes.balancer,
    processes.reporter,
    processes.demo,
    simulate.simulate,
    bench.bench,
    topics.topics,
    clusters.clusters,
    events.events,
    control.mode,
    control.freeze,
    control.resume,
    mapping.mapping,
    rehome.rehome,
    keys.key,
    load.load,
    rounds.rounds,
    configuration.config,
):
    main.add_command(command)
