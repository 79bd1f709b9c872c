"""A rescue as the leader sees it: when it may begin, and what its end changes.

What waits in the topic of a cluster that is down is re-routed by the current mapping. Until that is
done nothing is planned, so that a slot's rescued requests go one way, in order.
"""

from __future__ import annotations

from schemas.records import ClusterState, Rescue, Rescuing, Skip
from streams.core.cluster_states import slots_of_cluster
from streams.core.leader import Leader
from streams.core.out import Out
from streams.core.outcome import Found, Outcome, refused


def begin_rescue(leader: Leader, command: Rescue, now: float, found: Found) -> Outcome:
    """Begins a rescue, where it cannot process a request twice or miss one."""
    name = command.cluster
    cluster, snapshot = leader.clusters.get(name), leader.snapshot
    if cluster is None or snapshot is None:
        return refused(f"cluster {name} is not registered or not mapped; see `foreshard clusters list`")
    if leader.rescue is not None:
        return refused(f"{rescue_text(leader)}; `foreshard rounds list` shows its end")
    if cluster.state is not ClusterState.DOWN:
        return refused(
            f"cluster {name} is {cluster.state.value}, not down; "
            f"if its backend is gone for good, type `foreshard clusters down {name}` first"
        )
    for down in sorted(n for n, c in leader.clusters.items() if c.state is ClusterState.DOWN):
        slots = slots_of_cluster(snapshot, down)
        if slots:
            return refused(
                f"cluster {down} is down and still owns {slots} slots; ask again when they have left"
            )
    if found.members is None:
        return refused(f"whether group {cluster.group} has members is not known; ask again")
    if found.members:
        return refused(
            f"group {cluster.group} has members ({found.members}) who would process what is rescued as well; "
            f"stop the backend of {name}, then ask again"
        )
    leader.rescue = Rescuing(cluster=name, command=command.id)
    leader.rescued, leader.rescued_letters, leader.resumed = 0, 0, False
    waiting = leader.capacity.backlog(name, now)
    many = "an unknown number of" if waiting is None else f"about {waiting:.0f}"
    return Outcome(True, f"the rescue of {name} has begun: {many} requests wait in {cluster.topic}")


def rescue_text(leader: Leader) -> str:
    """Returns how far the rescue under way is."""
    name = leader.rescue.cluster if leader.rescue else "nobody"
    return f"{name} is being rescued: {leader.rescued} requests so far"


def end_rescue(leader: Leader, now: float, why: str = "") -> list[Out]:
    """Ends the rescue; `why` it stopped early, or empty. Returns what says so.

    Where something was moved, the cluster's `rescues` rises in meta: routers do not know what was
    written meanwhile, and take the ends of all topics anew when they see it rise.
    """
    rescue, leader.rescue = leader.rescue, None
    cluster, snapshot = leader.clusters.get(rescue.cluster) if rescue else None, leader.snapshot
    if rescue is None or cluster is None or snapshot is None:
        return []
    notes = f", {leader.rescued_letters} of them to the dead-letter topic" if leader.rescued_letters else ""
    notes += ", the rest of what a leader before had begun" if leader.resumed else ""
    detail = f"rescued {leader.rescued} requests of {cluster.name}{notes}"
    outs: list[Out] = []
    if leader.rescued or leader.resumed or not why:
        registered = leader.registered(cluster.model_copy(update={"rescues": cluster.rescues + 1}))
        said = detail if not why else f"{detail}, and stopped"
        outs = [registered, *leader.rewritten(snapshot, now, said, command=None if why else rescue.command)]
    if why:
        leader.round += 1
        text = f"the rescue of {cluster.name} stopped after {leader.rescued} requests{notes}: {why}"
        version = leader.snapshot.version if leader.snapshot else snapshot.version
        decision = leader.plain(now, version, text, Skip.HANDOFF_PENDING, rescue.command)
        outs.append(leader.decided(decision))
    return [*outs, leader.state()]
