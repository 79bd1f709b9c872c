"""Foreshard's own topics with their settings: the one list that `topics create` and `check` use."""

from __future__ import annotations

from dataclasses import dataclass, field

DAY_MS = 86_400_000
HISTORY_MS = 28 * DAY_MS
"""28 days: four whole weeks, so that every weekday has been seen four times."""

COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": "3600000",
    "max.compaction.lag.ms": "3600000",
    "delete.retention.ms": "86400000",
}
"""Small tables read from the beginning at every start: kept short, tombstones kept a day."""

ROOM_BYTES = 64 * 1024
"""Room that forwarded and dead-lettered records need beyond the ingest record: added headers."""


@dataclass(frozen=True)
class TopicSpec:
    """One topic: its name without the prefix, default partitions, settings and one sentence."""

    name: str
    partitions: int
    settings: dict[str, str] = field(hash=False)
    key: str
    what: str


def _deleted(retention_ms: int, **more: str) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(retention_ms)} | {
        name.replace("_", "."): value for name, value in more.items()
    }


LOAD = TopicSpec("load", 4, _deleted(HISTORY_MS), "router", "routers' load reports and stored history")
METRICS = TopicSpec("metrics", 4, _deleted(HISTORY_MS), "cluster", "what reporters see of the backends")
EVENTS = TopicSpec("events", 1, COMPACTED, "event id", "announced demand and capacity changes")
COMMANDS = TopicSpec("commands", 1, _deleted(HISTORY_MS), "-", "operators' commands; its owner leads")
CLUSTERS = TopicSpec("clusters", 1, COMPACTED, "cluster", "the registry of backend clusters")
MAPPING = TopicSpec("mapping", 1, COMPACTED, "shard or meta", "global slot -> cluster")
DECISIONS = TopicSpec("decisions", 1, _deleted(HISTORY_MS), "epoch.round", "every round, with its reasons")
STATE = TopicSpec("state", 1, COMPACTED, "kind:name", "what a balancer's successor needs")
DEAD_LETTER = TopicSpec("dead-letter", 4, _deleted(HISTORY_MS), "original key", "requests that found no way")

OWN_TOPICS = (LOAD, METRICS, EVENTS, COMMANDS, CLUSTERS, MAPPING, DECISIONS, STATE, DEAD_LETTER)

BALANCER_GROUP = "balancer"
"""Name, without the prefix, of the group on `commands` whose only partition makes its owner the leader."""

CLUSTER_PARTITIONS = 12
"""Default partitions of a cluster's topic."""
REQUESTS = "requests"
"""Default name of the ingest topic, and of the part before a cluster's name in its topic's name."""
