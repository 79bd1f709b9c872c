"""What a chaos run is made of: its sizes, its clusters, and the configuration file of its routers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from app.config import Config, load

INGEST_PARTITIONS = 4
CLUSTER_PARTITIONS = 3
SHARDS = 256
PREFIX = "chaos."
ROUTER_GROUP = f"{PREFIX}router"
ROUTERS_MOST = 3

SHORTEST_S = 30.0
"""Seconds that the shortest run sends for: below, too little goes wrong while requests move."""
REQUESTS_PER_S = 3500.0
"""What is added per second to that: a million requests take 316 s, at 3,200 requests/s. Routers take
thirty times that; a dozen backends in Python beside the broker on two cores do not."""
PLAN_S = 0.75
"""Seconds between two changes of the mapping: over one per second, since who makes them is killed too."""

BALANCERS = 2
"""One leads, one stands by, where a real balancer changes the mapping."""
TIME_SCALE = 10.0
"""Model seconds per wall second for a real balancer: a round of 10 s is one wall second."""

Rule = Literal["kept", "broken"]
Source = Literal["plan", "balancer"]


@dataclass(frozen=True)
class Chaos:
    """One run: what was asked for."""

    requests: int
    seed: int
    rule: Rule = "kept"
    """Whether a shard waits until its last move is settled everywhere before it moves again."""
    mapping: Source = "plan"
    duration_limit_s: float = 3600.0
    guarantee: str = "exactly-once"

    @property
    def seconds(self) -> float:
        """Seconds for which requests are sent and things fail."""
        return SHORTEST_S + self.requests / REQUESTS_PER_S

    @property
    def rate_rps(self) -> float:
        """Requests/s, all producers together."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Backend:
    """A cluster's backends: how many processes, how often they commit, how slow they are."""

    processes: int
    commit_s: float
    slack: float | None = None
    """Service rate of all processes over the cluster's even part of the load; None: as fast as it goes."""


CLUSTERS: Mapping[str, Backend] = {
    "c1": Backend(1, 0.5, slack=2.0),
    "c2": Backend(2, 0.1),
    "c3": Backend(1, 1.0),
    "c4": Backend(2, 0.5, slack=2.5),
    "c5": Backend(1, 0.1),
    "c6": Backend(2, 1.0),
}
"""Two are slow: while a hot key is theirs, or one of their processes is dead, seconds of work wait there."""


FAST_SLACK = 1.8
"""What a balancer is told of the others: so little that it has something to do."""


def topic_of(cluster: str) -> str:
    return f"{PREFIX}requests.{cluster}"


def group_of(cluster: str) -> str:
    return f"{PREFIX}{cluster}"


def service_rate_rps(chaos: Chaos, cluster: str) -> float:
    """Returns the requests/s of one backend process of the cluster; 0 = unlimited."""
    backend = CLUSTERS[cluster]
    if backend.slack is None:
        return 0.0
    return capacity_rps(chaos, cluster) / backend.processes


def capacity_rps(chaos: Chaos, cluster: str) -> float:
    """Returns the requests/s that a balancer is told the cluster can take."""
    return (CLUSTERS[cluster].slack or FAST_SLACK) * chaos.rate_rps / len(CLUSTERS)


CONFIGURATION = f"""\
[kafka]
"bootstrap.servers" = %s
[topics]
prefix = "{PREFIX}"
ingest = "{PREFIX}requests"
replication_factor = 1
cluster_partitions = {CLUSTER_PARTITIONS}
[sharding]
shards = {SHARDS}
type_from = ["header:type", "json:type"]
[router]
group = "{ROUTER_GROUP}"
instance = "chaos"
guarantee = %s
[clock]
start = %r
t0 = %r
time_scale = {TIME_SCALE}
[balancer]
cooldown_s = 10
dwell_s = 20
dead_after_s = 3600
wait_for_handoff = %s
[web]
port = 0
[[request_types]]
name = "update"
key = ["json:tenant", "json:user"]
keyspace = "user"
[[request_types]]
name = "read"
key = ["json:tenant", "json:user"]
keyspace = "user"
[[request_types]]
name = "visit"
key = ["header:tenant", "header:user"]
keyspace = "user"
[[request_types]]
name = "log"
key = ["json:tenant", "json:user"]
keyspace = "user"
order = "none"
"""


def write_config(path: Path, bootstrap: str, chaos: Chaos, now: float) -> Config:
    """Writes the run's configuration file and returns it as every process will read it."""
    text = CONFIGURATION % (
        _text(bootstrap),
        _text(chaos.guarantee),
        now,
        now,
        str(chaos.rule == "kept").lower(),
    )
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def _text(value: str) -> str:
    """Returns a TOML basic string: JSON's escapes are a part of TOML's."""
    return orjson.dumps(value).decode()
