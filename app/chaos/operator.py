"""The operator of a run with a real balancer: empties a cluster now and then, and takes it back."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException

from app import operators
from app.chaos.settings import CLUSTERS, TIME_SCALE, Chaos, capacity_rps, group_of, topic_of
from app.config import Config, load
from schemas.errors import ForeshardError
from schemas.records import ClusterAdd, Mode, SetClusterState, SetMode, WantedState
from schemas.topics import COMMANDS

GAP_S = (4.0, 10.0)
"""Wall seconds between two commands."""


def register(config: Config, chaos: Chaos) -> None:
    """Gives the commands with which a balancer can begin: all clusters, and to act on its own."""
    now = config.clock.now()
    for name in CLUSTERS:
        record = ClusterAdd(
            id=operators.new_id("cluster-add"),
            by="chaos",
            at=now,
            cluster=name,
            topic=topic_of(name),
            group=group_of(name),
            capacity_cps=capacity_rps(chaos, name) / TIME_SCALE,
        )
        operators.send(config, COMMANDS, None, record)
    mode = SetMode(id=operators.new_id("mode"), by="chaos", at=now, mode=Mode.AUTO)
    operators.send(config, COMMANDS, None, mode)


def operate(config: Config, chance: random.Random, wait: Callable[[float], bool]) -> None:
    """Empties clusters and takes them back until `wait` says that it is over; most are always there."""
    empty: list[str] = []
    while not wait(chance.uniform(*GAP_S)):
        if empty and (len(empty) > 1 or chance.random() < 0.6):
            _set(config, empty.pop(0), WantedState.ACTIVE)
        else:
            empty.append(chance.choice([name for name in CLUSTERS if name not in empty]))
            _set(config, empty[-1], WantedState.DRAINING)


def _set(config: Config, cluster: str, state: WantedState) -> None:
    record = SetClusterState(
        id=operators.new_id("cluster-state"), by="chaos", at=config.clock.now(), cluster=cluster, state=state
    )
    with contextlib.suppress(ForeshardError, KafkaException):  # the broker is away: the next one will do
        operators.send(config, COMMANDS, None, record)


def main() -> None:
    """Command the balancer at random until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m app.chaos.operator", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    operate(load(given.config, {}), random.Random(f"operator-{given.seed}"), stop.wait)


if __name__ == "__main__":
    main()
