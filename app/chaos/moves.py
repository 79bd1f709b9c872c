"""Which slots move next, at random: there and back, on to a third cluster, parts of shards, many at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

from schemas.records import MappingRecord, Move, Reason
from streams.core.mapping import Snapshot, ranges, slots_of
from streams.core.plans import unsettled

IDLE_CHANCE = 0.05
"""Of a round that changes nothing."""
AGAIN_CHANCE = 0.5
"""That a shard which moved in one of the last rounds is taken, where the rule lets it move again."""
BACK_CHANCE = 0.5
"""That such a shard goes back to where it came from, not on to a third cluster."""
WHOLE_CHANCE = 0.4
"""That all slots which a cluster has of a shard go, not a part of them."""
SIZES = (1, 1, 2, 4, 8, 0.2, 0.3)
"""Shards per round: a number, or below 1 a part of all."""
FREE_SHARE = 0.25
"""Of the shards that may move, at most: some are left for the next rounds while these settle."""
SEGMENTS_MOST = 10
"""A shard in more pieces is gathered at one cluster, so that records stay small."""
MEMORY = 40
"""Moves that are remembered, to be undone or continued."""


class Mover:
    """Chooses the moves of each round; a new one with the same seed does not repeat the old one's."""

    def __init__(self, seed: int, clusters: Sequence[str], *, keep_rule: bool) -> None:
        self._chance = random.Random(seed)
        self._clusters = tuple(clusters)
        self._keep_rule = keep_rule
        self._recent: list[Move] = []

    def choose(self, snapshot: Snapshot, settled: int) -> list[Move]:
        """Returns moves that fit the snapshot, at most one per cluster and shard; none now and then.

        Where the rule is kept no shard moves whose last move may not be settled everywhere:
        `settled` is the version that every ingest partition has settled.
        """
        chance = self._chance
        if chance.random() < IDLE_CHANCE:
            return []
        size = chance.choice(SIZES)
        count = max(1, int(size * snapshot.shards)) if size < 1 else int(size)
        free = [
            record.shard
            for record in snapshot.records
            if not (self._keep_rule and unsettled(record, settled))
        ]
        chance.shuffle(free)
        again = {move.shard for move in self._recent if chance.random() < AGAIN_CHANCE}
        free.sort(key=lambda shard: shard not in again)
        count = min(count, max(1, int(len(free) * FREE_SHARE)))
        moves = [move for shard in free[:count] for move in self._of_shard(snapshot.records[shard])]
        self._recent = [*self._recent, *moves][-MEMORY:]
        return moves

    def _of_shard(self, record: MappingRecord) -> list[Move]:
        owners = sorted({cluster for _, _, cluster in record.segments})
        if len(record.segments) > SEGMENTS_MOST:
            target = self._chance.choice(self._clusters)
            return [_move(record, source, target) for source in owners if source != target]
        last = next((move for move in reversed(self._recent) if move.shard == record.shard), None)
        if last is not None and last.target in owners and self._chance.random() < AGAIN_CHANCE:
            back = self._chance.random() < BACK_CHANCE
            target = last.source if back else self._other(last.target, last.source)
            return [_move(record, last.target, target)]
        source = self._chance.choice(owners)
        part = None if self._chance.random() < WHOLE_CHANCE else self._chance
        return [_move(record, source, self._other(source), part)]

    def _other(self, *excluded: str) -> str:
        return self._chance.choice([name for name in self._clusters if name not in excluded])


def _move(record: MappingRecord, source: str, target: str, part: random.Random | None = None) -> Move:
    """Returns the move of all slots that `source` has of the shard; with `part` of a random run of them."""
    slots = slots_of(record.segments, source)
    if part is not None and len(slots) > 1:
        first, last = sorted(part.sample(range(len(slots)), 2))
        slots = slots[first:last]
    return Move(
        shard=record.shard,
        source=source,
        target=target,
        slots=ranges(slots),
        load_cps=0.0,
        reason=Reason.OVERLOAD,
    )
