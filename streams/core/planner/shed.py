"""Shedding: takes load off clusters that are, or are going to be, fuller than their limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import Reason, Skip, Stuck
from streams.core.planner.board import EPS, Board, parts, pick
from streams.core.planner.inputs import Floats

Rows = npt.NDArray[np.int64]

CANDIDATES = 12
"""Shards tried per move, best first: past these the load is too small to matter."""

TARGETS_TRIED = 4
"""Targets tried per shard, most room first."""

MAX_GROWTH = 4.0
"""Growth of a shard counts up to this: beyond, forecasts from next to nothing would decide."""

BONUS_HELD = 0.05
"""Of the mean capacity: preference for a cluster that holds slots of the shard already."""

BONUS_HOME = 0.1
"""Of the mean capacity: preference for the shard's home."""


@dataclass(frozen=True)
class Need:
    """One cluster to be relieved: `load_cps` too much at `column`, its worst time of the window."""

    cluster: int
    column: int
    load_cps: float
    below: Floats
    """float64[columns]: how full a target may get, as a fraction of its capacity."""


def shed(board: Board) -> list[Stuck]:
    """Moves load off clusters over their limit, worst first, and returns those that are still over.

    A cluster that has begun to shed goes on down to `fill_to`. One that took load in this round
    gives none. Ends after `max_moves`, or when the budget is spent.
    """
    stuck: dict[int, Stuck] = {}
    done: set[int] = set()
    first = len(board.moves)
    while (need := _worst(board, done)) is not None:
        if len(board.moves) - first >= board.settings.max_moves or board.budget_left <= EPS:
            reason = Skip.BUDGET
        elif (failed := _relieve(board, need)) is not None and not _relieve_now(board, need.cluster):
            reason = failed
        else:
            continue
        done.add(need.cluster)
        if reason is not Skip.BALANCED and _is_over(board, need.cluster):
            stuck[need.cluster] = _stuck(board, need.cluster, reason, need.load_cps)
    for cluster in sorted(board.receivers - set(stuck)):
        if board.source_ok[cluster] and _is_over(board, cluster):
            excess = board.demand[cluster] - board.limits.fill_to * board.capacity[cluster]
            stuck[cluster] = _stuck(board, cluster, Skip.NO_ROOM, float(excess.max()))
    return list(stuck.values())


def _stuck(board: Board, cluster: int, reason: Skip, short_cps: float) -> Stuck:
    return Stuck(cluster=board.names[cluster], reason=reason, short_cps=max(short_cps, 0.0))


def _is_over(board: Board, cluster: int) -> bool:
    return bool((board.full()[cluster] > board.limits.shed_above + EPS).any())


def _worst(board: Board, done: set[int]) -> Need | None:
    """Returns the cluster furthest over its limit, else one that began to shed and is not done."""
    full = board.full()
    eligible = board.source_ok.copy()
    eligible[[*done, *board.receivers]] = False
    over = np.where(eligible[:, None], full - board.limits.shed_above, -1.0)
    cluster, column = np.unravel_index(int(over.argmax()), over.shape)
    if over[cluster, column] <= EPS:
        begun = np.zeros(len(eligible), dtype=bool)
        begun[list(board.sources)] = True
        rest = board.demand - board.limits.fill_to * board.capacity[:, None]
        rest = np.where((eligible & begun)[:, None], rest, -1.0)
        cluster, column = np.unravel_index(int(rest.argmax()), rest.shape)
        if rest[cluster, column] <= board.settings.min_load * board.mean_capacity + EPS:
            return None
    fill = board.limits.fill_to
    load_cps = float(board.demand[cluster, column] - fill[column] * board.capacity[cluster])
    return Need(int(cluster), int(column), load_cps, np.minimum(fill, full[cluster].max()))


def _relieve_now(board: Board, cluster: int) -> bool:
    """Makes one move off a cluster that is over its limit already; returns whether it did.

    Only once the whole window leaves no room. What is forecast of a target may be wrong, or be dealt with
    when it comes; the requests that wait are there. So a target needs room now, and later only gets no
    fuller than this cluster is.
    """
    limits, full_now = board.limits, _full_now(board, cluster)
    if full_now <= limits.shed_above[0] + EPS:
        return False
    load_cps = (full_now - limits.fill_to[0]) * float(board.clusters[cluster].capacity[0])
    below = np.full_like(limits.fill_to, board.full()[cluster].max())
    below[0] = limits.fill_to[0]
    return _relieve(board, Need(cluster, 0, load_cps, below)) is None


def _full_now(board: Board, cluster: int) -> float:
    """Returns how full the cluster is, against its capacity of now: a loss to come is a forecast."""
    return float(board.demand[cluster, 0]) / max(float(board.clusters[cluster].capacity[0]), EPS)


def _relieve(board: Board, need: Need) -> Skip | None:
    """Makes one move off the cluster and returns None, or the reason why there is none.

    BALANCED means that it holds no load that could move: only its backlog is left.
    """
    members = board.members[need.cluster]
    held = {s for s in members if s in board.inputs.pending or board.locked(s, need.cluster)}
    free = np.array(sorted(set(members) - held), dtype=np.int64)
    shares = np.array([members[shard] for shard in free.tolist()], dtype=np.float64)
    loads = shares * board.load[free, need.column]
    order = _best_first(board, need, free, loads)
    least = min(
        board.settings.min_load * board.mean_capacity, need.load_cps / 2, float(loads.max(initial=0.0))
    )
    room = need.below * board.capacity[:, None] - board.demand
    if _send_home(board, need, order[loads[order] > 0], free, room, least):
        return None
    failures: dict[Skip, float] = {}
    space = room.min(axis=1)
    for position in order[:CANDIDATES].tolist():
        if loads[position] <= 0:
            break
        shard = int(free[position])
        targets = _targets(board, shard, need.cluster, space)
        reason = _send(board, need, shard, targets, room, least)
        if reason is None:
            return None
        failures[reason] = failures.get(reason, 0.0) + float(loads[position])
    return _why(board, need, failures, held, float(loads.sum()))


def _best_first(board: Board, need: Need, free: Rows, loads: Floats) -> Rows:
    """Returns positions in `free`: most useful load first, growing shards before others."""
    now, then = board.load[free, 0], board.load[free, need.column]
    growth = np.full(len(free), MAX_GROWTH)
    np.divide(then - now, now, out=growth, where=now > 0)
    value = np.minimum(loads, need.load_cps) * (1 + np.clip(growth, 0.0, MAX_GROWTH))
    return np.lexsort((free, -value))


def _send_home(
    board: Board,
    need: Need,
    order: Rows,
    free: Rows,
    room: Floats,
    least: float,
) -> bool:
    """Sends the best foreign shard home, if a home has room for it; returns whether one went."""
    if not board.away:
        return False
    tried = 0
    for shard in free[order].tolist():
        home = board.home[shard]
        if home == need.cluster or not board.target_ok[home] or home in board.sources:
            continue
        if _send(board, need, shard, [home], room, least) is None:
            return True
        tried += 1
        if tried >= CANDIDATES:
            break
    return False


def _targets(board: Board, shard: int, source: int, space: Floats) -> list[int]:
    """Returns clusters that may take the shard's load, most room first.

    `space` is float64[clusters], cost units/s: the least room of the window.
    """
    allowed = allowed_targets(board, shard, source) & (space > 0)
    allowed[list(board.sources)] = False
    rows = np.flatnonzero(allowed)
    wanted = preferred(board, shard, space)[rows]
    return [int(row) for row in rows[np.lexsort((rows, -wanted))][:TARGETS_TRIED]]


def allowed_targets(board: Board, shard: int, source: int) -> npt.NDArray[np.bool_]:
    """Returns bool[clusters]: open, not the source, and within the shard's number of targets."""
    allowed: npt.NDArray[np.bool_] = board.target_ok.copy()
    foreign = board.foreign(shard)
    if board.leaving[source]:
        foreign.discard(source)
    if len(foreign) >= board.settings.max_targets:
        kept = [*foreign, board.home[shard]]
        within = np.zeros_like(allowed)
        within[kept] = True
        allowed &= within
    allowed[source] = False
    return allowed


def preferred(board: Board, shard: int, space: Floats) -> Floats:
    """Returns `space` (float64[clusters], cost units/s) plus what the shard's home and targets gain."""
    space = space.copy()
    space[list(board.foreign(shard))] += BONUS_HELD * board.mean_capacity
    space[board.home[shard]] += BONUS_HOME * board.mean_capacity
    return space


def _send(
    board: Board, need: Need, shard: int, targets: list[int], room: Floats, least: float
) -> Skip | None:
    """Moves the part needed to the first target that takes it; returns None, or why none did."""
    load = board.load[shard]
    share = board.members[need.cluster][shard]
    wanted = need.load_cps / load[need.column]
    affordable = board.budget_left / load[0] if load[0] > 0 else np.inf
    if affordable * load[need.column] < least - EPS and targets:
        return Skip.BUDGET
    reason = Skip.NO_ROOM
    for target in targets:
        takes = float(parts(room[target][None, :], load)[0])
        if takes * load[need.column] < least - EPS:
            continue
        slots = board.slots_at(shard, need.cluster, last_first=target == board.home[shard])
        weights = board.weights(shard, slots)
        chosen = pick(weights, wanted if wanted < share else np.inf, min(takes, affordable))
        moved = float(weights[chosen].sum()) * load[need.column]
        if len(chosen) and moved >= least - EPS:
            why = _reason(board, need, shard)
            share = board.move(shard, (need.cluster, target), slots[chosen], why)
            board.budget_left -= share * load[0]
            board.sources.add(need.cluster)
            return None
        waits = board.budget_left < weights.min() * load[0] <= board.budget
        reason = Skip.BUDGET if waits else Skip.UNSPLITTABLE_KEY
    return reason


def _reason(board: Board, need: Need, shard: int) -> Reason:
    """Returns why the cluster sheds: measured now, announced, or forecast.

    It is over now if it is above the limit of now, or as full as it will get in the window.
    """
    if need.column > 0 and shard in board.inputs.event_shards:
        return Reason.EVENT
    now = _full_now(board, need.cluster)
    worst = float(board.demand[need.cluster, need.column]) / max(float(board.capacity[need.cluster]), EPS)
    over_now = now > board.limits.shed_above[0] or now >= worst - EPS
    return Reason.OVERLOAD if over_now else Reason.PREDICTED_OVERLOAD


def _why(board: Board, need: Need, failures: dict[Skip, float], held: set[int], free_load: float) -> Skip:
    """Returns the best-founded reason why nothing left the cluster.

    What blocked the most load; but if what was not held would not have been enough, what holds.
    """
    blocked: dict[Skip, float] = {}
    for shard in sorted(held):
        load = board.members[need.cluster][shard] * float(board.load[shard, need.column])
        pending = shard in board.inputs.pending
        reason = Skip.HANDOFF_PENDING if pending else Skip.COOLDOWN
        blocked[reason] = blocked.get(reason, 0.0) + load
    enough = free_load >= need.load_cps or not blocked or max(blocked.values()) <= 0
    considered = failures if failures and enough else blocked or failures
    if not considered or max(considered.values()) <= 0:
        return Skip.BALANCED
    return max(considered, key=lambda reason: (considered[reason], reason.value))
