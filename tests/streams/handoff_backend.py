"""A backend in a thread: reads one cluster's topic, takes its time, commits at an interval, remembers all."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from tests.streams.router_kit import CLUSTER_PARTITIONS, Site

POLL_S = 0.02


@dataclass(frozen=True)
class Done:
    """One request that was processed."""

    user: str
    sequence: int
    at: float
    """Monotonic."""
    waited_s: float
    """Since its producer sent it: Kafka's timestamp has milliseconds."""


class Backend:
    """The only member of its cluster, with every partition."""

    def __init__(self, site: Site, cluster: str, commit_s: float, rate_rps: float = 0.0) -> None:
        """`rate_rps` 0: it takes no time for a request."""
        self.done: list[Done] = []
        self._each_s = 1 / rate_rps if rate_rps else 0.0
        self._commit_s = commit_s
        self._topic = site.topic(cluster)
        self._consumer = Consumer(
            site.kafka
            | {
                "group.id": f"{cluster}-group",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([TopicPartition(self._topic, n, 0) for n in range(CLUSTER_PARTITIONS)])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it after its last commit."""
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        after: dict[int, int] = {}
        due = time.monotonic() + self._commit_s
        while not self._stopped.is_set():
            for message in self._consumer.consume(100 if not self._each_s else 1, POLL_S):
                if message.error() is not None:
                    continue
                if self._each_s:
                    time.sleep(self._each_s)  # that is its work
                value = json.loads(message.value() or b"{}")
                waited = time.time() - message.timestamp()[1] / 1_000
                self.done.append(Done(value["user"]["id"], value["seq"], time.monotonic(), waited))
                after[message.partition() or 0] = (message.offset() or 0) + 1
            if time.monotonic() >= due:
                due += self._commit_s
                self._commit(after)
        self._commit(after)
        self._consumer.close()

    def _commit(self, after: dict[int, int]) -> None:
        if after:
            places = [TopicPartition(self._topic, number, offset) for number, offset in after.items()]
            self._consumer.commit(offsets=places, asynchronous=False)
            after.clear()


def out_of_order(*backends: Backend) -> int:
    """Returns how many requests were processed after a later one of their user."""
    newest: dict[str, int] = {}
    wrong = 0
    for done in sorted((done for backend in backends for done in backend.done), key=lambda done: done.at):
        wrong += done.sequence < newest.get(done.user, -1)
        newest[done.user] = max(done.sequence, newest.get(done.user, -1))
    return wrong
