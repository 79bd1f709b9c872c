"""Every metric: name with its unit, labels, one sentence."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from schemas.records import ClusterState, Decision, Reactive

# ---------------------------------------------------------------------------- router

FORWARDED = Counter("foreshard_router_forwarded_requests", "Requests forwarded and committed.", ["cluster"])
FORWARDED_BYTES = Counter("foreshard_router_forwarded_bytes", "Bytes of value and key forwarded.")
DEAD_LETTERS = Counter(
    "foreshard_router_dead_letter_requests", "Requests sent to the dead-letter topic, by error.", ["code"]
)
BATCH_REQUESTS = Histogram(
    "foreshard_router_batch_requests",
    "Requests per committed transaction.",
    buckets=(1, 10, 100, 1_000, 10_000, 100_000),
)
COMMIT_SECONDS = Histogram(
    "foreshard_router_commit_seconds",
    "Seconds from the last produced record of a transaction to its commit.",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15),
)
TRANSACTIONS_FAILED = Counter(
    "foreshard_router_failed_transactions",
    "Transactions that did not commit, by what followed: abort, or renew of the producer.",
    ["kind"],
)
PARTITIONS = Gauge("foreshard_router_ingest_partitions", "Ingest partitions that this router reads now.")
MAPPING_VERSION = Gauge("foreshard_router_mapping_version", "Version of the mapping in use.")
BLOCKED = Gauge("foreshard_router_blocked", "1 while nothing is read: no mapping, or a topic is missing.")
HANDOFF_SLOTS = Gauge(
    "foreshard_router_handoff_slots",
    "Slots on their way to another cluster, per ingest partition.",
    ["phase"],
)
HELD_REQUESTS = Gauge("foreshard_router_held_requests", "Requests that wait for their slot.")
HELD_BYTES = Gauge("foreshard_router_held_bytes", "Memory that held requests take, about.")
HOLD_SECONDS = Histogram(
    "foreshard_router_hold_seconds",
    "Seconds in hold of a slot that released requests.",
    buckets=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.3, 2, 3, 5, 8, 12, 20, 30, 60, 120),
)
ORDER_UNPROVEN = Counter(
    "foreshard_router_order_unproven_requests",
    "Requests sent while a dead cluster may still have earlier ones of their slot.",
)
FULL_PARTITIONS = Gauge(
    "foreshard_router_full_partitions", "Ingest partitions paused because no more may be held."
)
LOAD_RECORDS = Counter("foreshard_router_load_records", "Load reports and history records sent.", ["kind"])

# ---------------------------------------------------------------------------- balancer

LEADING = Gauge("foreshard_balancer_leading", "1 while this balancer leads, 0 while it stands by.")
EPOCH = Gauge("foreshard_balancer_epoch", "Epoch of the newest decision: rises by one per take-over.")
ROUND_SECONDS = Histogram(
    "foreshard_balancer_round_seconds",
    "Seconds that one round took to learn, look ahead and plan.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1),
)
DECISIONS = Counter(
    "foreshard_balancer_decisions", "Rounds by outcome: plan, or the reason to skip.", ["outcome"]
)
MOVES = Counter("foreshard_balancer_moves", "Moves made, by reason.", ["reason"])
MOVED_LOAD = Counter("foreshard_balancer_moved_load_cps", "Load moved, cost units/s, by reason.", ["reason"])
JUDGED_MOVES = Counter(
    "foreshard_balancer_judged_moves",
    "Moves made ahead of their load, by when measured load alone would have called for them: at-once, later, "
    "never.",
    ["reactive"],
)
LEAD_SECONDS = Histogram(
    "foreshard_balancer_lead_seconds",
    "Model seconds by which moves came before measured load would have called for them.",
    buckets=(10, 20, 30, 60, 90, 120, 180, 240, 300, 450, 600),
)
AVOIDED_OVERLOAD = Counter(
    "foreshard_balancer_avoided_overload_seconds",
    "Model seconds, summed over clusters, in which one would have been over its capacity but for moves made "
    "ahead of their load, by the model of docs/planner.md.",
)
CLUSTER_LOAD = Gauge(
    "foreshard_cluster_load_cps", "Load of a cluster with its backlog, cost units/s.", ["cluster"]
)
CLUSTER_FORECAST = Gauge(
    "foreshard_cluster_forecast_cps", "Highest predicted load of the window, cost units/s.", ["cluster"]
)
CLUSTER_CAPACITY = Gauge("foreshard_cluster_capacity_cps", "Available capacity, cost units/s.", ["cluster"])
CLUSTER_BACKLOG = Gauge(
    "foreshard_cluster_backlog_cost_units", "Cost units that wait in its topic.", ["cluster"]
)
CLUSTER_SCORE = Gauge("foreshard_cluster_load_score", "Load score after the newest round.", ["cluster"])
SERIES_SKILL = Gauge(
    "foreshard_series_relative_mae_ratio",
    "Error at the horizon against that of the last value, by request type.",
    ["series"],
)
CPU_ERROR = Gauge(
    "foreshard_balancer_cpu_error_ratio",
    "Usual error of the CPU of clusters that learned request costs explain, as a part of what is used.",
)
COSTS_LEARNED = Gauge(
    "foreshard_balancer_costs_learned", "1 while request costs are those learned from CPU, 0: as configured."
)
BAD_RECORDS = Counter("foreshard_balancer_bad_records", "Records of control topics refused.", ["topic"])
STEPS_LEARNED = Gauge("foreshard_balancer_learned_steps", "Forecast steps learned since the take-over.")
SETTLED_VERSION = Gauge(
    "foreshard_balancer_settled_mapping_version",
    "Mapping version that every ingest partition has settled; 0 until all were read.",
)
PENDING_SHARDS = Gauge(
    "foreshard_balancer_pending_shards", "Shards whose last move is not settled everywhere: they stay."
)
CLUSTERS = Gauge("foreshard_balancer_clusters", "Registered clusters, by state.", ["state"])
RESCUED = Counter(
    "foreshard_balancer_rescued_requests",
    "Requests that this balancer re-routed from the topic of a cluster that is down.",
    ["cluster"],
)


def observe_handoffs(settled: int, pending: int, states: Iterable[ClusterState]) -> None:
    """Shows how far routers are with what was decided, and the clusters as they are registered."""
    SETTLED_VERSION.set(settled)
    PENDING_SHARDS.set(pending)
    counts = Counted(states)
    for state in ClusterState:
        CLUSTERS.labels(state=state.value).set(counts[state])


def observe_decision(decision: Decision) -> None:
    """Counts one round and shows what it saw."""
    outcome = decision.skip.value if decision.skip is not None else "plan"
    DECISIONS.labels(outcome=outcome).inc()
    EPOCH.set(decision.epoch)
    if decision.skip is None:
        for move in decision.moves:
            MOVES.labels(reason=move.reason.value).inc()
            MOVED_LOAD.labels(reason=move.reason.value).inc(move.load_cps)
    if decision.prediction is not None:
        AVOIDED_OVERLOAD.inc(decision.prediction.avoided_overload_s)
        for judged in decision.prediction.judged:
            JUDGED_MOVES.labels(reactive=judged.reactive.value).inc()
            if judged.reactive is Reactive.LATER:
                LEAD_SECONDS.observe(judged.lead_s)
    for cluster in decision.clusters:
        CLUSTER_LOAD.labels(cluster=cluster.name).set(cluster.load_cps)
        CLUSTER_FORECAST.labels(cluster=cluster.name).set(cluster.forecast_cps)
        CLUSTER_CAPACITY.labels(cluster=cluster.name).set(cluster.capacity_cps)
        CLUSTER_BACKLOG.labels(cluster=cluster.name).set(cluster.backlog)
        CLUSTER_SCORE.labels(cluster=cluster.name).set(cluster.score_after)
    for series in decision.series:
        if series.relative_mae is not None and not series.of_type:  # values of a field are no labels
            SERIES_SKILL.labels(series=series.name).set(series.relative_mae)
    if decision.costs is not None:
        COSTS_LEARNED.set(decision.costs.learned)
        if decision.costs.cpu_error is not None:
            CPU_ERROR.set(decision.costs.cpu_error)
