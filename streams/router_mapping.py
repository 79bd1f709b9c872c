"""Which mapping a router uses, and whether it may read by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from schemas.errors import ForeshardError, RulesMismatchError
from streams import metrics
from streams.core.fences import ClusterNumbers
from streams.core.handoffs import aim_of
from streams.core.keys import KeyRules
from streams.core.mapping import Snapshot
from streams.core.routing import Routes
from streams.router_checks import TopicWatch, check_sizes
from streams.router_settings import RouterSettings

log = logging.getLogger(__name__)


class MappingGate:
    """Closed while there is no mapping, or while a topic that it sends to is missing."""

    def __init__(
        self,
        settings: RouterSettings,
        rules: KeyRules,
        mapping: Callable[[], Snapshot | None],
        watch: TopicWatch,
        numbers: ClusterNumbers,
    ) -> None:
        self._settings = settings
        self._numbers = numbers
        self._rules = rules
        self._rules_hash = rules.rules_hash()
        self._mapping = mapping
        self._watch = watch
        self.dead_letter_bytes = 0
        """What the dead-letter topic takes at most; known from the router's start on."""
        self.routes: Routes | None = None
        """The mapping in use; it stays while the gate is closed."""
        self.needed: Mapping[str, int] = {}
        """The ingest topic and those that the mapping in use sends to, with their partitions."""
        self.closed = "starting"
        """Why nothing may be read; empty when it may."""

    def look(self) -> bool:
        """Takes up the newest mapping if it can be used; returns whether the router may read.

        Raises RulesMismatchError where its rules hash is not ours, and TopicError where a topic of
        the first mapping is too small for the ingest topic's records.
        """
        snapshot = self._mapping()
        if snapshot is None:
            return self.close("mapping-empty")
        new = self.routes is None or self.routes.snapshot is not snapshot
        if new:
            self._check_rules(snapshot)
        wanted = self._wanted(snapshot) if new else self.needed
        missing = self._watch.missing(wanted)
        if missing and new and self._watch.refresh():
            missing = self._watch.missing(wanted)
        if missing:
            return self.close("topic-missing: " + ", ".join(missing))
        if new:
            self._use(snapshot, wanted)
        if self.closed:
            self.closed = ""
            metrics.BLOCKED.set(0)
        return True

    def _wanted(self, snapshot: Snapshot) -> dict[str, int]:
        """Returns the topics that may be sent to: of owners, and of earlier ones that are still there."""
        there = {cluster.topic for cluster in snapshot.clusters.values()}
        before = {topic: count for topic, count in self.needed.items() if topic in there}
        return before | needed_topics(snapshot) | {self._settings.ingest: 1}

    def close(self, reason: str) -> bool:
        """Closes the gate; says so once where a topic is missing. Returns False: the router may not read."""
        if self.closed != reason:
            if reason.startswith("topic-missing"):
                log.warning("not reading: %s; create it again, with the partitions it had", reason)
            self.closed = reason
            metrics.BLOCKED.set(1)
        return False

    def _check_rules(self, snapshot: Snapshot) -> None:
        if snapshot.rules_hash != self._rules_hash:
            raise RulesMismatchError(
                f"the mapping {snapshot.epoch}.{snapshot.version} was made with {snapshot.shards} shards "
                f"and rules hash {snapshot.rules_hash[:12]}, this router has {self._rules.shards} shards and "
                f"{self._rules_hash[:12]}; give all routers and balancers the same [sharding], request_types"
            )

    def _use(self, snapshot: Snapshot, wanted: Mapping[str, int]) -> None:
        settings = self._settings
        unchecked = sorted(set(wanted) - set(self.needed) - {settings.ingest})
        try:
            if unchecked:
                check_sizes(self._watch, settings.ingest, unchecked)
        except ForeshardError as error:
            if self.routes is None:
                raise
            log.warning("%s", error)
        self.routes = Routes(
            aim_of(snapshot, self._numbers),
            self._numbers,
            settings.dead_letter,
            self.dead_letter_bytes,
            settings.ingest,
        )
        self.needed = wanted
        self._watch.follow(cluster.topic for cluster in snapshot.clusters.values())
        metrics.MAPPING_VERSION.set(snapshot.version)


def needed_topics(snapshot: Snapshot) -> dict[str, int]:
    """Returns the topics that own a slot, with the partitions that the mapping counts on."""
    owners = sorted(set(snapshot.owners.tolist()))
    clusters = [snapshot.clusters[snapshot.names[index]] for index in owners]
    return {cluster.topic: cluster.partitions for cluster in clusters}
