"""The past as stored history: what routers would have counted before the pass began."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from app.demo.traffic import STEP_S, Traffic
from schemas.errors import BrokerUnreachableError
from schemas.topics import LOAD

ROUTER = "history"
"""The router that these counts are written for."""
FLUSH_S = 60.0


def history_records(
    counts: npt.NDArray[np.uint32], first_step: int, series: tuple[str, ...]
) -> Iterator[bytes]:
    """Yields one stored-history record (JSON) per step of uint32[steps, series, shards]; empty steps too.

    Written without the pydantic model, which takes 20 times as long for thousands of large records.
    """
    head = {"schema": 1, "kind": "history", "router": ROUTER, "step_s": STEP_S, "ranges": []}
    for offset, cells in enumerate(counts):
        kind, shard = np.nonzero(cells)
        arrivals = {
            "series": np.ascontiguousarray(kind),
            "shard": np.ascontiguousarray(shard),
            "count": cells[kind, shard],
        }
        record = head | {"step": first_step + offset, "series": series, "arrivals": arrivals}
        yield orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def write_history(kafka: dict[str, Any], prefix: str, traffic: Traffic) -> int:
    """Writes the traffic's history to the `load` topic; returns the number of steps."""
    producer = Producer(
        kafka
        | {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "lz4",
            "log_level": 3,  # a broker just started lets its first clients try again: no news
        }
    )
    first_step = round(traffic.start / STEP_S) - len(traffic.history)
    series = tuple(rule.name for rule in traffic.rules)
    for record in history_records(traffic.history, first_step, series):
        while True:
            try:
                producer.produce(prefix + LOAD.name, record, ROUTER)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(FLUSH_S):
        raise BrokerUnreachableError("the demo's history was not stored in time; is the broker well?")
    return len(traffic.history)
