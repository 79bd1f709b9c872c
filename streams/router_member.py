"""The router as a member of its group: one consumer at a time, another where the first does not come back."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from streams.kafka_settings import router_consumer
from streams.membership import leave_group
from streams.one_thread import OneThread
from streams.router_checks import TopicWatch
from streams.router_settings import RouterSettings

log = logging.getLogger(__name__)

ABSENT_S = 15.0
"""Seconds out of the group, while the broker answers others, until the consumer is given up. One that joins
waits for the session of a member that died, 8 s; longer only for a group that many leave and join."""

AWAY_S = 6.0
"""Seconds without an answer to questions about topics after which the broker counts as away."""

Rebalance = Callable[[Consumer, list[TopicPartition]], None]


class Member:
    """Used by the router's thread alone, but for `absent`."""

    def __init__(self, settings: RouterSettings, watch: TopicWatch) -> None:
        self._settings, self._watch = settings, watch
        self.consumer = self._new_consumer()
        self._absent: float | None = time.monotonic()
        """Since when it has been out of its group while the broker answers; None for a member."""

    @property
    def absent(self) -> bool:
        """Returns whether it was out of its group at the last look."""
        return self._absent is not None

    def _new_consumer(self) -> Consumer:
        settings = self._settings
        return Consumer(router_consumer(settings.kafka, settings.group, settings.instance_id))

    def subscribe(self, on_assign: Rebalance, on_revoke: Rebalance) -> None:
        """Joins the group; `on_revoke` is also told of partitions that are lost."""
        self.consumer.subscribe(
            [self._settings.ingest], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke
        )

    def group(self) -> object | None:
        """Returns the group metadata that fences a batch, taken right after consuming it.

        None where this router is no member: it has slept past its session, and joins again by itself.
        """
        group = self.consumer.consumer_group_metadata()
        return group if _is_member(group) else None

    def given_up(self, now: float) -> bool:
        """Looks whether it is in its group; returns whether the consumer has been out of it for too long.

        While the broker is away nothing is held against it. Some outages leave librdkafka without any
        broker to ask (`EVERY_CLIENT`), others of its clients too; then the topics are not heard of either.
        """
        if self.group() is not None:
            self._absent = None
        elif self._absent is None or self._watch.silent_s() > AWAY_S:
            self._absent = now
        return self._absent is not None and now - self._absent > ABSENT_S

    def renew(self, now: float) -> None:
        """Takes a new consumer, subscribed to nothing; nothing of the old one may be in use."""
        log.warning(
            "out of the group %s for %.0f s, while the broker answers: going on with a new consumer",
            self._settings.group,
            now - (self._absent or now),
        )
        old, self.consumer = self.consumer, self._new_consumer()
        self._absent = now
        closing = OneThread("leave")  # may take for ever
        closing.submit(old.close)
        closing.end()

    def leave(self, timeout_s: float) -> None:
        """Closes the consumer, but does not wait for ever.

        The broker answers a goodbye only after it has answered a JoinGroup before it, and that waits
        for all members of the group. Without a goodbye the partitions move on when the session ends.
        """
        closing = OneThread("leave")
        static = bool(self._settings.instance_id)
        closed = closing.submit(lambda: leave_group(self.consumer, static=static))
        closing.end()
        with contextlib.suppress(TimeoutError):
            closed.result(timeout_s)


def _is_member(group: object) -> bool:
    """Returns whether group metadata is that of a member: the broker takes any other unfenced.

    librdkafka's form: "CGMDv2:", generation as int32, group, NUL, member, NUL, ...
    """
    if not isinstance(group, bytes) or not group.startswith(b"CGMDv2:"):
        return False
    generation = int.from_bytes(group[7:11], sys.byteorder, signed=True)
    _group, member, *_ = group[11:].split(b"\0")
    return generation >= 0 and bool(member)
