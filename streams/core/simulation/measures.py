"""What a policy has come to, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from schemas.records import Move
from streams.core.simulation.lanes import Lane

REVERSAL_S = 600.0
"""A move that undoes an earlier one within this time was not worth making."""


@dataclass(frozen=True)
class Row:
    """One policy on one day."""

    scenario: str
    seed: int
    policy: str
    round_s: float
    violations_pct: float
    """% of all requests that wait more than 1 s."""
    violations5_pct: float
    moved_pct_per_h: float
    """Load that was moved, % of all load per hour."""
    moves_per_h: float
    reversals_pct: float
    """% of the moves that take back one of the 10 minutes before."""
    away_pct: float
    """Load away from its home, % of all, on average."""
    hold_p99_s: float
    """99 % of the handoffs that held anything held it no longer; 0 where none did."""

    def to_json(self) -> dict[str, object]:
        return {
            name: round(value, 5) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def row(lane: Lane, seed: int) -> Row:
    """Returns the figures of one policy."""
    record, waits, hours = lane.record, lane.backends.waits, lane.work.hours
    requests = max(waits.requests, 1e-9)
    held = lane.backends.held_s
    return Row(
        scenario=lane.work.name,
        seed=seed,
        policy=lane.policy.value,
        round_s=lane.round_s,
        violations_pct=100 * float(waits.over[0]) / requests,
        violations5_pct=100 * float(waits.over[1]) / requests,
        moved_pct_per_h=100 * sum(part for *_, part in record.moves) / hours,
        moves_per_h=len(record.moves) / hours,
        reversals_pct=100 * reversals(record.moves) / max(len(record.moves), 1),
        away_pct=100 * float(np.mean(record.away)) if record.away else 0.0,
        hold_p99_s=float(np.percentile(held, 99)) if held else 0.0,
    )


def reversals(moves: list[tuple[float, Move, float]]) -> int:
    """Returns how many moves take slots of a shard back to where another took them from, soon after it."""
    last: dict[tuple[int, str, str], float] = {}
    count = 0
    for at, move, _ in moves:
        back = last.get((move.shard, move.target, move.source))
        count += back is not None and at - back <= REVERSAL_S
        last[move.shard, move.source, move.target] = at
    return count
