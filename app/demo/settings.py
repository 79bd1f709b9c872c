"""The configuration file of one pass, and the names that the demo gives to things."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from app.config import Config, load
from app.demo.traffic import Traffic

INGEST_PARTITIONS = 6
CLUSTER_PARTITIONS = 2
"""Each sample backend is one consumer. Every partition costs a broker a write in every transaction."""
ROUTERS = 2
DWELL_S = 180.0
"""Model seconds that a drifted shard stays away at least. As shipped it is 900, longer than a pass can
show: 180 lets shards return home within it."""
PORTS = range(16_000, 30_000, 10)
"""Bases for the web ports of balancer and routers: below every ephemeral range."""


@dataclass(frozen=True)
class PassNames:
    """Names within one pass."""

    prefix: str

    @property
    def ingest(self) -> str:
        return f"{self.prefix}requests"

    def topic(self, cluster: str) -> str:
        return f"{self.prefix}requests.{cluster}"

    def group(self, cluster: str) -> str:
        return f"{self.prefix}{cluster}"


@dataclass(frozen=True)
class PassClock:
    """The three numbers of the model clock."""

    start: float
    t0: float
    time_scale: float


def write_config(
    path: Path,
    traffic: Traffic,
    names: PassNames,
    kafka: Mapping[str, str],
    clock: PassClock,
    policy: str = "predictive",
) -> Config:
    """Writes the pass's configuration file and returns it as every process will read it."""
    lines = ["[kafka]", *(f"{_text(key)} = {_text(value)}" for key, value in kafka.items())]
    lines += ["", "[topics]", f"prefix = {_text(names.prefix)}", f"ingest = {_text(names.ingest)}"]
    lines += ["replication_factor = 1", f"cluster_partitions = {CLUSTER_PARTITIONS}"]
    lines += ["", "[sharding]", f"shards = {traffic.shards}", 'type_from = ["header:type", "json:type"]']
    for rule in traffic.rules:
        fields = ", ".join(_text(str(field)) for field in rule.key)
        lines += ["", "[[request_types]]", f"name = {_text(rule.name)}", f"key = [{fields}]"]
        lines += [f"keyspace = {_text(rule.keyspace)}"] * bool(rule.keyspace)
        lines += [f"cost = {rule.cost}"]
    lines += ["", "[clock]", f"start = {clock.start!r}", f"t0 = {clock.t0!r}"]
    lines += [f"time_scale = {clock.time_scale!r}"]
    lines += ["", "[balancer]", f"dwell_s = {DWELL_S}"]
    lines += [f"policy = {_text(policy)}"] * (policy != "predictive")
    lines += ["", "[router]", f"group = {_text(names.prefix + 'router')}", 'instance = "demo"']
    lines += ["", "[web]", f"port = {free_port_base()}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return load(path, {})


def free_port_base() -> int:
    """Returns a port that is free together with those of the routers after it.

    A random one: two demos that start at the same time must not both find the same ones free.
    """
    for base in random.SystemRandom().sample(PORTS, len(PORTS)):
        if all(_free(base + offset) for offset in range(1 + ROUTERS)):
            return base
    raise OSError(f"no {1 + ROUTERS} free ports in a row in {PORTS.start}..{PORTS.stop}")


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _text(value: str) -> str:
    """Returns a TOML basic string: JSON's escapes are a part of TOML's."""
    return orjson.dumps(str(value)).decode()
