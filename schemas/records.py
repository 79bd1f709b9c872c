"""The wire contracts: every record on every topic but the requests themselves.

All times are model time in seconds since 1970 (wall time where `time_scale` is 1); all rates are
per second of model time. JSON is strict: unknown fields, NaN and infinities are refused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from schemas.errors import InvalidRecordError

SLOTS = 256
"""Slots per shard: the parts of a shard that move; one drift step is 1/256 of a shard."""

MAX_SHARDS = 4096

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"
"""Names of clusters, routers and events: what Kafka allows in a topic name, and short."""

MOST_COUNT = 2**53 - 1
"""Counts and offsets: what float64 and every JSON reader hold exactly."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Count = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Capacity = Annotated[float, Field(ge=1e-6, le=1e12)]
"""Cost units/s. Beyond these bounds sums and quotients of capacities leave the range of a float."""
Shard = Annotated[int, Field(ge=0, lt=MAX_SHARDS)]
Segment = tuple[int, int, Name]
"""A half-open range of slots and the cluster that owns it: (0, 64, "c5")."""


class Record(BaseModel):
    """One JSON record. `to_json` gives the bytes on the wire, `from_json` reads them back."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    schema_version: Literal[1] = Field(default=1, alias="schema")

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str | None) -> Self:
        """Returns the record in `data`; raises InvalidRecordError naming every wrong field."""
        record: Self = _parse(TypeAdapter(cls), cls.__name__, data)
        return record


def _parse(adapter: TypeAdapter[Any], what: str, data: bytes | str | None) -> Any:
    if not data:
        raise InvalidRecordError(f"{what}: the value is empty; send one JSON object")
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise InvalidRecordError(f"{what}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Returns one line per wrong field, with its place and the value that was given."""
    parts = []
    for item in error.errors():
        place = ".".join(str(step) for step in item["loc"]) or "record"
        given = repr(item.get("input"))
        shown = given if len(given) <= 60 else given[:57] + "..."
        parts.append(f"{place}: {item['msg']} (given: {shown})")
    return "; ".join(parts)


# ---------------------------------------------------------------------------- load


class Counts(BaseModel):
    """Requests per (series, shard) that are not 0: three columns of one length."""

    model_config = Record.model_config
    series: list[Count] = []
    shard: list[Shard] = []
    count: list[Count] = []

    @model_validator(mode="after")
    def _columns_match(self) -> Self:
        if not len(self.series) == len(self.shard) == len(self.count):
            raise ValueError(
                "columns differ in length: "
                f"series {len(self.series)}, shard {len(self.shard)}, count {len(self.count)}"
            )
        return self


def check_series(counts: Counts, names: list[str]) -> None:
    """Raises ValueError where a series index of the counts has no name."""
    most = max(counts.series, default=-1)
    if most >= len(names):
        raise ValueError(f"series index {most} has no name: {len(names)} names")


class OffsetRange(BaseModel):
    """Offsets `[from_offset, to_offset)` of one ingest partition, forwarded and committed."""

    model_config = Record.model_config
    partition: Count
    from_offset: Count
    to_offset: Count

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_offset < self.from_offset:
            raise ValueError(f"to_offset {self.to_offset} is before from_offset {self.from_offset}")
        return self


class PartitionLoad(OffsetRange):
    """What one router did with one ingest partition during one window."""

    requests: Count
    bytes: Count
    lag: Count
    """Records of the partition not read yet at the window's end (position, not committed offset)."""
    forwarded: Counts
    """Requests forwarded in this window, by (series, shard), whenever they were produced."""


class LoadReport(Record):
    """A router's report of one window: what it forwarded and committed. Topic `load`, key = router."""

    kind: Literal["report"] = "report"
    router: Name
    window_from: float
    window_to: float
    epoch: Count
    version: Count
    series: list[str]
    partitions: list[PartitionLoad]
    clusters: dict[Name, list[Count]] = {}
    """Requests forwarded per cluster and output partition."""
    hot_slots: list[tuple[Count, Count]] = []
    """(global slot, requests) of the busiest slots of the window."""
    dead_letters: Count = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window_to <= self.window_from:
            raise ValueError(f"window ends at {self.window_to}, not after {self.window_from}")
        for part in self.partitions:
            check_series(part.forwarded, self.series)
        return self


class LoadHistory(Record):
    """A router's part of one forecast step, by record timestamp. Topic `load`, key = router.

    The sum over routers (and over late corrections) is the stored history.
    """

    kind: Literal["history"] = "history"
    router: Name
    step: Count
    """Index of the step: it covers [step * step_s, (step + 1) * step_s) of model time."""
    step_s: Positive
    ranges: list[OffsetRange] = []
    """Offsets that this router counted since its previous history record."""
    series: list[str]
    arrivals: Counts

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_series(self.arrivals, self.series)
        return self


LoadRecord = Annotated[LoadReport | LoadHistory, Field(discriminator="kind")]
_LOAD: TypeAdapter[LoadReport | LoadHistory] = TypeAdapter(LoadRecord)


def load_record(data: bytes | None) -> LoadReport | LoadHistory:
    """Returns the record of the `load` topic in `data`; raises InvalidRecordError."""
    record: LoadReport | LoadHistory = _parse(_LOAD, "load record", data)
    return record


# ---------------------------------------------------------------------------- metrics


class ClusterMetrics(Record):
    """What a reporter saw of one backend instance. Topic `metrics`, key = cluster."""

    cluster: Name
    instance: Name
    at: float
    interval_s: Positive
    cpu: Annotated[float, Field(ge=0, le=1.5)] | None = None
    """Fraction of the CPU that the process tree (or host) may use; a little over 1 is rounding."""
    memory: Fraction | None = None
    queue_depth: Count | None = None
    """The group's lag in offsets, transaction markers included."""
    throughput_rps: Rate | None = None
    latency_s: Rate | None = None
    latency_estimated: bool = False
    capacity_cps: Capacity | None = None


# ---------------------------------------------------------------------------- events


class EventKey(BaseModel):
    """One key of a request type, as its key fields' values in the order of the rule."""

    model_config = Record.model_config
    type: str
    values: list[str | int | bool]


class Event(Record):
    """Announced demand or capacity change. Topic `events`, key = id; a tombstone withdraws it."""

    id: Name
    kind: Name
    """What sort of event: campaign, import, maintenance, ... Trust is learned per kind."""
    start: float
    end: float
    types: list[str] = []
    keys: list[EventKey] = []
    cluster: Name | None = None
    uplift: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Relative effect: load of the scope is multiplied by this."""
    requests_per_s: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Absolute effect: requests/s added to the scope, divided equally over its keys or types."""
    capacity_factor: Fraction | None = None
    """Capacity of the cluster is multiplied by this (0.7 = 30 % less)."""
    note: str = ""

    EFFECTS: ClassVar = ("uplift", "requests_per_s", "capacity_factor")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"event {self.id} ends at {self.end}, not after its start {self.start}")
        scopes = [name for name in ("types", "keys", "cluster") if getattr(self, name)]
        if len(scopes) != 1:
            raise ValueError(f"event {self.id} needs exactly one of types, keys, cluster; given: {scopes}")
        effects = [name for name in self.EFFECTS if getattr(self, name) is not None]
        if len(effects) != 1:
            raise ValueError(f"event {self.id} needs exactly one of {list(self.EFFECTS)}; given: {effects}")
        if (scopes[0] == "cluster") != (effects[0] == "capacity_factor"):
            raise ValueError(f"event {self.id}: scope {scopes[0]} does not take the effect {effects[0]}")
        return self


# ---------------------------------------------------------------------------- clusters and commands


class ClusterState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    DOWN = "down"


class Cluster(Record):
    """One backend cluster as registered. Topic `clusters`, key = name."""

    name: Name
    topic: Name
    group: Name
    capacity_cps: Capacity
    capacity_guessed: bool = False
    partitions: Annotated[int, Field(ge=1)]
    state: ClusterState = ClusterState.ACTIVE


class Mode(StrEnum):
    OBSERVE = "observe"
    AUTO = "auto"


class CommandBase(Record):
    id: Name
    by: str = ""
    at: float


class ClusterAdd(CommandBase):
    """Register a cluster; its topic exists already (the CLI makes it)."""

    kind: Literal["cluster-add"] = "cluster-add"
    cluster: Name
    topic: Name
    group: Name
    capacity_cps: Capacity
    capacity_guessed: bool = False


class SetMode(CommandBase):
    kind: Literal["mode"] = "mode"
    mode: Annotated[Mode, Field(strict=False)]


class Freeze(CommandBase):
    kind: Literal["freeze"] = "freeze"
    reason: str = ""


class Resume(CommandBase):
    kind: Literal["resume"] = "resume"


Command = ClusterAdd | SetMode | Freeze | Resume
_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def command_record(data: bytes | None) -> Command:
    """Returns the command in `data`; raises InvalidRecordError."""
    record: Command = _parse(_COMMAND, "command", data)
    return record


# ---------------------------------------------------------------------------- mapping


def check_tiles(segments: list[Segment], shard: int) -> None:
    """Raises ValueError unless the segments tile 0..256 in order, without gap or overlap."""
    position = 0
    for start, stop, cluster in segments:
        if start != position or stop <= start:
            raise ValueError(
                f"segments of shard {shard} do not tile 0..{SLOTS}: "
                f"[{start}, {stop}) of {cluster} follows slot {position}"
            )
        position = stop
    if position != SLOTS:
        raise ValueError(f"segments of shard {shard} end at slot {position}, not {SLOTS}")


class PreviousSegments(BaseModel):
    """Segments that routers may still be using, in force up to `version`."""

    model_config = Record.model_config
    version: Count
    segments: list[Segment]


class MappingRecord(Record):
    """Where one shard's slots go. Topic `mapping`, key = shard number."""

    kind: Literal["shard"] = "shard"
    shard: Shard
    version: Count
    epoch: Count
    home: Name
    segments: list[Segment]
    previous: list[PreviousSegments] = []
    plan: str
    """epoch.round of the plan that wrote it."""
    reason: str

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        check_tiles(self.segments, self.shard)
        for old in self.previous:
            check_tiles(old.segments, self.shard)
        return self


class MappedCluster(BaseModel):
    """A cluster as the routers know it."""

    model_config = Record.model_config
    topic: Name
    group: Name
    partitions: Annotated[int, Field(ge=1)]
    state: ClusterState
    rescues: Count = 0


class MappingMeta(Record):
    """Last record of every plan: makes its shard records valid together. Key = "meta"."""

    kind: Literal["meta"] = "meta"
    version: Count
    epoch: Count
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    rules_hash: str
    clusters: dict[Name, MappedCluster]


_MAPPING: TypeAdapter[MappingRecord | MappingMeta] = TypeAdapter(
    Annotated[MappingRecord | MappingMeta, Field(discriminator="kind")]
)


def mapping_record(data: bytes | None) -> MappingRecord | MappingMeta:
    """Returns the mapping record in `data`; raises InvalidRecordError, also when it does not tile."""
    record: MappingRecord | MappingMeta = _parse(_MAPPING, "mapping record", data)
    return record


# ---------------------------------------------------------------------------- decisions


class Reason(StrEnum):
    """Why a move was made."""

    FIRST_START = "first-start"
    PREDICTED_OVERLOAD = "predicted-overload"
    EVENT = "event"
    OVERLOAD = "overload"
    DRAIN = "drain"
    DOWN = "down"
    JOIN = "join"
    RETURN = "return"


class Skip(StrEnum):
    """Why a round moved nothing, or why a cluster over its limit could not be helped."""

    BALANCED = "balanced"
    WITHIN_BAND = "within-band"
    COOLDOWN = "cooldown"
    BUDGET = "budget"
    NO_ROOM = "no-room"
    UNSPLITTABLE_KEY = "unsplittable-key"
    HANDOFF_PENDING = "handoff-pending"
    SINGLE_CLUSTER = "single-cluster"
    FROZEN = "frozen"
    OBSERVE_MODE = "observe-mode"
    INCOMPLETE_METRICS = "incomplete-metrics"


class Move(BaseModel):
    """Slots of one shard that change cluster."""

    model_config = Record.model_config
    shard: Shard
    source: Name
    target: Name
    slots: list[tuple[int, int]]
    """Half-open slot ranges."""
    load_cps: Rate
    """Load that moves, measured now."""
    reason: Annotated[Reason, Field(strict=False)]


class ClusterView(BaseModel):
    """One cluster as a round saw it; loads in cost units/s."""

    model_config = Record.model_config
    name: Name
    state: Annotated[ClusterState, Field(strict=False)]
    known: bool
    capacity_cps: Rate
    load_cps: Rate
    forecast_cps: Rate
    """Highest predicted load of the window."""
    backlog: Rate
    """Cost units that wait in the cluster's topic."""
    score_before: Rate
    score_after: Rate
    notes: list[str] = []


class SeriesView(BaseModel):
    """One forecast series as a round saw it; requests/s."""

    model_config = Record.model_config
    name: str
    now_rps: Rate
    forecast_rps: Rate
    """At the horizon."""
    relative_mae: Rate | None = None
    """MAE / MAE of the last value at the horizon, over the last 24 h; below 1 beats it."""
    trusted: bool
    why_not: str = ""


class Stuck(BaseModel):
    """A cluster over its limit that the planner could not relieve."""

    model_config = Record.model_config
    cluster: Name
    reason: Annotated[Skip, Field(strict=False)]
    short_cps: Rate
    """Load over its target that found no place."""


class Decision(Record):
    """One round of the balancer. Topic `decisions`, key = epoch.round."""

    kind: Literal["decision"] = "decision"
    epoch: Count
    round: Count
    at: float
    mode: Annotated[Mode, Field(strict=False)]
    version: Count
    """Mapping version after the round."""
    skip: Annotated[Skip, Field(strict=False)] | None = None
    """Why nothing was moved; absent when `moves` were made."""
    detail: str = ""
    moves: list[Move] = []
    """Made, or in observe mode and when frozen: what would have been made."""
    clusters: list[ClusterView] = []
    series: list[SeriesView] = []
    stuck: list[Stuck] = []
    events: list[Name] = []
    """Ids of the events that touch the window."""

    @property
    def id(self) -> str:
        return f"{self.epoch}.{self.round}"


class Answer(Record):
    """The answer to one command. Topic `decisions`, key = command id."""

    kind: Literal["answer"] = "answer"
    command: Name
    at: float
    epoch: Count
    accepted: bool
    code: str = ""
    text: str


_DECISION: TypeAdapter[Decision | Answer] = TypeAdapter(
    Annotated[Decision | Answer, Field(discriminator="kind")]
)


def decision_record(data: bytes | None) -> Decision | Answer:
    """Returns the decision or answer in `data`; raises InvalidRecordError."""
    record: Decision | Answer = _parse(_DECISION, "decision", data)
    return record


# ---------------------------------------------------------------------------- state


class BalancerState(Record):
    """What a successor needs to continue. Topic `state`, key = "balancer:state"."""

    kind: Literal["balancer"] = "balancer"
    mode: Annotated[Mode, Field(strict=False)]
    frozen: bool
    freeze_reason: str = ""
    epoch: Count
    round: Count
    arrived: list[tuple[Shard, Name, float]] = []
    """(shard, cluster, model time) of each newest arrival of slots at a cluster: the cooldown."""
    moved: list[tuple[Shard, float]] = []
    """(shard, model time) of each shard's last move: the dwell."""
    joined: list[Shard] = []
    """Shards whose slots still have to follow a new home."""
    answered: list[Name] = []
    """Ids of the newest commands applied, so that each is applied once."""
    offsets: dict[str, list[tuple[Count, Count]]] = {}
    """topic -> (partition, next offset) of what this state includes."""


class SharesState(Record):
    """Shards' parts of each series. Topic `state`, key = "shares:<series>"."""

    kind: Literal["shares"] = "shares"
    series: str
    step: Count
    share: list[Fraction]


_STATE: TypeAdapter[BalancerState | SharesState] = TypeAdapter(
    Annotated[BalancerState | SharesState, Field(discriminator="kind")]
)


def state_record(data: bytes | None) -> BalancerState | SharesState:
    """Returns the state record in `data`; raises InvalidRecordError."""
    record: BalancerState | SharesState = _parse(_STATE, "state record", data)
    return record
