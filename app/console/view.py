"""What the page shows, as one JSON value."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.records import SLOTS
from streams.balancer import Balancer


def view(balancer: Balancer) -> dict[str, Any]:
    """Returns the balancer's role, clusters, series, mapping, events and newest decisions."""
    rounds = balancer.rounds
    decisions = list(balancer.decisions)
    latest = next((item for item in reversed(decisions) if item.clusters), None)
    shown: dict[str, Any] = {
        "role": balancer.role.value,
        "model_time": balancer.settings.clock.now(),
        "clusters": [item.model_dump(mode="json") for item in latest.clusters] if latest else [],
        "series": [item.model_dump(mode="json") for item in latest.series] if latest else [],
        "decisions": [
            item.model_dump(mode="json", by_alias=True, exclude={"clusters", "series"}) | {"id": item.id}
            for item in reversed(decisions)
        ],
        "mapping": None,
        "events": [],
    }
    if rounds is None:
        return shown
    shown |= {
        "mode": rounds.mode.value,
        "frozen": rounds.frozen,
        "epoch": rounds.epoch,
        "steps_learned": rounds.outlook.learned,
        "events": [event.model_dump(mode="json", by_alias=True) for event in rounds.events.all()],
    }
    snapshot = rounds.snapshot
    if snapshot is not None:
        owners = snapshot.owners.reshape(snapshot.shards, SLOTS)
        at_home = np.array([snapshot.names.index(record.home) for record in snapshot.records])
        away = (owners != at_home[:, None]).mean(axis=1)
        shown["mapping"] = {
            "version": snapshot.version,
            "epoch": snapshot.epoch,
            "names": list(snapshot.names),
            "homes": at_home.tolist(),
            "away": np.round(away, 4).tolist(),
            "slots": np.bincount(snapshot.owners, minlength=len(snapshot.names)).tolist(),
        }
    return shown
