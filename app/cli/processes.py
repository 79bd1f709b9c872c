"""Verbs that run a process: router, balancer, reporter, demo."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from pathlib import Path

import click
import psutil

from app import operators, topic_admin
from app.children import run_together
from app.cli.common import config_option, read_config
from app.config import Config
from schemas.errors import BrokerUnreachableError, ConfigError, InvalidRecordError, TopicError
from schemas.records import NAME_PATTERN, Mode
from schemas.topics import OWN_TOPICS

LAST_PORT = 65_535


def _port(base: int, offset: int) -> int:
    """Returns the port of a process; raises ConfigError where there is none left."""
    if base and base + offset > LAST_PORT:
        raise ConfigError([f"web.port {base} leaves no port for this --index: {base + offset}"])
    return base + offset if base else 0


@click.command()
@config_option
@click.option(
    "--index",
    type=click.IntRange(0),
    default=0,
    help="Number of this router, or the first one, on this host.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    help="Run so many routers, each in a process of its own.",
)
def router(config_path: Path | None, index: int, processes: int) -> None:
    """Run a router: reads requests, forwards them to the cluster that the mapping names."""
    config = read_config(config_path)
    if processes > 1:
        own = [sys.executable, "-m", "app.cli", "router"]
        own += ["--config", str(config.path)] if config.path else []
        sys.exit(run_together([[*own, "--index", str(index + number)] for number in range(processes)]))
    from app.host import run_router
    from streams.router import RouterSettings

    options = config.file.router
    instance = config.instance("router", index)
    settings = RouterSettings(
        kafka=config.kafka,
        prefix=config.prefix,
        ingest=config.ingest,
        group=options.group,
        instance=instance,
        guarantee=options.guarantee,
        instance_id=instance if options.instance_id else "",
        handoff=options.handoff(),
    )
    port = _port(config.file.web.port, 1 + index)
    sys.exit(run_router(settings=settings, rules=config.rules, clock=config.clock, web_port=port))


@click.command()
@config_option
@click.option("--index", type=click.IntRange(0), default=0, help="Number of this balancer on this host.")
def balancer(config_path: Path | None, index: int) -> None:
    """Run a balancer: one leads, further ones stand by. Its page is at http://127.0.0.1:PORT."""
    from app.balancer import run_balancer

    config = read_config(config_path)
    port = _port(config.file.web.port, 100 * index)
    _check_topics(config)
    sys.exit(run_balancer(config, port))


def _check_topics(config: Config) -> None:
    """Raises where no broker answers or a topic is missing; warns of settings that break a promise."""
    topic_admin.require(config, config.ingest, *(config.topic(spec) for spec in OWN_TOPICS))
    for finding in topic_admin.check(config):
        if not finding.ok:
            click.echo(f"warning: topic {finding.topic}: {finding.text}", err=True)


@click.command()
@config_option
@click.option("--cluster", required=True, help="The cluster that this backend belongs to.")
@click.option("--instance", default="", help="Name of this backend instance [default: host name].")
@click.option("--pid", type=click.IntRange(1), help="Watch this process and its children, not the host.")
@click.option("--capacity", type=click.FloatRange(0, min_open=True), help="Capacity in cost units/s.")
def reporter(
    config_path: Path | None, cluster: str, instance: str, pid: int | None, capacity: float | None
) -> None:
    """Run a reporter beside a backend: CPU, memory, queue depth, throughput, every 10 s."""
    from streams.reporter import run_reporter

    config = read_config(config_path)
    instance = instance or config.instance(cluster, 0)
    _check_watched(config, cluster, instance, pid)
    click.echo(f"reporter {instance} of cluster {cluster}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.exit(
        run_reporter(
            kafka=config.kafka,
            prefix=config.prefix,
            cluster=cluster,
            topic=None,
            group=None,
            instance=instance,
            pid=pid,
            capacity_cps=capacity,
            clock=config.clock,
            stop=stop,
        )
    )


def _check_watched(config: Config, cluster: str, instance: str, pid: int | None) -> None:
    """Raises InvalidRecordError for what can never be reported; warns of what may still come."""
    for name in (cluster, instance):
        if not re.match(NAME_PATTERN, name):
            raise InvalidRecordError(
                f"{name!r} is no name: letters, digits, dot, dash, underscore; up to 100"
            )
    if pid is not None and not psutil.pid_exists(pid):
        raise InvalidRecordError(f"there is no process {pid}; leave --pid out to watch the host")
    with contextlib.suppress(BrokerUnreachableError, TopicError):  # reports wait for the broker
        if cluster not in {known.name for known in operators.clusters(config)}:
            click.echo(
                f"cluster {cluster} is not registered: its reports are refused until "
                f"`foreshard clusters add {cluster} --capacity N`",
                err=True,
            )


@click.command()
@click.option(
    "--seconds", type=click.IntRange(10), default=120, show_default=True, help="Wall time per pass."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--trace", type=click.Path(path_type=Path, exists=True), help="Replay this request log.")
@click.option("--columns", help="Names of the log's columns: time,type,key.")
@click.option("--from", "window_from", help="Begin of the log's window [default: the busiest].")
@click.option("--keep", is_flag=True, help="Keep the broker and all files, and say where.")
@click.option(
    "--time-scale",
    type=click.FloatRange(1),
    default=10.0,
    show_default=True,
    help="Seconds of model time per second of wall time.",
)
@click.option("--seed", type=int, help="Seed of the traffic [default: 72].")
@click.option(
    "--passes",
    default="auto,observe",
    show_default=True,
    callback=lambda _context, _option, text: _modes(text),
    help="Modes of the balancer, one pass each.",
)
@click.option("--withhold-event", is_flag=True, help="Do not announce the campaign.")
@click.option(
    "--policy",
    type=click.Choice(["predictive", "reactive"]),
    default="predictive",
    show_default=True,
    help="What the balancer plans on: forecasts, or what is measured only.",
)
@click.option(
    "--campaign-share",
    type=click.FloatRange(0, min_open=True),
    default=0.2,
    show_default=True,
    help="Extra requests of the campaign over the mean rate.",
)
def demo(
    seconds: int,
    json_path: Path | None,
    trace: Path | None,
    columns: str | None,
    window_from: str | None,
    keep: bool,
    time_scale: float,
    seed: int | None,
    passes: tuple[str, ...],
    withhold_event: bool,
    policy: str,
    campaign_share: float,
) -> None:
    """Route a real load on a real broker, balanced and then only observed, and report both."""
    from app.demo.run import run_demo
    from app.demo.traffic import DEFAULT_SEED

    sys.exit(
        run_demo(
            seconds=seconds,
            json_path=json_path,
            trace=trace,
            columns=columns,
            window_from=window_from,
            keep=keep,
            time_scale=time_scale,
            seed=DEFAULT_SEED if seed is None else seed,
            passes=passes,
            announced=not withhold_event,
            policy=policy,
            campaign_share=campaign_share,
        )
    )


def _modes(text: str) -> tuple[str, ...]:
    """Returns the modes in a list with commas, each once."""
    modes = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    wrong = [mode for mode in modes if mode not in tuple(Mode)]
    if wrong or not modes:
        raise click.BadParameter(f"{wrong[0]!r} is no mode; modes are {', '.join(Mode)}")
    return modes
