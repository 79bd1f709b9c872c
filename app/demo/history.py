"""The past as stored history: what routers would have counted before the pass began."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from app.demo.traffic import STEP_S, Traffic
from schemas.errors import BrokerUnreachableError
from schemas.topics import LOAD
from streams.clock import Clock

ROUTER = "history"
"""The router that these counts are written for."""
FLUSH_S = 60.0
AGAIN = 10
"""Steps of the history that are used once more while processes start: 5 minutes."""


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
    producer = _producer(kafka)
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


def _producer(kafka: dict[str, Any]) -> Producer:
    return Producer(
        kafka
        | {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "lz4",
            "log_level": 3,  # a broker just started lets its first clients try again: no news
        }
    )


class HistoryGoesOn:
    """Writes the history of the steps that pass while processes start, from `with` to `until`.

    The balancer would learn otherwise that the load ceases for some minutes just before the pass. These
    steps are the last ones of the history once more, each written when it begins: nobody closes it sooner.
    """

    def __init__(self, kafka: dict[str, Any], prefix: str, traffic: Traffic, clock: Clock) -> None:
        self._producer, self._topic, self._clock = _producer(kafka), prefix + LOAD.name, clock
        self._next = round(traffic.start / STEP_S)
        self._records = [
            (counts[None], tuple(rule.name for rule in traffic.rules)) for counts in traffic.history[-AGAIN:]
        ]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def __enter__(self) -> HistoryGoesOn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def until(self, model_time: float) -> None:
        """Ends it: writes what is left of the steps before `model_time`."""
        self.__exit__()
        self._write(model_time)
        if self._producer.flush(FLUSH_S):
            raise BrokerUnreachableError("the demo's history was not stored in time; is the broker well?")

    def _run(self) -> None:
        while not self._end.wait(0.1):
            self._write(self._clock.now())

    def _write(self, model_time: float) -> None:
        """Writes all steps that have begun before a time."""
        while self._next * STEP_S < model_time:
            counts, series = self._records[self._next % len(self._records)]
            for record in history_records(counts, self._next, series):
                self._producer.produce(self._topic, record, ROUTER)
            self._producer.poll(0)
            self._next += 1
