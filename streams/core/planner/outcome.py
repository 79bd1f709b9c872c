"""What a plan says about itself: why nothing moved, and one plain sentence with numbers."""

from __future__ import annotations

from collections import Counter

from schemas.records import ClusterState, Skip, Stuck
from streams.core.planner.board import EPS, Board

WHY = {
    Skip.NO_ROOM: "no cluster has room: short by {short:.1f} cost units/s",
    Skip.UNSPLITTABLE_KEY: "no cluster has room for its hot keys, which move whole or not at all: "
    "short by {short:.1f} cost units/s",
    Skip.HANDOFF_PENDING: "its shards have handoffs that are not finished: "
    "{short:.1f} cost units/s wait for them",
    Skip.COOLDOWN: "its shards arrived less than {cooldown:.0f} s ago: {short:.1f} cost units/s wait",
    Skip.BUDGET: "the budget of the round is spent: {short:.1f} cost units/s wait for the next",
}


def outcome(board: Board, stuck: list[Stuck], before: dict[str, float]) -> tuple[Skip | None, str]:
    """Returns why there is no move (None when there are moves) and the sentence of the round."""
    skip, text = _outcome(board, stuck, before)
    notes = [text, *_notes(board, stuck, skip)]
    return skip, "; ".join(notes)


def _outcome(board: Board, stuck: list[Stuck], before: dict[str, float]) -> tuple[Skip | None, str]:
    active = [c.name for c in board.inputs.clusters if c.state is ClusterState.ACTIVE]
    if board.moves:
        return None, _moves_text(board, before)
    if len(active) == 1 and all(item.cluster == active[0] for item in stuck):
        score = before[active[0]]
        return Skip.SINGLE_CLUSTER, f"{active[0]}, at {score:.2f}, is the only active cluster"
    if stuck:
        worst = max(stuck, key=lambda item: (item.short_cps, item.cluster))
        return Skip(worst.reason), _stuck_text(board, worst)
    return _quiet(board)


def _quiet(board: Board) -> tuple[Skip, str]:
    """Returns the skip of a round in which no cluster is stuck: balanced or within-band."""
    if not board.source_ok.any():
        return Skip.NO_ROOM, "no active cluster is known"
    full = board.full()[board.source_ok]
    names = [name for name, known in zip(board.names, board.source_ok, strict=True) if known]
    highest = int(full.max(axis=1).argmax())
    score = float(full[highest].max())
    text = f"the fullest cluster, {names[highest]}, is at {score:.2f}"
    if board.away:
        count = len(board.away)
        away = "1 shard is" if count == 1 else f"{count} shards are"
        return Skip.WITHIN_BAND, f"{text}; {away} away from home"
    if bool((full > board.limits.fill_to + EPS).any()):
        return Skip.WITHIN_BAND, f"{text}, under its limit"
    return Skip.BALANCED, f"{text} and every shard is at home"


def _moves_text(board: Board, before: dict[str, float]) -> str:
    load = sum(move.load_cps for move in board.moves)
    reasons = Counter(str(move.reason) for move in board.moves)
    parts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    after = board.scores()
    count = len(board.moves)
    return (
        f"{count} move{'s' * (count != 1)} ({parts}) of {load:.1f} cost units/s; "
        f"the highest score goes from {max(before.values()):.2f} to {max(after.values()):.2f}"
    )


def _stuck_text(board: Board, item: Stuck) -> str:
    reason = WHY[Skip(item.reason)].format(short=item.short_cps, cooldown=board.settings.cooldown_s)
    cluster = board.clusters[board.row[item.cluster]]
    if cluster.state is not ClusterState.ACTIVE:
        return f"{item.cluster} is {cluster.state.value} and not empty; {reason}"
    row = board.row[item.cluster]
    full = board.full()[row]
    column = int((full - board.limits.shed_above).argmax())
    limit = float(board.limits.shed_above[column])
    return f"{item.cluster} is at {full[column]:.2f} of {limit:.2f}; {reason}"


def _notes(board: Board, stuck: list[Stuck], skip: Skip | None) -> list[str]:
    """Returns what else the reader must know: clusters still over, and clusters left out."""
    notes = []
    if skip is None and stuck:
        worst = max(stuck, key=lambda item: (item.short_cps, item.cluster))
        more = f" ({len(stuck) - 1} more clusters like it)" if len(stuck) > 1 else ""
        notes.append(_stuck_text(board, worst) + more)
    unknown = [
        name
        for name, known, leaves in zip(board.names, board.known, board.leaving, strict=True)
        if not known and not leaves
    ]
    if unknown:
        is_are = "is" if len(unknown) == 1 else "are"
        notes.append(f"{', '.join(unknown)} {is_are} not known and left alone")
    if board.forced_cps > 0:
        notes.append(
            f"{board.forced_cps:.1f} cost units/s of what had to leave found no room "
            "and stand over the targets' limits"
        )
    shut = [f"{c.name} ({c.closed})" for c in board.clusters if c.closed]
    if shut:
        notes.append(f"no targets: {', '.join(shut)}")
    return notes
