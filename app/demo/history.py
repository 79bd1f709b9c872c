"""The past as stored history: what routers would have counted before the pass began."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
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
LOOK_S = 0.1
"""Wall seconds between two looks at the clock."""


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


def standing_for(step: int, known: int) -> int:
    """Returns which of the `known` steps of a history stands for a step: itself, or one of the newest.

    After the last one time turns round, for `AGAIN` steps again and again: the load goes on without a leap.
    """
    return step if step < known else known - 1 - (step - known) % min(AGAIN, known)


class History:
    """Writes the past of a traffic to the `load` topic, step after step, up to any model time."""

    def __init__(self, kafka: dict[str, Any], prefix: str, traffic: Traffic) -> None:
        settings = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "lz4",
            "log_level": 3,  # a broker just started lets its first clients try again: no news
        }
        self._producer, self._topic = Producer(kafka | settings), prefix + LOAD.name
        self._counts = traffic.history
        self._series = tuple(rule.name for rule in traffic.rules)
        self._first = round(traffic.start / STEP_S) - len(traffic.history)
        self.written = 0
        """Steps."""

    def write_until(self, model_time: float) -> None:
        """Writes the steps that begin before a time; after the last known one, the newest ones once more.

        Of a traffic without a past nothing is written.
        """
        steps = range(self.written, ceil(model_time / STEP_S) - self._first)
        places = [standing_for(step, len(self._counts)) for step in steps if len(self._counts)]
        for record in history_records(self._counts[places], self._first + self.written, self._series):
            while True:
                try:
                    self._producer.produce(self._topic, record, ROUTER)
                    break
                except BufferError:
                    self._producer.poll(0.05)
            self._producer.poll(0)
            self.written += 1
        if self._producer.flush(FLUSH_S):
            raise BrokerUnreachableError("the demo's history was not stored in time; is the broker well?")

    @contextmanager
    def going_on(self, clock: Clock) -> Iterator[None]:
        """Writes each step when it begins, in a thread: nobody closes it sooner.

        The balancer would learn otherwise that the load ceases while the processes of a pass start.
        """
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(LOOK_S):
                self.write_until(clock.now())

        thread = threading.Thread(target=run, name="history", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
