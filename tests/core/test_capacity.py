"""What a cluster can take and what waits in its topic, from registry, reporters and offsets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from schemas.errors import InvalidRecordError, UnknownClusterError
from schemas.records import Cluster, ClusterMetrics
from streams.core.capacity import CapacityBook
from streams.core.planner import ClusterInput

ALWAYS = np.ones(11)


def book(capacity: float = 100.0) -> CapacityBook:
    """Returns a book with the cluster `a`, registered with `capacity` cost units/s."""
    made = CapacityBook()
    made.register(Cluster(name="a", topic="t", group="g", capacity_cps=capacity, partitions=2))
    return made


def metrics(at: float, instance: str = "a-1", **fields: float | bool) -> ClusterMetrics:
    return ClusterMetrics.model_validate(
        {"cluster": "a", "instance": instance, "at": at, "interval_s": 10.0, **fields}
    )


def read(made: CapacityBook, now: float, factor: np.ndarray = ALWAYS, mean_cost: float = 1.0) -> ClusterInput:
    return made.input("a", now, factor, mean_cost, 1.0)


def steady(made: CapacityBook, until: float, rps: float, done_rps: float, markers: float = 1.0) -> None:
    """Reads offsets every 10 s from 0 on: `rps` forwarded to partition 0, each taking `markers` offsets."""
    for at in np.arange(0.0, until + 1, 10.0):
        offsets = {0: int(at * done_rps * markers)}
        made.lag("a", float(at), offsets, {0: int(at * rps * markers)}, [int(at * rps)])


def test_without_reporters_capacity_is_what_was_registered() -> None:
    """The registry and the group's lag are enough to balance on."""
    made = book()
    made.lag("a", 0.0, {0: 10, 1: 5}, {0: 10, 1: 5}, [10, 5])
    seen = read(made, 5.0)
    assert (seen.known, seen.backlog, seen.closed) == (True, 0.0, "")
    assert seen.capacity.tolist() == [100.0] * 11


def test_a_cluster_is_not_known_before_its_lag_was_read() -> None:
    """No lag, no third guess: neither idle nor loaded."""
    assert read(book(), 0.0).known is False
    assert book().backlog("a", 0.0) is None


def test_a_cluster_is_not_known_when_its_lag_is_older_than_three_rounds() -> None:
    """30 s after the last reading it counts, 31 s after it does not."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 0}, [0])
    assert (read(made, 30.0).known, read(made, 31.0).known) == (True, False)


def test_transaction_markers_do_not_count_as_requests() -> None:
    """1.47 offsets per request: a lag of 1,470 offsets is 1,000 requests that wait."""
    made = book()
    steady(made, until=60.0, rps=100.0, done_rps=100.0, markers=1.47)
    end = int(60 * 147.0)
    made.lag("a", 70.0, {0: end}, {0: end + 1_470}, [7_000])
    assert made.backlog("a", 70.0) == pytest.approx(1_000, rel=0.01)
    assert read(made, 70.0, mean_cost=2.5).backlog == pytest.approx(2_500, rel=0.01)


def test_the_ratio_of_markers_holds_per_partition() -> None:
    """Partition 0 has no markers, partition 1 two offsets per request."""
    made = book()
    made.lag("a", 0.0, {0: 0, 1: 0}, {0: 0, 1: 0}, [0, 0])
    made.lag("a", 60.0, {0: 0, 1: 0}, {0: 100, 1: 100}, [100, 50])
    assert made.backlog("a", 60.0) == pytest.approx(150)


def test_the_marker_of_the_last_transaction_is_no_backlog() -> None:
    """An idle partition whose group stands before the last marker has a lag of one for ever."""
    made = book()
    made.lag("a", 0.0, {0: 99, 1: 49}, {0: 100, 1: 50}, [80, 40])
    made.lag("a", 60.0, {0: 99, 1: 49}, {0: 100, 1: 50}, [80, 40])
    assert made.backlog("a", 60.0) == 0.0


def test_a_backlog_does_not_vanish_when_requests_stop() -> None:
    """Nothing was forwarded for two minutes: what waits still waits, at the last known ratio."""
    made = book()
    steady(made, until=60.0, rps=100.0, done_rps=50.0, markers=2.0)
    for at in range(70, 190, 10):
        made.lag("a", float(at), {0: 6_000}, {0: 12_000}, [6_000])
    assert made.backlog("a", 180.0) == pytest.approx(3_000)


def test_a_backlog_is_never_more_than_the_lag() -> None:
    """Reports of forwarded requests that run ahead of the offsets read do not inflate it."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 0}, [0])
    made.lag("a", 10.0, {0: 0}, {0: 50}, [500])
    assert made.backlog("a", 10.0) == 50.0


def test_a_group_that_never_committed_has_everything_to_do() -> None:
    """Kafka reports -1001 for it, or nothing."""
    made = book()
    made.lag("a", 0.0, {0: -1001}, {0: 40, 1: 60}, [])
    assert made.backlog("a", 0.0) == 100.0


def test_throughput_follows_the_committed_offsets() -> None:
    """80 requests/s done of 100 that arrive, with markers, at a mean cost of 2."""
    made = book()
    steady(made, until=120.0, rps=100.0, done_rps=80.0, markers=1.47)
    assert made.processed_cps("a", 2.0) == pytest.approx(160, rel=0.01)


def test_rare_commits_give_no_throughput() -> None:
    """A group that commits every 30 s aliases with readings every 10 s: no figure is better."""
    made = book()
    for at in range(0, 130, 10):
        made.lag("a", float(at), {0: at // 30 * 3_000}, {0: at * 100}, [at * 100])
    assert made.processed_cps("a", 1.0) is None


def test_reported_capacities_add_up_over_instances() -> None:
    """Two instances of 30 make 60, below the registered 100; more than registered does not count."""
    made = book()
    made.metrics(metrics(0.0, "a-1", capacity_cps=30.0))
    made.metrics(metrics(0.0, "a-2", capacity_cps=30.0))
    assert read(made, 5.0).capacity[0] == 60.0
    made.metrics(metrics(5.0, "a-2", capacity_cps=300.0))
    assert read(made, 5.0).capacity[0] == 100.0


def test_a_stale_reporter_only_removes_what_it_reported() -> None:
    """31 s after its last record its capacity and memory count no more; the cluster stays known."""
    made = book()
    made.metrics(metrics(0.0, capacity_cps=40.0, memory=0.99))
    made.lag("a", 25.0, {0: 0}, {0: 0}, [0])
    fresh, stale = read(made, 30.0), read(made, 31.0)
    assert (fresh.capacity[0], fresh.closed, fresh.known) == (40.0, "memory", True)
    assert (stale.capacity[0], stale.closed, stale.known) == (100.0, "", True)


def test_a_slow_reporter_is_stale_after_a_minute_at_the_latest() -> None:
    """Three of its intervals would be 6 minutes."""
    made = book()
    made.metrics(metrics(0.0, memory=0.99).model_copy(update={"interval_s": 120.0}))
    assert (read(made, 60.0).closed, read(made, 61.0).closed) == ("memory", "")


def test_a_late_record_does_not_replace_a_newer_one() -> None:
    """Records of one instance can arrive out of order after a reporter's retry."""
    made = book()
    made.metrics(metrics(10.0, memory=0.5))
    made.metrics(metrics(0.0, memory=0.99))
    assert read(made, 12.0).closed == ""


def test_a_busy_cpu_lowers_the_capacity_to_what_was_measured() -> None:
    """60 cost units/s at .8 of the CPU: 75 is all there is, whatever was registered."""
    made = book(capacity=100.0)
    steady(made, until=60.0, rps=60.0, done_rps=60.0)
    for at in range(0, 70, 10):
        made.metrics(metrics(float(at), cpu=0.8))
    assert read(made, 60.0).capacity[0] == pytest.approx(75, rel=0.01)


def test_an_idle_cpu_says_nothing_of_capacity() -> None:
    """Below .6 fixed work weighs too much: 10 cost units/s at .5 are not a capacity of 20."""
    made = book()
    steady(made, until=60.0, rps=10.0, done_rps=10.0)
    for at in range(0, 70, 10):
        made.metrics(metrics(float(at), cpu=0.5))
    assert read(made, 60.0).capacity[0] == 100.0


def test_a_jump_of_load_is_not_taken_for_a_loss_of_capacity() -> None:
    """Throughput and CPU are means of the same minute: .9 for the last 10 s changes little."""
    made = book()
    done = 0
    for at in range(0, 70, 10):
        made.lag("a", float(at), {0: done}, {0: done}, [done])
        done += 20 * 10 if at < 50 else 90 * 10
        made.metrics(metrics(float(at), cpu=0.2 if at <= 50 else 0.9))
    assert read(made, 60.0).capacity[0] == 100.0


def test_an_announced_loss_counts_from_its_start() -> None:
    """70 % from the third column on, of the registered and of the reported capacity."""
    made = book()
    factor = np.array([1.0, 1.0, *[0.7] * 9])
    assert read(made, 0.0, factor).capacity.tolist() == pytest.approx([100.0, 100.0, *[70.0] * 9])
    made.metrics(metrics(0.0, capacity_cps=50.0))
    assert read(made, 0.0, factor).capacity.tolist() == pytest.approx([50.0, 50.0, *[35.0] * 9])


def test_an_announced_loss_under_way_is_not_counted_twice() -> None:
    """The reporter says 70 already; 70 % of the registered 100 is the same loss."""
    made = book()
    made.metrics(metrics(0.0, capacity_cps=70.0))
    assert read(made, 0.0, np.full(11, 0.7)).capacity.tolist() == pytest.approx([70.0] * 11)


def test_latency_without_backlog_closes_a_cluster() -> None:
    """It answers in 3 s and nothing waits: something else is wrong with it."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 0}, [0])
    made.metrics(metrics(0.0, latency_s=3.0))
    assert read(made, 0.0).closed == "latency"


def test_latency_with_backlog_does_not_close_a_cluster() -> None:
    """500 requests wait at 100/s: five seconds explain the latency, and the load score counts them."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 500}, [0])
    made.metrics(metrics(0.0, latency_s=3.0))
    assert read(made, 0.0).closed == ""


def test_estimated_latency_closes_nothing() -> None:
    """It is computed from the lag, which counts already."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 0}, [0])
    made.metrics(metrics(0.0, latency_s=3.0, latency_estimated=True))
    assert read(made, 0.0).closed == ""


def test_an_unregistered_cluster_is_an_error_with_the_next_step() -> None:
    """In metrics, lag and input; after `forget` as well."""
    made = book()
    made.forget("a")
    with pytest.raises(UnknownClusterError, match="foreshard clusters add a"):
        made.metrics(metrics(0.0))
    with pytest.raises(UnknownClusterError):
        made.lag("a", 0.0, {}, {}, [])
    with pytest.raises(UnknownClusterError):
        read(made, 0.0)


def test_registering_again_changes_the_capacity_and_keeps_what_was_read() -> None:
    """A new guess of the capacity does not make the cluster unknown."""
    made = book()
    made.lag("a", 0.0, {0: 0}, {0: 7}, [7])
    made.register(Cluster(name="a", topic="t", group="g", capacity_cps=80.0, partitions=2))
    seen = read(made, 0.0)
    assert (seen.capacity[0], seen.backlog, seen.known) == (80.0, 7.0, True)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1"])
def test_metrics_that_are_no_numbers_do_not_get_here(value: str) -> None:
    """The record refuses NaN, infinity and negative values, so no capacity is ever NaN."""
    text = f'{{"cluster":"a","instance":"i","at":0.0,"interval_s":10.0,"capacity_cps":{value}}}'
    with pytest.raises(InvalidRecordError):
        ClusterMetrics.from_json(text)
    assert not any(math.isnan(c) for c in read(book(), 0.0, np.zeros(11)).capacity)
