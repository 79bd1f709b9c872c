"""What a cluster's state may become, by an operator's word or because it looks dead.

active -> draining -> removed: its slots are handed over, then it is forgotten.
active -> down -> removed: it will not get on; its slots are taken away, its topic can be rescued.
Homes stay while it drains or is down, so that `active` brings everything back; they change when it goes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from schemas.records import Cluster, ClusterState, Mode, PreviousSegments, SetClusterState, WantedState
from streams.core.leader import Leader
from streams.core.mapping import Snapshot, homes
from streams.core.out import Out
from streams.core.outcome import Found, Outcome, refused


def change_state(leader: Leader, command: SetClusterState, now: float, found: Found) -> Outcome:
    """Gives a cluster another state, or forgets it, where nothing is lost by it."""
    name = command.cluster
    cluster = leader.clusters.get(name)
    if cluster is None:
        return refused(f"cluster {name} is not registered; see `foreshard clusters list`")
    if leader.rescue is not None:
        return refused(
            f"{leader.rescue.cluster} is being rescued, nothing may move meanwhile; ask again then"
        )
    if command.state is WantedState.REMOVED:
        return _remove(leader, cluster, now, found)
    state = ClusterState(command.state.value)
    if cluster.state is state:
        return Outcome(True, f"cluster {name} is {state.value} already")
    others = set(leader.weights()) - {name}
    if state is ClusterState.DRAINING and not others:
        return refused(
            f"no other cluster is active, so the slots of {name} have nowhere to go; add one first"
        )
    nowhere = "" if others else "; no other cluster is active, so its slots stay"
    text = {
        ClusterState.ACTIVE: f"cluster {name} is active, was {cluster.state.value}; its slots come back",
        ClusterState.DRAINING: f"cluster {name} drains; when it owns no slots, "
        f"`foreshard clusters remove {name}` forgets it",
        ClusterState.DOWN: f"cluster {name} is down, its slots leave; when it owns none, "
        f"`foreshard clusters rescue {name}` re-routes what waits in its topic{nowhere}",
    }[state]
    return Outcome(True, text, _set(leader, cluster, state, now, f"{name} is {state.value}, by command"))


def alive(leader: Leader) -> set[str]:
    """Returns the clusters that nobody has given up."""
    return {name for name, cluster in leader.clusters.items() if cluster.state is not ClusterState.DOWN}


def bury(leader: Leader, now: float) -> tuple[list[Out], str]:
    """Returns what sets dead clusters down, and what is to be said of those that only look dead."""
    outs: list[Out] = []
    said = []
    for silent in leader.deaths.silent(now, alive(leader)):
        if not silent.seen_waiting:
            continue
        name = silent.cluster
        why = f"for {silent.for_s:.0f} s it committed and reported nothing, though requests wait in its topic"
        what = f"{name} looks dead ({why})"
        if not leader.deaths.well(now, set(leader.weights()) - {name}):
            said.append(f"{what}, but no other cluster gets on either: it is left as it is")
        elif leader.mode is Mode.AUTO and not leader.frozen:
            outs += _set(leader, leader.clusters[name], ClusterState.DOWN, now, f"{name} is down: {why}")
        else:
            said.append(f"{what}; in auto mode it would be down: `foreshard clusters down {name}`")
    return outs, "; ".join(said)


def slots_of_cluster(snapshot: Snapshot, name: str) -> int:
    """Returns how many slots a cluster owns."""
    if name not in snapshot.names:
        return 0
    return int(np.count_nonzero(snapshot.owners == snapshot.names.index(name)))


def _set(leader: Leader, cluster: Cluster, state: ClusterState, now: float, detail: str) -> list[Out]:
    """Returns the registry's record and, at once, a version of the mapping: routers learn it from there."""
    outs = [leader.registered(cluster.model_copy(update={"state": state}))]
    snapshot = leader.snapshot
    if snapshot is None:
        return outs
    if state is ClusterState.ACTIVE:
        away = {
            record.shard
            for record in snapshot.records
            if record.home == cluster.name and any(owner != cluster.name for *_, owner in record.segments)
        }
        leader.joined |= away  # they come back at once, in every mode, within the budget
        leader.moved = {shard: at for shard, at in leader.moved.items() if shard not in away}
    return outs + leader.rewritten(snapshot, now, detail)


def _remove(leader: Leader, cluster: Cluster, now: float, found: Found) -> Outcome:
    """Forgets a cluster that nothing needs any more: no slot, no handoff, no waiting request."""
    name = cluster.name
    others = {other: weight for other, weight in leader.weights().items() if other != name}
    if not others:
        return refused(
            f"no other cluster is active, so the shards of {name} have nowhere to live; add one first"
        )
    snapshot = leader.snapshot
    needed = _still_needed(leader, snapshot, cluster, found) if snapshot is not None else ""
    if needed:
        return refused(f"cluster {name} {needed}")
    outs = [leader.unregistered(name)]
    text = f"cluster {name} is removed; its topic {cluster.topic} is left alone"
    if snapshot is None:
        return Outcome(True, text, outs)
    wanted = homes(snapshot.shards, others)
    new = {record.shard: wanted[record.shard] for record in snapshot.records if record.home == name}
    # Named with the home it has, a shard is written again without what is settled: that may name the cluster.
    kept = {record.shard: record.home for record in snapshot.records if _names(record.previous, name)}
    detail = f"{name} is removed, by command; {len(new)} shards have new homes"
    return Outcome(True, text, outs + leader.rewritten(snapshot, now, detail, kept | new))


def _still_needed(leader: Leader, snapshot: Snapshot, cluster: Cluster, found: Found) -> str:
    """Returns why a cluster cannot be forgotten yet; empty where it can."""
    name = cluster.name
    slots = slots_of_cluster(snapshot, name)
    if slots:
        active = cluster.state is ClusterState.ACTIVE
        how = f"type `foreshard clusters drain {name}` first" if active else "wait until they have left"
        return f"owns {slots} of {len(snapshot.owners)} slots; {how}"
    moving = sum(
        any(entry.version >= leader.settled and _names([entry], name) for entry in record.previous)
        for record in snapshot.records
    )
    if moving:
        return f"may still get requests: the handoff of {moving} shards is not settled yet; ask again soon"
    if found.waiting:
        rescue = cluster.state is ClusterState.DOWN
        how = f"type `foreshard clusters rescue {name}`" if rescue else "wait until its backend is done"
        return f"has requests waiting in {cluster.topic}; {how}"
    if found.waiting is None:
        return f"may have requests waiting in {cluster.topic}: the broker did not answer; ask again"
    return ""


def _names(entries: Iterable[PreviousSegments], name: str) -> bool:
    return any(owner == name for entry in entries for *_, owner in entry.segments)
