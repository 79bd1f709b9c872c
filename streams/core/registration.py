"""How a cluster comes into the registry, and gets its homes."""

from __future__ import annotations

from typing import Any

from schemas.records import Cluster, ClusterAdd
from streams.core.leader import Leader
from streams.core.mapping import Snapshot, homes
from streams.core.out import Out
from streams.core.outcome import Found, Outcome, refused


def register(leader: Leader, command: ClusterAdd, now: float, found: Found) -> Outcome:
    """Registers a cluster, or takes new settings of one; its topic and partitions never change."""
    if found.partitions is None:
        return refused(f"topic {command.topic} does not exist; make it, then add the cluster again")
    if leader.rescue is not None and leader.rescue.cluster == command.cluster:
        return refused(f"{command.cluster} is being rescued; ask again when it is done")
    old = leader.clusters.get(command.cluster)
    if old is not None and old.topic != command.topic:
        return refused(f"cluster {command.cluster} exists with topic {old.topic}")
    if old is not None and old.partitions != found.partitions:
        return refused(f"topic {old.topic} had {old.partitions} partitions, has {found.partitions}")
    if old is not None:
        cluster = old.model_copy(update=_settings(command))
        outs = [leader.registered(cluster)]
        if leader.snapshot is not None and old.group != cluster.group:
            detail = f"{cluster.name} has the group {cluster.group}"
            outs += leader.rewritten(leader.snapshot, now, detail)
        return Outcome(True, f"cluster {cluster.name} has a capacity of {cluster.capacity_cps:g} now", outs)
    cluster = Cluster(
        name=command.cluster, topic=command.topic, partitions=found.partitions, **_settings(command)
    )
    outs = [leader.registered(cluster)]
    if leader.snapshot is not None:
        outs += _join(leader, leader.snapshot, cluster, now)
    return Outcome(True, f"cluster {cluster.name} is registered", outs)


def _join(leader: Leader, snapshot: Snapshot, cluster: Cluster, now: float) -> list[Out]:
    """Returns the plan that gives a new cluster its homes; its slots follow as returns."""
    wanted = homes(snapshot.shards, leader.weights())
    new = {shard: home for shard, home in enumerate(wanted) if home == cluster.name}
    leader.joined |= set(new)
    detail = f"{cluster.name} joined: home of {len(new)} of {snapshot.shards} shards"
    return leader.rewritten(snapshot, now, detail, new)


def _settings(command: ClusterAdd) -> dict[str, Any]:
    """Returns what may change while a cluster is registered."""
    return {
        "group": command.group,
        "capacity_cps": command.capacity_cps,
        "capacity_guessed": command.capacity_guessed,
    }
