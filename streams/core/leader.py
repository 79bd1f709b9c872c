"""What a leading balancer holds: registry, mapping, who is in control, what it has moved.

It makes the records that say so and decides nothing: commands do (streams/core/commands.py), and
rounds (streams/core/rounds.py). Every list of `Out` is to be written in one transaction, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from schemas import topics
from schemas.errors import RulesMismatchError
from schemas.records import (
    BalancerState,
    Cluster,
    ClusterState,
    Decision,
    MappedCluster,
    MappingMeta,
    MappingRecord,
    Mode,
    Reason,
    Rescuing,
    Skip,
)
from streams.core.capacity import CapacityBook
from streams.core.dead import DeathWatch
from streams.core.keys import KeyRules
from streams.core.mapping import Snapshot, SnapshotBuilder
from streams.core.out import Out
from streams.core.plans import apply_moves, first_mapping, unsettled
from streams.core.round_settings import RoundSettings

META_KEY = "meta"
STATE_KEY = "balancer:state"
NO_HOMES: Mapping[int, str] = MappingProxyType({})


class Leader:
    """The registry and the mapping as the leader holds and writes them. Times are model time."""

    def __init__(self, rules: KeyRules, settings: RoundSettings) -> None:
        self.rules = rules
        self.settings = settings
        self.clusters: dict[str, Cluster] = {}
        self.capacity = CapacityBook()
        self.deaths = DeathWatch(settings.dead_after_s)
        self.builder = SnapshotBuilder()
        self.mode = Mode.OBSERVE
        self.frozen = False
        self.freeze_reason = ""
        self.epoch = 0
        self.round = 0
        self.arrived: dict[tuple[int, str], float] = {}
        self.moved: dict[int, float] = {}
        self.joined: set[int] = set()
        self.rehomed: set[int] = set()
        self.away: dict[int, tuple[str, float]] = {}
        """shard -> the foreign cluster that has most of its slots, and since when."""
        self.answered: dict[str, None] = {}
        self.rescue: Rescuing | None = None
        """The rescue under way: whoever leads carries it out, and nothing is planned meanwhile."""
        self.rescued = 0
        """Requests that it has moved so far, as far as this leader knows."""
        self.rescued_letters = 0
        """Those of them that became dead letters."""
        self.resumed = False
        """Whether a predecessor began it: then some were moved before."""
        self.obsolete = ""
        """Why this configuration may not lead any longer, once other key rules were accepted."""
        self.offsets: Mapping[str, Sequence[tuple[int, int]]] = {}
        """topic -> (partition, next offset): what a predecessor had read, then what the caller has."""
        self.last: Decision | None = None
        self._settled: Mapping[int, int] = {}

    @property
    def snapshot(self) -> Snapshot | None:
        return self.builder.snapshot

    # ------------------------------------------------------------------ what was read

    def on_cluster(self, cluster: Cluster) -> None:
        self.clusters[cluster.name] = cluster
        self.capacity.register(cluster)

    def on_settled(self, versions: Mapping[int, int]) -> None:
        """Takes the settled mapping version of every ingest partition; 0 where none is known."""
        self._settled = dict(versions)

    @property
    def settled(self) -> int:
        """Returns the version that every ingest partition has settled; 0 until all were read.

        A version above the mapping's own is another mapping's: it says nothing.
        """
        newest = self.snapshot.version if self.snapshot else 0
        return min((version if version <= newest else 0 for version in self._settled.values()), default=0)

    def pending(self) -> frozenset[int]:
        """Returns the shards whose last move may not be settled everywhere yet."""
        records = self.snapshot.records if self.snapshot else ()
        settled = self.settled
        return frozenset(record.shard for record in records if unsettled(record, settled))

    def restore(self, record: BalancerState) -> None:
        """Takes a predecessor's state."""
        self.mode, self.frozen, self.freeze_reason = record.mode, record.frozen, record.freeze_reason
        self.epoch, self.round = max(self.epoch, record.epoch), record.round
        self.arrived = {(shard, cluster): at for shard, cluster, at in record.arrived}
        self.moved, self.joined = dict(record.moved), set(record.joined)
        self.rehomed = set(record.rehomed)
        self.away = {shard: (cluster, since) for shard, cluster, since in record.away}
        self.answered = dict.fromkeys(record.answered)
        self.rescue, self.resumed = record.rescue, record.rescue is not None
        self.offsets = record.offsets

    # ------------------------------------------------------------------ registry

    def weights(self) -> dict[str, float]:
        """Returns the registered capacities of the active clusters, cost units/s."""
        return {
            name: cluster.capacity_cps
            for name, cluster in sorted(self.clusters.items())
            if cluster.state is ClusterState.ACTIVE
        }

    def mapped(self) -> dict[str, MappedCluster]:
        """Returns the registered clusters as the mapping names them."""
        return {
            name: MappedCluster(
                topic=cluster.topic,
                group=cluster.group,
                partitions=cluster.partitions,
                state=cluster.state,
                rescues=cluster.rescues,
            )
            for name, cluster in sorted(self.clusters.items())
        }

    def registered(self, cluster: Cluster) -> Out:
        """Takes a cluster as it is from now on; returns what says so."""
        self.on_cluster(cluster)
        return Out(topics.CLUSTERS, cluster.name, cluster)

    def unregistered(self, name: str) -> Out:
        """Forgets a cluster; returns the tombstone."""
        del self.clusters[name]
        self.capacity.forget(name)
        self.deaths.forget(name)
        self.arrived = {key: at for key, at in self.arrived.items() if key[1] != name}
        return Out(topics.CLUSTERS, name, None)

    # ------------------------------------------------------------------ mapping

    def first(self, now: float) -> list[Out]:
        """Returns version 1 of the mapping, over the active clusters."""
        self.round += 1
        records, meta = first_mapping(
            self.rules.shards,
            self.weights(),
            self.mapped(),
            self.epoch,
            self.rules.rules_hash(),
            self.plan_id,
        )
        detail = f"first mapping: {self.rules.shards} shards over {len(self.weights())} clusters"
        decision = self.plain(now, meta.version, detail)
        return [self.decided(decision), self.state(), *self.published(records, meta)]

    def rewritten(
        self,
        snapshot: Snapshot,
        now: float,
        detail: str,
        new_homes: Mapping[int, str] = NO_HOMES,
        command: str | None = None,
        reason: Reason | None = None,
    ) -> list[Out]:
        """Returns a plan that moves nothing: new homes, and the clusters as they are registered now.

        `reason` of the new homes; without one it follows from what became of the old home.
        """
        self.round += 1
        records, meta = apply_moves(
            snapshot,
            [],
            epoch=self.epoch,
            plan=self.plan_id,
            clusters=self.mapped(),
            new_homes=new_homes,
            settled=self.settled,
        )
        self.away = {shard: stay for shard, stay in self.away.items() if shard not in new_homes}
        if reason is not None:
            records = [record.model_copy(update={"reason": reason.value}) for record in records]
        decision = self.plain(now, meta.version, detail, command=command)
        return [self.decided(decision), *self.published(records, meta)]

    def meta(self, snapshot: Snapshot, version: int, rules_hash: str | None = None) -> MappingMeta:
        """Returns a meta record over the shards as they are."""
        return MappingMeta(
            version=version,
            epoch=self.epoch,
            shards=snapshot.shards,
            rules_hash=rules_hash or snapshot.rules_hash,
            clusters=self.mapped(),
        )

    def published(self, records: Sequence[MappingRecord], meta: MappingMeta) -> list[Out]:
        """Returns a plan's records, meta last, and makes it the leader's own snapshot."""
        for record in records:
            self.builder.apply(record)
        self.builder.apply(meta)
        shards = [Out(topics.MAPPING, str(record.shard), record) for record in records]
        return [*shards, Out(topics.MAPPING, META_KEY, meta)]

    # ------------------------------------------------------------------ decisions and state

    @property
    def plan_id(self) -> str:
        return f"{self.epoch}.{self.round}"

    def plain(
        self, now: float, version: int, detail: str, skip: Skip | None = None, command: str | None = None
    ) -> Decision:
        """Returns the decision of a round that saw no loads: its outcome in words."""
        return Decision(
            epoch=self.epoch,
            round=self.round,
            at=now,
            mode=self.mode,
            version=version,
            skip=skip,
            detail=detail,
            command=command,
        )

    def decided(self, decision: Decision) -> Out:
        self.last = decision
        return Out(topics.DECISIONS, decision.id, decision)

    def state(self) -> Out:
        """Returns what a successor needs to continue."""
        record = BalancerState(
            mode=self.mode,
            frozen=self.frozen,
            freeze_reason=self.freeze_reason,
            epoch=self.epoch,
            round=self.round,
            arrived=[(shard, cluster, at) for (shard, cluster), at in sorted(self.arrived.items())],
            moved=sorted(self.moved.items()),
            joined=sorted(self.joined),
            rehomed=sorted(self.rehomed),
            away=[(shard, cluster, since) for shard, (cluster, since) in sorted(self.away.items())],
            answered=list(self.answered),
            rescue=self.rescue,
            offsets={topic: list(pairs) for topic, pairs in sorted(self.offsets.items())},
        )
        return Out(topics.STATE, STATE_KEY, record)


def check_rules(snapshot: Snapshot | None, rules: KeyRules) -> None:
    """Raises RulesMismatchError where the mapping was made with other shards or key rules."""
    if snapshot is None or snapshot.rules_hash == rules.rules_hash():
        return
    after = ""
    if snapshot.shards == rules.shards:
        after = "; once it leads, `foreshard mapping accept-rules` lets the mapping go on under these rules"
    raise RulesMismatchError(
        f"the mapping was made for {snapshot.shards} shards and rules {snapshot.rules_hash[:12]}, "
        f"the configuration has {rules.shards} shards and rules {rules.rules_hash()[:12]}; "
        f"start with the configuration that the mapping was made with{after}"
    )
