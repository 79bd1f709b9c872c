"""Moves that do not wait for overload: off clusters that leave, and back home."""

from __future__ import annotations

import numpy as np

from schemas.records import ClusterState, Reason, Skip, Stuck
from streams.core.planner.board import EPS, Board, parts, pick
from streams.core.planner.shed import allowed_targets, preferred


def empty(board: Board) -> list[Stuck]:
    """Moves everything off draining and down clusters, and returns those that could not be emptied.

    Outside the budget, and over the targets' limits if there is no room anywhere: requests must
    not stay on a cluster that leaves. Down clusters first, then big shards first. A handoff that is
    not finished holds a shard on a draining cluster, but not on one that is down: it would never end.
    """
    rows = [row for row in range(len(board.names)) if board.leaving[row] and board.members[row]]
    rows.sort(key=lambda row: (board.clusters[row].state is not ClusterState.DOWN, board.names[row]))
    stuck = []
    for source in rows:
        failures: dict[Skip, float] = {}
        members = board.members[source]
        peak = board.load.max(axis=1)
        for shard in sorted(members, key=lambda shard: (-members[shard] * peak[shard], shard)):
            reason = Skip.HANDOFF_PENDING
            down = board.clusters[source].state is ClusterState.DOWN
            if down or shard not in board.inputs.pending:
                if _empty_shard(board, source, shard):
                    continue
                reason = Skip.NO_ROOM
            left = members[shard] * float(board.load[shard, 0])
            failures[reason] = failures.get(reason, 0.0) + left
        for reason, load_cps in sorted(failures.items()):
            stuck.append(Stuck(cluster=board.names[source], reason=reason, short_cps=load_cps))
    return stuck


def _empty_shard(board: Board, source: int, shard: int) -> bool:
    """Moves all slots of the shard off the source, most room first; returns whether all went."""
    why = Reason.DOWN if board.clusters[source].state is ClusterState.DOWN else Reason.DRAIN
    least = board.settings.min_load * board.mean_capacity
    load = board.load[shard]
    while shard in board.members[source]:
        rows = np.flatnonzero(allowed_targets(board, shard, source))
        if not rows.size:
            rows = np.flatnonzero(board.target_ok)
        if not rows.size:
            return False
        room = board.limits.fill_to * board.capacity[:, None] - board.demand
        space = preferred(board, shard, room.min(axis=1))[rows]
        target = int(rows[np.lexsort((rows, -space))[0]])
        slots = board.slots_at(shard, source, last_first=False)
        weights = board.weights(shard, slots)
        chosen = pick(weights, np.inf, float(parts(room[target][None, :], load)[0]))
        small = weights[chosen].sum() * load.max() < least and len(chosen) < len(slots)
        if small or not len(chosen):
            emptiest = (board.full()[rows]).max(axis=1)
            target = int(rows[np.lexsort((rows, emptiest))[0]])
            chosen = np.arange(len(slots))
            board.forced_cps += float(weights.sum()) * float(load[0])
        board.move(shard, (source, target), slots[chosen], why)
    return True


def give_back(board: Board) -> None:
    """Returns slots to their homes where that keeps the home well below its limit, smallest first."""
    least = board.settings.min_load * board.mean_capacity
    first = len(board.moves)
    for shard, holder in _returnable(board):
        if len(board.moves) - first >= board.settings.max_returns:
            return
        home, load = board.home[shard], board.load[shard]
        share, peak = board.holders(shard)[holder], float(load.max())
        most = (board.budget_left + EPS) / load[0] if load[0] > 0 else np.inf
        if most < share and most * peak < least:
            continue
        most = min(most, float(board.takes(shard, np.array([home]), board.limits.home_below)[0]))
        if most < share and most * peak < least:
            continue
        slots = board.slots_at(shard, holder, last_first=True)
        weights = board.weights(shard, slots)
        chosen = pick(weights, np.inf, most)
        small = len(chosen) < len(slots) and weights[chosen].sum() * peak < least
        if small or not len(chosen):
            continue
        why = _why_home(board, shard)
        board.budget_left -= board.move(shard, (holder, home), slots[chosen], why) * load[0]


def _why_home(board: Board, shard: int) -> Reason:
    if shard in board.inputs.rehomed:
        return Reason.REHOME
    return Reason.JOIN if shard in board.inputs.joined else Reason.RETURN


def _returnable(board: Board) -> list[tuple[int, int]]:
    """Returns (shard, cluster that holds some of it) that may go home, smallest load first.

    Not within dwell_s of the shard's last move, nor from or to a cluster that is not known, nor to
    a home that is closed, leaves, or gave load away in this round.
    """
    found = []
    settings, inputs = board.settings, board.inputs
    for shard in sorted(board.away - board.touched - inputs.pending):
        home = board.home[shard]
        if not board.target_ok[home] or home in board.sources:
            continue
        if inputs.now - inputs.moved.get(shard, -np.inf) <= settings.dwell_s:
            continue
        peak = float(board.load[shard].max())
        for holder, share in board.holders(shard).items():
            if holder != home and board.source_ok[holder] and not board.locked(shard, holder):
                found.append((share * peak, shard, holder))
    return [(shard, holder) for _, shard, holder in sorted(found)]
