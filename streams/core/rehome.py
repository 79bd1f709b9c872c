"""Other homes: proposed from the load that was stored, commanded, or because a shard stayed away for long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from schemas.records import SLOTS, ClusterState, MappingRecord, Mode, Reason, Rehome
from streams.core.leader import Leader
from streams.core.out import Out
from streams.core.outcome import Outcome, refused

Floats = npt.NDArray[np.float64]

EVEN = 0.05
"""Homes may be this part fuller than their mean: what is less uneven is not worth moving, for shedding
begins at .15 over it."""
STAYED_S = 86_400.0
"""A shard that was away for so long does not come back: what drove it away was no passing load."""


def propose(load: Floats, homes: Sequence[str], capacities: Mapping[str, float]) -> dict[int, str]:
    """Returns shard -> home for the shards that get another one, so that homes are even and little moves.

    `load` is float64[shards], cost units/s; `capacities` are those of the active clusters. The largest
    shards first, each stays while its home has room (up to EVEN over the mean); the others, again the
    largest first, go where they leave the least full cluster. A shard whose home is not active keeps it.
    Nothing where that would not make the fullest cluster less full.
    """
    names = sorted(capacities)
    row = {name: number for number, name in enumerate(names)}
    capacity = np.array([capacities[name] for name in names])
    home = np.array([row.get(name, -1) for name in homes])
    taking_part = np.flatnonzero(home >= 0)
    if not len(taking_part):
        return {}
    total = float(load[taking_part].sum())
    most = (1 + EVEN) * total / float(capacity.sum()) * capacity
    held = np.zeros(len(names))
    new, displaced = home.copy(), []
    for shard in taking_part[np.lexsort((taking_part, -load[taking_part]))].tolist():
        at = home[shard]
        if load[shard] > most[at]:  # too big for any share of it: placed before the others fill the room
            new[shard] = _least_full(held + load[shard], capacity, at)
        elif held[at] + load[shard] > most[at]:
            displaced.append(shard)
            continue
        held[new[shard]] += load[shard]
    for shard in displaced:
        new[shard] = _least_full(held + load[shard], capacity, home[shard])
        held[new[shard]] += load[shard]
    before = np.bincount(home[taking_part], load[taking_part], len(names)) / capacity
    if float((held / capacity).max()) >= float(before.max()) * (1 - 1e-9):
        return {}
    return {shard: names[new[shard]] for shard in taking_part.tolist() if new[shard] != home[shard]}


def _least_full(held: Floats, capacity: Floats, home: int) -> int:
    """Returns the cluster that is the least full with the shard on it; its home where that is as good."""
    full = held / capacity
    best = int(full.argmin())
    return home if full[home] <= full[best] * (1 + EVEN) else best


def apply_rehome(leader: Leader, command: Rehome, now: float) -> Outcome:
    """Gives shards the homes that an operator commands; their slots follow as returns, under the budget."""
    snapshot = leader.snapshot
    if snapshot is None:
        return refused("there is no mapping yet: `foreshard clusters add`, then ask again")
    if leader.rescue is not None:
        return refused(f"{leader.rescue.cluster} is being rescued; ask again when it is done")
    wrong = sorted(shard for shard, _ in command.homes if shard >= snapshot.shards)
    if wrong:
        return refused(f"shard {wrong[0]} is not below {snapshot.shards}, the mapping's shards")
    idle = sorted({home for _, home in command.homes} - set(leader.weights()))
    if idle:
        return refused(f"{', '.join(idle)}: no active cluster; type `foreshard rehome` for a new proposal")
    records = snapshot.records
    new = {shard: home for shard, home in command.homes if records[shard].home != home}
    if not new:
        return Outcome(True, "these are the homes already")
    following = {shard for shard, home in new.items() if _strays(records[shard], home)}
    leader.joined -= set(new)
    leader.rehomed = (leader.rehomed - set(new)) | following
    leader.moved = {shard: at for shard, at in leader.moved.items() if shard not in following}
    what = f"{len(new)} of {snapshot.shards} shards have new homes"
    outs = leader.rewritten(snapshot, now, f"{what}, by command", new, reason=Reason.REHOME)
    return Outcome(
        True, f"{what}; the slots of {len(following)} follow within the budget of each round", outs
    )


def settle_in(leader: Leader, now: float) -> list[Out]:
    """Returns the plan that makes their cluster the home of shards that were there for a day, if any.

    There: with most of its slots, all the time since it has its home, while both clusters are active.
    Only where rounds may move something: what an operator holds back is not held to be settled.
    """
    snapshot = leader.snapshot
    if snapshot is None:
        return []
    active = {name for name, c in leader.clusters.items() if c.state is ClusterState.ACTIVE}
    away: dict[int, tuple[str, float]] = {}
    for record in snapshot.records:
        if record.segments[0][2] == record.home and len(record.segments) == 1:
            continue
        holder = _holder(record)
        if holder == record.home or not {holder, record.home} <= active:
            continue
        before, since = leader.away.get(record.shard, (holder, now))
        away[record.shard] = (holder, since if before == holder else now)
    leader.away = away
    new = {shard: holder for shard, (holder, since) in away.items() if now - since >= STAYED_S}
    if not new or leader.mode is not Mode.AUTO or leader.frozen:
        return []
    who = "1 shard" if len(new) == 1 else f"{len(new)} shards"
    detail = f"away for a day, now at home where most of its slots are: {who}"
    return leader.rewritten(snapshot, now, detail, new, reason=Reason.REHOME)


def _strays(record: MappingRecord, home: str) -> bool:
    return any(owner != home for *_, owner in record.segments)


def _holder(record: MappingRecord) -> str:
    """Returns the cluster that has more than half of the shard's slots; its home where none has."""
    slots: Counter[str] = Counter()
    for start, stop, owner in record.segments:
        slots[owner] += stop - start
    name, count = slots.most_common(1)[0]
    return name if count > SLOTS // 2 else record.home
