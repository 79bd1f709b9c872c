"""Whatever the topics hold, the balancer goes on: random records against all of its promises."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from schemas import topics
from schemas.errors import InvalidRecordError
from schemas.records import (
    SLOTS,
    ClusterMetrics,
    Event,
    MappingMeta,
    MappingRecord,
    check_tiles,
    command_record,
    load_record,
)
from streams.core.mapping import SnapshotBuilder
from streams.core.out import Out
from tests.core.rounds_world import SHARDS, START, World, even, mapping_of, started, successor

COUNT = st.integers(0, 50) | st.sampled_from([2**31, 2**53 - 1, 2**53, -1])
TIME = st.floats(START - 300, START + 600) | st.sampled_from([0.0, -1e308, 1e308, START])
NAME = st.sampled_from(["c1", "c2", "c3", "c9", "", "ü"])
NUMBER = st.floats(0, 500) | st.sampled_from([1e-9, 1e12, 1e308, -1.0, float("nan"), float("inf")])


@st.composite
def counts(draw: st.DrawFn) -> dict[str, object]:
    size = draw(st.integers(0, 4))
    column = st.lists(st.integers(0, 3) | st.just(10**30), min_size=size, max_size=size)
    shard = st.lists(st.integers(0, SHARDS + 2), min_size=size, max_size=size)
    count = st.lists(COUNT, min_size=size, max_size=size)
    return {"series": draw(column), "shard": draw(shard), "count": draw(count)}


PARTITION = st.fixed_dictionaries(
    {
        "partition": st.integers(0, 2),
        "from_offset": COUNT,
        "to_offset": COUNT,
        "requests": COUNT,
        "bytes": st.just(0),
        "lag": st.just(0),
        "forwarded": counts(),
    }
)
REPORT = st.fixed_dictionaries(
    {
        "kind": st.just("report"),
        "router": st.just("r1"),
        "window_from": TIME,
        "window_to": TIME,
        "epoch": st.just(1),
        "version": st.just(1),
        "series": st.sampled_from([["order", "import"], ["import", "other"], []]),
        "partitions": st.lists(PARTITION, max_size=2),
        "clusters": st.dictionaries(NAME, st.lists(COUNT, max_size=4), max_size=2),
        "hot_slots": st.lists(st.tuples(st.integers(0, SHARDS * SLOTS + 600), COUNT), max_size=3),
    }
)
HISTORY = st.fixed_dictionaries(
    {
        "kind": st.just("history"),
        "router": st.just("r1"),
        "step": st.integers(int(START // 30) - 9, int(START // 30) + 9) | st.just(2**53 - 1),
        "step_s": st.sampled_from([30.0, 10.0]),
        "series": st.sampled_from([["order", "import"], ["order"]]),
        "arrivals": counts(),
    }
)
METRICS = st.fixed_dictionaries(
    {"cluster": NAME, "instance": st.just("i"), "at": TIME, "interval_s": NUMBER},
    optional={"cpu": NUMBER, "memory": NUMBER, "latency_s": NUMBER, "capacity_cps": NUMBER},
)
EVENT = st.fixed_dictionaries(
    {"id": st.sampled_from(["e1", "e2", "e3"]), "kind": st.just("k"), "start": TIME, "end": TIME},
    optional={
        "types": st.lists(st.sampled_from(["order", "import", "x"]), max_size=2),
        "cluster": NAME,
        "keys": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(["order", "x"]),
                    "values": st.lists(st.text(max_size=3) | st.integers() | st.booleans(), max_size=2),
                }
            ),
            max_size=3,
        ),
        "uplift": NUMBER,
        "requests_per_s": NUMBER,
        "capacity_factor": NUMBER,
    },
)
COMMAND = st.fixed_dictionaries(
    {
        "id": st.text("abc", max_size=2),
        "at": TIME,
        "kind": st.sampled_from(["cluster-add", "mode", "freeze", "cluster-state", "rescue", "accept-rules"]),
    },
    optional={
        "cluster": NAME,
        "topic": NAME,
        "group": NAME,
        "capacity_cps": NUMBER,
        "mode": st.sampled_from(["auto", "observe", "x"]),
        "reason": st.text(max_size=3),
        "state": st.sampled_from(["active", "draining", "down", "removed", "x"]),
        "rules_hash": st.just("ab"),
        "shards": st.sampled_from([SHARDS, 8]),
    },
)
LAG = st.tuples(NAME, st.dictionaries(st.integers(0, 2), COUNT), st.dictionaries(st.integers(0, 2), COUNT))
SIGNAL = st.one_of(
    REPORT.map(lambda fields: ("load", fields)),
    HISTORY.map(lambda fields: ("load", fields)),
    METRICS.map(lambda fields: ("metrics", fields)),
    EVENT.map(lambda fields: ("event", fields)),
    COMMAND.map(lambda fields: ("command", fields)),
    LAG.map(lambda reading: ("lag", reading)),
    st.sampled_from([5.0, 10.0, 40.0]).map(lambda seconds: ("round", seconds)),
)


def apply(world: World, what: str, value: object) -> list[Out]:
    """Gives the world one signal as it would come from its topic; a refused one changes nothing."""
    data = as_json(value) if what in ("load", "metrics", "event", "command") else b""
    rounds = world.rounds
    try:
        if what == "load":
            rounds.on_load(load_record(data))
        elif what == "metrics":
            rounds.on_metrics(ClusterMetrics.from_json(data))
        elif what == "event":
            event = Event.from_json(data)
            rounds.on_event(event.id, event)
        elif what == "command":
            return world.command(command_record(data))
        elif what == "lag":
            cluster, committed, end = value  # type: ignore[misc]
            rounds.on_lag(cluster, committed, end, world.now)
        else:
            world.now += float(value)  # type: ignore[arg-type]
            return world.evaluate()
    except InvalidRecordError:
        pass
    return []


def as_json(value: object) -> bytes:
    """Returns JSON as a careless writer would make it, NaN and all."""
    return json.dumps(value).encode()


@given(st.lists(SIGNAL, max_size=30))
def test_random_signals_never_stop_the_balancer(signals: list[tuple[str, object]]) -> None:
    """Whatever comes in, nothing but InvalidRecordError is raised, and every mapping written tiles."""
    world = started()
    for what, value in signals:
        outs = apply(world, what, value)
        assert not mapping_of(outs) or isinstance(outs[-1].record, MappingMeta)
    world.run(20, even(120.0), history=False)
    written = world.written
    reader = SnapshotBuilder()
    for record in mapping_of(written):
        if isinstance(record, MappingRecord):
            check_tiles(record.segments, record.shard)
        reader.apply(record)
    snapshot = world.rounds.snapshot
    assert reader.snapshot is not None
    assert snapshot is not None
    assert (reader.snapshot.owners == snapshot.owners).all()
    assert all(out.topic in topics.OWN_TOPICS for out in written)
    assert all(out.record is None or out.record.to_json() for out in written)
    assert successor(world).rounds.moved == world.rounds.moved
