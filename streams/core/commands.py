"""What operators command, applied once, each with one answer that says what was done or what to type."""

from __future__ import annotations

from schemas import topics
from schemas.records import (
    AcceptRules,
    Answer,
    ClusterAdd,
    Command,
    Freeze,
    Rehome,
    Rescue,
    Resume,
    SetClusterState,
    SetMode,
)
from streams.core.cluster_states import change_state
from streams.core.leader import Leader
from streams.core.out import Out
from streams.core.outcome import NOTHING_FOUND, Found, Outcome, refused
from streams.core.registration import register
from streams.core.rehome import apply_rehome
from streams.core.rescues import begin_rescue

REMEMBERED_COMMANDS = 1000
"""Ids of commands kept so that a command read twice is applied once."""


def apply(leader: Leader, command: Command, now: float, found: Found = NOTHING_FOUND) -> list[Out]:
    """Applies one command; returns its answer, the new state and what else it causes.

    Nothing for a command that was applied before.
    """
    if command.id in leader.answered:
        return []
    leader.answered[command.id] = None
    for old in list(leader.answered)[:-REMEMBERED_COMMANDS]:
        del leader.answered[old]
    outcome = _outcome(leader, command, now, found)
    answer = Answer(
        command=command.id,
        at=now,
        epoch=leader.epoch,
        accepted=outcome.accepted,
        code="" if outcome.accepted else "refused",
        text=outcome.text,
    )
    return [Out(topics.DECISIONS, command.id, answer), leader.state(), *outcome.outs]


def _outcome(leader: Leader, command: Command, now: float, found: Found) -> Outcome:
    match command:
        case ClusterAdd():
            return register(leader, command, now, found)
        case SetClusterState():
            return change_state(leader, command, now, found)
        case Rescue():
            return begin_rescue(leader, command, now, found)
        case AcceptRules():
            return _accept_rules(leader, command, now, found)
        case Rehome():
            return apply_rehome(leader, command, now)
        case SetMode() | Freeze() | Resume():
            return _control(leader, command)


def _control(leader: Leader, command: SetMode | Freeze | Resume) -> Outcome:
    if isinstance(command, SetMode):
        was, leader.mode = leader.mode, command.mode
        return Outcome(True, f"mode was {was.value}, is {leader.mode.value}")
    if isinstance(command, Freeze):
        leader.frozen, leader.freeze_reason = True, command.reason
        return Outcome(True, "frozen: no plan is made until resume, but for clusters that are down")
    text = "resumed" if leader.frozen else "was not frozen"
    leader.frozen, leader.freeze_reason = False, ""
    return Outcome(True, text)


def _accept_rules(leader: Leader, command: AcceptRules, now: float, found: Found) -> Outcome:
    """Writes other key rules into the mapping; this leader, which has the old ones, is obsolete then.

    No router may run: one would read keys by the old rules beside others that read by the new.
    Nothing may be held: its slots are those of the old rules.
    """
    snapshot = leader.snapshot
    if snapshot is None:
        return refused("there is no mapping yet: start the balancer with the new configuration")
    old, new = snapshot.rules_hash[:12], command.rules_hash[:12]
    if snapshot.rules_hash == command.rules_hash:
        return Outcome(True, f"the mapping has these rules already: {new}")
    if snapshot.shards != command.shards:
        return refused(
            f"the mapping has {snapshot.shards} shards, the new configuration {command.shards}: "
            f"N never changes; set shards = {snapshot.shards} in [sharding]"
        )
    if leader.rescue is not None:
        return refused(
            f"{leader.rescue.cluster} is being rescued by the old rules; ask again when it is done"
        )
    if found.members is None or found.held_slots is None:
        return refused("whether routers run or hold requests is not known; ask again when the broker answers")
    if found.members:
        return refused(
            f"{_count(found.members, 'router')} of the group run; stop all routers, then ask again"
        )
    if found.held_slots:
        return refused(
            f"routers were stopped while they held requests of {_count(found.held_slots, 'slot')}; start one "
            "again with the old configuration until the backends have caught up, then stop it and ask again"
        )
    leader.round += 1
    meta = leader.meta(snapshot, snapshot.version + 1, command.rules_hash)
    detail = f"rules {new} were accepted in place of {old}"
    decision = leader.decided(leader.plain(now, meta.version, detail))
    leader.obsolete = (
        f"{detail}: this balancer has the old ones and ends; start balancers and routers with the "
        "configuration that was accepted"
    )
    return Outcome(
        True, f"{detail}; start balancers, then routers, with it", [decision, *leader.published([], meta)]
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
