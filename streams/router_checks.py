"""What a router checks of the broker: at its start once, and which topics are there while it runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Set
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import ConfigResource, ResourceType

from schemas.errors import BrokerUnreachableError, TopicError
from schemas.topics import ROOM_BYTES
from streams.groups import admin_client

log = logging.getLogger(__name__)

START_S = 15.0
"""Seconds that the broker may take to answer at the start."""

ANSWER_S = 3.0
"""Longest wait for one answer about topics."""

WATCH_S = 2.0
"""Seconds between two looks at the topics: a topic that vanished stops the router that soon."""


class TopicWatch:
    """Knows which topics exist and how many partitions they have; looks again every WATCH_S in a thread."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._admin = admin_client(kafka)
        self._partitions: dict[str, int] = {}
        self._followed: frozenset[str] = frozenset()
        self._ids: dict[str, str] = {}
        self._remade: set[str] = set()
        self._answered = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topics", daemon=True)

    def start(self) -> None:
        """Starts to look again and again."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread soon, without waiting for it."""
        self._stopped.set()

    def refresh(self, timeout_s: float = ANSWER_S) -> bool:
        """Looks now; returns whether the broker answered."""
        try:
            found = self._admin.list_topics(timeout=timeout_s).topics
        except KafkaException as failure:
            log.debug("list_topics: %s", failure)
            return False
        there = {name: topic for name, topic in found.items() if topic.error is None}
        self._partitions = {name: len(topic.partitions) for name, topic in there.items()}
        self._answered = time.monotonic()
        return True

    def missing(self, wanted: Mapping[str, int]) -> list[str]:
        """Returns the wanted topics (name -> partitions) that are not there, or too small, as last seen."""
        known = self._partitions
        return sorted(name for name, count in wanted.items() if known.get(name, 0) < count)

    def silent_s(self) -> float:
        """Returns the seconds since the broker last answered."""
        return time.monotonic() - self._answered

    def follow(self, topics: Iterable[str]) -> None:
        """Names the topics of which we want to know when one was deleted and made again.

        Asks at once for what identifies those that are new: from now on their offsets are relied on.
        """
        self._followed = frozenset(topics)
        if self._followed - set(self._ids):
            self._look_at_ids(self._followed - set(self._ids))

    def take_remade(self) -> set[str]:
        """Returns the followed topics that were made again since the last call: their offsets start anew."""
        remade, self._remade = self._remade, set()
        return remade

    def _look_at_ids(self, topics: Set[str]) -> None:
        wanted = sorted(topics & set(self._partitions))
        if not wanted:
            return
        answers = self._admin.describe_topics(TopicCollection(wanted), request_timeout=ANSWER_S)
        for name, answer in answers.items():
            with contextlib.suppress(KafkaException):  # missing just now, or no broker: the next time
                found = str(answer.result().topic_id)
                if self._ids.setdefault(name, found) != found:
                    self._ids[name] = found
                    self._remade = self._remade | {name}

    def size_limits(self, topics: Iterable[str]) -> dict[str, int]:
        """Returns `max.message.bytes` of each topic; raises KafkaException."""
        wanted = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        if not wanted:
            return {}
        answers = self._admin.describe_configs(wanted, request_timeout=ANSWER_S)
        return {
            place.name: int(answer.result()["max.message.bytes"].value) for place, answer in answers.items()
        }

    def partitions(self, topic: str) -> int:
        """Returns how many partitions the topic has, 0 if it is not there."""
        return self._partitions.get(topic, 0)

    def _run(self) -> None:
        while not self._stopped.wait(WATCH_S):
            if self.refresh():
                self._look_at_ids(self._followed)


def check_start(watch: TopicWatch, bootstrap: str, ingest: str, dead_letter: str) -> tuple[int, int]:
    """Returns (partitions of the ingest topic, max.message.bytes of the dead-letter topic).

    Raises BrokerUnreachableError or TopicError with the command that mends it.
    """
    deadline = time.monotonic() + START_S
    while not watch.refresh():
        if time.monotonic() > deadline:
            raise BrokerUnreachableError(
                f"no answer from {bootstrap} within {START_S:.0f} s; check [kafka] bootstrap.servers"
            )
    if watch.missing({ingest: 1}):
        raise TopicError(f"the ingest topic {ingest} does not exist; create it, or set [topics] ingest")
    if watch.missing({dead_letter: 1}):
        raise TopicError(f"the topic {dead_letter} does not exist; run: foreshard topics create")
    limits = check_sizes(watch, ingest, [dead_letter])
    return watch.partitions(ingest), limits[dead_letter]


def check_sizes(watch: TopicWatch, ingest: str, topics: Iterable[str]) -> dict[str, int]:
    """Returns the `max.message.bytes` of each topic.

    Raises TopicError unless each takes the ingest topic's records with ROOM_BYTES to spare.
    """
    try:
        limits = watch.size_limits([ingest, *topics])
    except KafkaException as failure:
        raise BrokerUnreachableError(f"cannot read the settings of topics: {failure}") from None
    least = limits.pop(ingest) + ROOM_BYTES
    small = {name: limit for name, limit in limits.items() if limit < least}
    if small:
        listed = ", ".join(f"{name} takes {limit}" for name, limit in sorted(small.items()))
        raise TopicError(
            f"{listed} bytes at most, but {least} are needed (max.message.bytes of {ingest} and {ROOM_BYTES} "
            f"for headers); run: kafka-configs.sh --alter --entity-type topics --entity-name {min(small)} "
            f"--add-config max.message.bytes={least}"
        )
    return limits
