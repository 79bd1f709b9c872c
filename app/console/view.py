"""What the page shows, as one JSON value."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from schemas.records import SLOTS, Event
from streams.balancer import Balancer
from streams.core.mapping import Snapshot
from streams.core.rounds import Rounds

OVER_S = 3600.0
"""Model seconds that an event is shown after its end."""
BUSY_KEYS_SHOWN = 5
MEASURED = {"clusters", "series", "costs"}
"""What is shown of the newest round that measured, once."""


def view(balancer: Balancer) -> dict[str, Any]:
    """Returns what `/api/state` answers. Names and counts only: no key of any request is in it.

    role, model_time; clusters, series, costs: of the newest round that measured; decisions: newest first;
    mapping, handoffs: see `_mapping`, `_handoffs`; events: those not long over. A leader also tells
    mode, frozen, epoch, and steps_learned.
    """
    rounds = balancer.rounds
    now = balancer.settings.clock.now()
    decisions = list(balancer.decisions) if rounds is not None else []
    latest = next((item for item in reversed(decisions) if item.clusters), None)
    shown: dict[str, Any] = {
        "role": balancer.role.value,
        "model_time": now,
        "clusters": [item.model_dump(mode="json") for item in latest.clusters] if latest else [],
        "series": [item.model_dump(mode="json") for item in latest.series] if latest else [],
        "costs": latest.costs.model_dump(mode="json") if latest and latest.costs else None,
        "decisions": [
            {"id": item.id} | item.model_dump(mode="json", by_alias=True, exclude=MEASURED)
            for item in reversed(decisions)
        ],
        "mapping": None,
        "handoffs": None,
        "events": [],
    }
    if rounds is None:
        return shown
    return shown | {
        "mode": rounds.mode.value,
        "frozen": rounds.frozen,
        "epoch": rounds.epoch,
        "steps_learned": rounds.outlook.learned,
        "events": [_event(event) for event in rounds.events.all() if event.end > now - OVER_S],
        "mapping": None if rounds.snapshot is None else _mapping(rounds.snapshot),
        "handoffs": None if rounds.snapshot is None else _handoffs(rounds, rounds.snapshot, now),
    }


def _event(event: Event) -> dict[str, Any]:
    """Returns an event whose scope says how many keys it has, and of which types."""
    keys = Counter(key.type for key in event.keys)
    of_keys = [f"{count} key{'s' * (count != 1)} of {name}" for name, count in sorted(keys.items())]
    scope = [event.cluster] if event.cluster else [*event.types, *of_keys]
    fields = event.model_dump(mode="json", exclude={"schema_version", "types", "keys", "cluster", "note"})
    return fields | {"scope": ", ".join(scope)}


def _mapping(snapshot: Snapshot) -> dict[str, Any]:
    """Returns per shard the index of its home in `names` and the part that is away; slots per name."""
    owners = snapshot.owners.reshape(snapshot.shards, SLOTS)
    homes = np.array([snapshot.names.index(record.home) for record in snapshot.records])
    away = (owners != homes[:, None]).mean(axis=1)
    return {
        "version": snapshot.version,
        "epoch": snapshot.epoch,
        "names": list(snapshot.names),
        "homes": homes.tolist(),
        "away": np.round(away, 4).tolist(),
        "slots": np.bincount(snapshot.owners, minlength=len(snapshot.names)).tolist(),
    }


def _handoffs(rounds: Rounds, snapshot: Snapshot, now: float) -> dict[str, Any]:
    """Returns how far routers are with what was decided, clusters by state, and the busiest keys' hashes."""
    load = rounds.reports.handoffs(now)
    states: dict[str, list[str]] = {}
    for name, cluster in sorted(rounds.clusters.items()):
        states.setdefault(cluster.state.value, []).append(name)
    keys = [
        {"hash": key.hash, "shard": key.slot // SLOTS, "cluster": snapshot.owner(key.slot), "rps": key.rps}
        for key in rounds.reports.busy_keys(now, BUSY_KEYS_SHOWN)
        if key.slot < len(snapshot.owners)
    ]
    return load.model_dump() | {
        "settled": rounds.settled,
        "pending_shards": len(rounds.pending()),
        "states": states,
        "busy_keys": keys,
    }
