"""A small world around the balancer's core: one router, clusters, and a successor from what was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy

import numpy as np

from schemas import topics
from schemas.records import (
    Cluster,
    ClusterAdd,
    Counts,
    Decision,
    Event,
    EventKey,
    LoadHistory,
    LoadReport,
    MappingMeta,
    MappingRecord,
    Mode,
    OffsetRange,
    PartitionLoad,
    SetMode,
    mapping_record,
    state_record,
)
from streams.core.keys import KeyRules, RequestType, locate, parse_field
from streams.core.out import Out
from streams.core.outcome import Found
from streams.core.planner import PlannerSettings
from streams.core.round_settings import RoundSettings
from streams.core.rounds import Rounds

START = 1_000_200.0
"""Model time at which every world begins: a multiple of 30 s."""
SHARDS = 16
RULES = KeyRules(
    shards=SHARDS,
    type_from=(parse_field("json:type"),),
    types=(
        RequestType("order", (parse_field("json:user"),)),
        RequestType("import", (parse_field("json:tenant"),), cost=2.0),
    ),
)
SETTINGS = RoundSettings(PlannerSettings())
Rates = np.ndarray
"""float64[2, 16], requests/s of orders and imports per shard."""


def even(orders: float, imports: float = 0.0) -> Rates:
    """Returns totals spread evenly over the shards."""
    return np.outer([orders, imports], np.full(SHARDS, 1 / SHARDS))


def with_more(rates: Rates, shards: Iterable[int], orders: float) -> Rates:
    """Returns the rates with so many orders/s more on each of the shards."""
    more = rates.copy()
    more[0, list(shards)] += orders
    return more


def counts_of(requests: np.ndarray) -> Counts:
    series, shard = np.nonzero(requests)
    return Counts(
        series=series.tolist(), shard=shard.tolist(), count=requests[series, shard].astype(int).tolist()
    )


class Router:
    """Makes the load records of one router that owns the only ingest partition."""

    def __init__(self, series: Sequence[str] = RULES.series) -> None:
        self.series = list(series)
        self.offset = 0
        self._rest = np.zeros((len(series), SHARDS))

    def report(self, window_to: float, rates: Rates, hot: Sequence[tuple[int, int]] = ()) -> LoadReport:
        """Returns the report of the 5 s up to `window_to`; parts of a request wait for the next."""
        exact = rates * 5.0 + self._rest
        requests = np.floor(exact + 1e-9)
        self._rest = exact - requests
        first, self.offset = self.offset, self.offset + int(requests.sum())
        part = PartitionLoad(
            partition=0,
            from_offset=first,
            to_offset=self.offset,
            requests=int(requests.sum()),
            bytes=0,
            lag=0,
            forwarded=counts_of(requests),
        )
        return LoadReport(
            router="r1",
            window_from=window_to - 5.0,
            window_to=window_to,
            epoch=1,
            version=1,
            series=self.series,
            partitions=[part],
            hot_slots=list(hot),
        )

    def history(self, step: int, rates: Rates) -> LoadHistory:
        """Returns the stored history of one step of 30 s."""
        ranges = [OffsetRange(partition=0, from_offset=self.offset, to_offset=self.offset)]
        return LoadHistory(
            router="r1",
            step=step,
            step_s=30.0,
            ranges=ranges,
            series=self.series,
            arrivals=counts_of(np.rint(rates * 30.0)),
        )


def add(name: str, capacity: float = 100.0, number: int = 0, **more: object) -> ClusterAdd:
    """Returns the command that registers a cluster."""
    fields = {"topic": f"requests.{name}", "group": f"{name}-group", "capacity_cps": capacity} | more
    return ClusterAdd(id=f"add-{name}-{number}", at=START, cluster=name, **fields)  # type: ignore[arg-type]


def set_mode(mode: Mode) -> SetMode:
    return SetMode(id=f"mode-{mode.value}", at=START, mode=mode)


class World:
    """A leading balancer's core with its router; `written` is all that it wrote, in order."""

    def __init__(
        self, rounds: Rounds | None = None, settings: RoundSettings = SETTINGS, rules: KeyRules = RULES
    ) -> None:
        self.rounds = rounds or Rounds(rules, settings, ingest_partitions=1)
        self.router = Router()
        self.now = START
        self.written: list[Out] = []
        self.stored: list[LoadReport | LoadHistory] = []
        """What the router wrote to the load topic."""
        self.announced: list[Event] = []
        self.settling = True
        """Whether the router settles every version at once."""
        self.standing: set[str] = set()
        """Clusters whose groups commit nothing: what waits there stays."""
        self._done: dict[str, int] = {}

    def _load(self, record: LoadReport | LoadHistory) -> None:
        self.stored.append(record)
        self.rounds.on_load(record)

    def lead(self) -> World:
        self.rounds.commands_read = True
        self.written += self.rounds.take_over()
        return self

    def announce(self, event: Event) -> None:
        """Publishes an event."""
        self.announced.append(event)
        self.rounds.on_event(event.id, event)

    def command(self, command: object, partitions: int | None = 3, **found: object) -> list[Out]:
        """Applies a command, and writes version 1 if that may now be."""
        seen = Found(partitions=partitions, **found)  # type: ignore[arg-type]
        outs = self.rounds.on_command(command, self.now, seen)  # type: ignore[arg-type]
        outs += self.rounds.first_start(self.now)
        self.written += outs
        return outs

    def history(self, first: int, steps: int, rates: Rates, swing: float = 0.0) -> None:
        """Stores and learns steps; with `swing` they go up and down by that part every two hours."""
        for step in range(first, first + steps):
            wave = 1.0 + swing * np.sin(2 * np.pi * step / 240)
            self._load(self.router.history(step, rates * wave))

    def run(
        self, seconds: float, rates: Rates, lags: Mapping[str, int] | None = None, history: bool = True
    ) -> list[Out]:
        """Lets time pass with constant rates: reports every 5 s, lags and a round every 10 s."""
        outs: list[Out] = []
        for _ in range(round(seconds / 10.0)):
            for _ in range(2):
                self.now += 5.0
                self._load(self.router.report(self.now, rates))
            if history and self.now % 30.0 == 0.0:
                self._load(self.router.history(int(self.now // 30) - 1, rates))
            for name in self.rounds.clusters:
                self._read_lag(name, (lags or {}).get(name, 0))
            self.settle()
            outs += self.evaluate()
        return outs

    def _read_lag(self, name: str, lag: int) -> None:
        """Reads a group that gets on by one request a round, unless it stands still."""
        done = self._done[name] = self._done.get(name, 0) + (name not in self.standing and lag > 0)
        self.rounds.on_lag(name, {0: done}, {0: done + lag}, self.now)

    def settle(self) -> None:
        """Lets the router settle what the mapping is now, if it does."""
        if self.settling and self.rounds.snapshot is not None:
            self.rounds.on_settled({0: self.rounds.snapshot.version})

    def evaluate(self) -> list[Out]:
        """Runs one round now."""
        outs = self.rounds.evaluate(self.now)
        self.written += outs
        return outs

    def at_home(self, cluster: str) -> list[int]:
        """Returns the shards whose home the cluster is."""
        snapshot = self.rounds.snapshot
        assert snapshot is not None
        return [record.shard for record in snapshot.records if record.home == cluster]


def started(
    *clusters: ClusterAdd,
    mode: Mode = Mode.AUTO,
    settings: RoundSettings = SETTINGS,
    rules: KeyRules = RULES,
) -> World:
    """Returns a world with version 1 over the clusters (default: c1, c2, c3 of 100 cost units/s)."""
    world = World(settings=settings, rules=rules)
    world.written += world.rounds.take_over()
    for command in [set_mode(mode), *(clusters or [add("c1"), add("c2"), add("c3")])]:
        world.command(command)
    world.rounds.commands_read = True
    world.written += world.rounds.first_start(world.now)
    return world


def decisions(outs: Iterable[Out]) -> list[Decision]:
    return [out.record for out in outs if isinstance(out.record, Decision)]


def of(outs: Iterable[Out], kind: type) -> list[object]:
    return [out.record for out in outs if isinstance(out.record, kind)]


def mapping_of(outs: Iterable[Out]) -> list[MappingRecord | MappingMeta]:
    return [out.record for out in outs if isinstance(out.record, MappingRecord | MappingMeta)]


def successor(world: World) -> World:
    """Returns the world of a new leader that read what is stored, as bytes, and nothing else."""
    rounds = Rounds(world.rounds.rules, world.rounds.settings, ingest_partitions=1)
    newest: dict[tuple[str, str], bytes] = {}
    for out in world.written:
        newest.pop((out.topic.name, out.key), None)
        if out.record is not None:
            newest[out.topic.name, out.key] = out.record.to_json()
    for (topic, _key), data in newest.items():
        if topic == topics.CLUSTERS.name:
            rounds.on_cluster(Cluster.from_json(data))
    for (topic, _key), data in newest.items():
        if topic == topics.MAPPING.name:
            rounds.builder.apply(mapping_record(data))
        elif topic == topics.STATE.name:
            rounds.on_state(state_record(data))
    rounds.resume()
    for event in world.announced:
        rounds.on_event(event.id, event)
    heir = World(rounds, world.rounds.settings)
    heir.announced = list(world.announced)
    heir.now, heir.router, heir.written = world.now, deepcopy(world.router), list(world.written)
    for record in world.stored:
        heir._load(record)
    return heir


def campaign(start: float, end: float, user: str, requests_per_s: float) -> Event:
    """Returns an event that adds orders of one user."""
    key = EventKey(type="order", values=[user])
    return Event(
        id=f"campaign-{user}",
        kind="campaign",
        start=start,
        end=end,
        keys=[key],
        requests_per_s=requests_per_s,
    )


def user_in(shards: Iterable[int]) -> tuple[str, int]:
    """Returns the first user whose orders fall on one of the shards, and their global slot."""
    wanted = set(shards)
    for number in range(10_000):
        shard, slot = locate(RULES, "order", [f"u{number}"])
        if shard in wanted:
            return f"u{number}", slot
    raise AssertionError(f"no user in {wanted}")


def overloaded(world: World, cluster: str = "c1") -> np.ndarray:
    """Rates that put the cluster at about 130 % and leave room elsewhere."""
    shards = world.at_home(cluster)
    return with_more(even(60.0), shards, (130.0 - 60.0 * len(shards) / SHARDS) / len(shards))
