"""Load books: rates from reports, steps from history; neither depends on the order of arrival."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.counts import Coverage
from streams.core.load import LoadBook
from streams.core.series import SeriesRows
from streams.core.steps import StepBook
from tests.core.load_records import SERIES, history, part, report

SHARDS = 4


def book(partitions: int = 1) -> LoadBook:
    return LoadBook(SeriesRows(SERIES), SHARDS, partitions)


# ---------------------------------------------------------------------------- load reports


def test_steady_load_is_its_rate() -> None:
    """50 requests per 5 s are 10 requests/s, in the right cell."""
    load = book()
    for window in range(10):
        load.add(report(window, part(0, window * 50, (1, 2, 50))))
    rates = load.rates(50.0)
    assert rates is not None
    assert rates[1, 2] == pytest.approx(10.0)
    assert rates.sum() == pytest.approx(10.0)


def test_a_jump_is_seen_at_once_and_a_drop_smoothly() -> None:
    """Up: the mean of the newest 10 s. Down: the EWMA, which still remembers."""
    load = book()
    for window in range(20):
        load.add(report(window, part(0, window * 50, (0, 0, 50))))
    offset = 20 * 50
    for window in (20, 21):
        load.add(report(window, part(0, offset, (0, 0, 500))))
        offset += 500
    up = load.rates(110.0)
    assert up is not None
    assert up[0, 0] == pytest.approx(100.0)
    for window in (22, 23):
        load.add(report(window, part(0, offset, stop=offset)))
    down = load.rates(120.0)
    assert down is not None
    assert 10.0 < down[0, 0] < 60.0


def test_the_larger_load_is_chosen_per_shard_by_cost() -> None:
    """costs @ rates is the larger of newest and smoothed load of the shard, not cell by cell."""
    load = book()
    for window in range(20):
        load.add(report(window, part(0, window * 50, (0, 0, 50))))
    for window in (20, 21):
        load.add(report(window, part(0, window * 50, (1, 0, 50))))
    rates = load.rates(110.0, np.array([1.0, 5.0]))
    assert rates is not None
    assert rates[:, 0].tolist() == pytest.approx([0.0, 10.0])


def test_nothing_is_known_before_every_partition_was_heard() -> None:
    """One of two partitions has not reported a whole window: unknown is not zero."""
    load = book(partitions=2)
    load.add(report(0, part(0, 0, (0, 0, 50))))
    assert load.rates(5.0) is None
    assert load.unknown_partitions(5.0) == [1]


def test_a_late_partition_keeps_its_last_value_and_becomes_unknown_after_30_s() -> None:
    """Partition 1 falls silent at 10 s: its 10 requests/s count on, and it is named after 40 s."""
    load = book(partitions=2)
    for window in range(2):
        load.add(report(window, part(0, window * 50, (0, 0, 50)), part(1, window * 50, (0, 1, 50))))
    for window in range(2, 9):
        load.add(report(window, part(0, window * 50, (0, 0, 50))))
    rates = load.rates(39.0)
    assert rates is not None
    assert rates[0, 1] == pytest.approx(10.0)
    assert load.unknown_partitions(39.0) == []
    assert load.unknown_partitions(41.0) == [1]
    assert load.rates(200.0) is None


def test_a_lost_range_is_closed_at_its_neighbours_rate() -> None:
    """A killed router's windows 4 and 5 never come: 10 requests/s before and 20 after make 15 there."""
    load = book()
    for window in range(4):
        load.add(report(window, part(0, window * 50, (0, 0, 50))))
    load.add(report(6, part(0, 400, (0, 0, 100))))
    (old, _, _), *_ = [entry for entry in load._partitions[0].weighted() if entry[2] == 0.5]
    assert old.high == 200
    rates = load.rates(35.0)
    assert rates is not None
    assert rates[0, 0] == pytest.approx((15.0 + 20.0) / 2)


def test_windows_without_reports_are_zero_where_offsets_join() -> None:
    """Offsets 200 follow 200: nothing was forwarded in between."""
    load = book()
    for window in range(4):
        load.add(report(window, part(0, window * 50, (0, 0, 50))))
    load.add(report(6, part(0, 200, stop=200)))
    newest, _ = load._sums()
    assert newest[0, 0] == 0.0


def test_a_report_of_several_windows_is_spread() -> None:
    """A slow router reports 15 s at once: the same rate as three reports."""
    load = book()
    load.add(report(0, part(0, 0, (0, 0, 150)), windows=3))
    rates = load.rates(15.0)
    assert rates is not None
    assert rates[0, 0] == pytest.approx(10.0)


def test_two_routers_share_a_window_at_a_rebalance() -> None:
    """The old owner reports half the window, the new one the rest: together they are one window."""
    load = book()
    load.add(report(0, part(0, 0, (0, 0, 50))))
    load.add(report(1, part(0, 50, (0, 0, 20)), windows=0.4))
    half = load.rates(9.0)
    load.add(report(1, part(0, 70, (0, 0, 30))))
    whole = load.rates(10.0)
    assert half is not None
    assert half[0, 0] == pytest.approx(10.0)
    assert whole is not None
    assert whole[0, 0] == pytest.approx(10.0)


def test_unknown_names_are_pooled_or_ignored() -> None:
    """A type this process has no series for counts under `*`, or is ignored and counted."""
    pooled, closed = (LoadBook(SeriesRows(names), SHARDS, 1) for names in (["a", "*"], ["a"]))
    for load in (pooled, closed):
        load.add(report(0, part(0, 0, (0, 0, 5), (1, 1, 10)), names=["a", "new"]))
    rates, without = pooled.rates(5.0), closed.rates(5.0)
    assert rates is not None
    assert rates[1, 1] == pytest.approx(2.0)
    assert without is not None
    assert without.sum() == pytest.approx(1.0)
    assert (pooled.ignored, closed.ignored) == (0, 10)


def test_counts_outside_the_known_partitions_and_shards_are_ignored() -> None:
    """Partition 7 of 1 and shard 9 of 4 cannot be placed."""
    load = book()
    load.add(report(0, part(7, 0, (0, 0, 5)), part(0, 0, (0, 9, 3), (0, 1, 5))))
    rates = load.rates(5.0)
    assert rates is not None
    assert rates.sum() == pytest.approx(1.0)
    assert load.ignored == 8


def test_hot_slots_are_rates_of_the_last_30_s() -> None:
    """30 requests in one of the last six windows are 1 request/s; older ones are gone."""
    load = book()
    load.add(report(0, part(0, 0, (0, 0, 30)), hot=[(7, 30)]))
    for number in range(1, 6):
        load.add(report(number, part(0, number * 30, (0, 0, 30))))
    assert load.hot_slots(30.0) == {7: pytest.approx(1.0)}
    load.add(report(6, part(0, 180, (0, 0, 30))))
    assert load.hot_slots(35.0) == {}


def test_what_of_a_hot_slot_is_not_reported_yet_is_not_zero() -> None:
    """Six a second are six a second with one report or two, 10 s after the last; a silent router fades."""
    load = book()
    load.add(report(0, part(0, 0, (0, 0, 30)), hot=[(7, 30)]))
    assert load.hot_slots(5.0) == {7: pytest.approx(6.0)}
    load.add(report(1, part(0, 30, (0, 0, 30)), hot=[(7, 30)]))
    load.add(report(1, part(0, 30, (0, 0, 30)), hot=[(7, 30)]))
    assert load.hot_slots(20.0) == {7: pytest.approx(6.0)}
    assert load.hot_slots(45.0) == {7: pytest.approx(60 / 25)}
    assert load.hot_slots(70.0) == {}


def test_a_slot_that_becomes_hot_is_so_within_10_s() -> None:
    """2 requests/s for 20 s, then 20: the newest 10 s count, as they do for its shard."""
    load = book()
    for number in range(6):
        count = 100 if number > 3 else 10
        load.add(report(number, part(0, number * 100, (0, 0, count)), hot=[(7, count)]))
    assert load.hot_slots(31.0) == {7: pytest.approx(20.0)}


def test_forwarded_adds_up_per_output_partition() -> None:
    """Cumulative, longer lists extend it, a cluster never heard of has none."""
    load = book()
    load.add(report(0, part(0, 0, (0, 0, 3)), clusters={"c1": [1, 2]}))
    load.add(report(1, part(0, 3, (0, 0, 6)), clusters={"c1": [0, 1, 5]}))
    assert load.forwarded("c1").tolist() == [1, 3, 5]
    assert load.forwarded("c9").tolist() == []


REPORTS = [
    report(
        window,
        part(0, window * 50, (0, window % SHARDS, 30), (1, 0, 20)),
        part(1, window * 10, (1, 3, 10)),
        clusters={"c1": [window, 1]},
    )
    for window in range(12)
]


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=12))
def test_neither_order_nor_repetition_of_reports_matters(order: list[int], again: list[int]) -> None:
    """The same reports, shuffled and partly sent again, give the same rates and forwarded counts."""
    straight, shuffled = book(2), book(2)
    for one in REPORTS:
        straight.add(one)
    for number in order + again:
        shuffled.add(REPORTS[number])
    expected, got = straight.rates(60.0), shuffled.rates(60.0)
    assert expected is not None
    assert got is not None
    np.testing.assert_allclose(got, expected)
    assert shuffled.forwarded("c1").tolist() == straight.forwarded("c1").tolist()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=20))
def test_coverage_counts_every_offset_once(pieces: list[tuple[int, int]]) -> None:
    """The fresh parts of any overlapping ranges add up to the offsets in their union."""
    coverage, union, fresh = Coverage(), set[int](), 0.0
    for start, length in pieces:
        fresh += coverage.add(start, start + length) * length
        union |= set(range(start, start + length))
    assert fresh == pytest.approx(len(union))


# ---------------------------------------------------------------------------- steps


def test_a_step_closes_when_every_partition_is_covered() -> None:
    """Two routers, one partition each: the step closes with the second record, summed."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 2)
    steps.add(history(10, (0, 0, 5), ranges=[(0, 0, 5)]))
    assert steps.close(331.0) == []
    steps.add(history(10, (0, 0, 7), ranges=[(1, 0, 7)]))
    (step,) = steps.close(331.0)
    assert step.index == 10
    assert step.counts is not None
    assert step.counts[0, 0] == 12.0
    assert steps.close(331.0) == []


def test_a_later_record_covers_earlier_steps_where_offsets_join() -> None:
    """Partition 1's record for step 11 continues where step 9 ended: it had nothing in step 10."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 2)
    steps.add(history(9, (0, 0, 4), ranges=[(0, 0, 2), (1, 0, 2)]))
    steps.add(history(10, (0, 0, 5), ranges=[(0, 2, 7)]))
    steps.add(history(11, (0, 0, 5), ranges=[(1, 2, 7)]))
    closed = steps.close(335.0)
    assert [step.index for step in closed] == [9, 10]
    assert closed[1].counts is not None
    assert closed[1].counts.sum() == 5.0


def test_a_lost_part_is_filled_at_the_mean_of_the_others() -> None:
    """Partition 1's offsets 2 to 9 were never reported: step 10 is doubled from partition 0."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 2)
    steps.add(history(9, (0, 0, 4), ranges=[(0, 0, 2), (1, 0, 2)]))
    steps.add(history(10, (0, 0, 5), ranges=[(0, 2, 7)]))
    steps.add(history(11, (0, 0, 5), ranges=[(1, 9, 14), (0, 7, 7)]))
    closed = steps.close(10_000.0)
    assert closed[1].counts is not None
    assert closed[1].counts[0, 0] == 10.0


def test_a_missing_partition_is_waited_for_30_s() -> None:
    """Partition 1 says nothing: closed 30 s after the step's end, at the mean of the others."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 2)
    steps.add(history(10, (0, 0, 5), ranges=[(0, 0, 5)]))
    assert steps.close(359.0) == []
    (step,) = steps.close(360.0)
    assert step.counts is not None
    assert step.counts[0, 0] == 10.0
    steps.add(history(10, (0, 0, 5), ranges=[(1, 0, 5)]))
    assert steps.late == 1


def test_steps_that_a_predecessor_learned_are_late() -> None:
    """After `resume` at step 10 the next step is 11, whatever was read before or comes after."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    steps.add(history(9, (0, 0, 4)))
    steps.resume(10)
    for number in (10, 11, 12):
        steps.add(history(number, (0, 0, 5), ranges=[(0, 0, 5)]))
    assert steps.waiting(390.0) == 2
    assert [step.index for step in steps.close(10_000.0, most=2)] == [11, 12]
    assert steps.late == 2


def test_skipped_steps_are_not_closed() -> None:
    """Two of five are passed over; the rest come as they are."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    assert steps.waiting(10_000.0) == 0
    for number in range(10, 16):
        steps.add(history(number, (0, 0, 5), ranges=[(0, 0, 5)]))
    assert steps.waiting(480.0) == 6
    assert [step.index for step in steps.close(480.0, most=1)] == [10]
    steps.skip(2)
    assert steps.waiting(480.0) == 3
    assert [step.index for step in steps.close(480.0)] == [13, 14, 15]


def test_a_gap_is_unknown_not_zero() -> None:
    """Steps without any record come out in order as None."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    steps.add(history(10, (0, 0, 5)))
    steps.add(history(13, (0, 0, 6)))
    closed = steps.close(420.0)
    assert [step.index for step in closed] == [10, 11, 12, 13]
    assert [step.counts is None for step in closed] == [False, True, True, False]


def test_an_idle_step_is_zero_not_unknown() -> None:
    """A record without requests says that nothing arrived."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    steps.add(history(10))
    (step,) = steps.close(330.0)
    assert step.counts is not None
    assert step.counts.sum() == 0.0


def test_records_without_ranges_count_as_they_are() -> None:
    """History written in advance names no offsets: it closes after 30 s and is not scaled."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 12)
    steps.add(history(10, (0, 0, 5), ranges=()))
    (step,) = steps.close(360.0)
    assert step.counts is not None
    assert step.counts.sum() == 5.0


def test_stored_history_comes_out_in_bounded_lots() -> None:
    """`most` steps at a time; a shorter list says that there is no more."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    for number in range(100):
        steps.add(history(number, (0, 0, number + 1)))
    lots = [steps.close(1e5, 60), steps.close(3000.0, 60)]
    assert [len(lot) for lot in lots] == [60, 40]


def test_history_older_than_the_topic_keeps_is_ignored() -> None:
    """A record of 1970 does not make two million empty steps."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    steps.add(history(1, (0, 0, 5)))
    steps.add(history(200_000, (0, 0, 5)))
    assert len(steps.close(200_000 * 30.0 + 90.0, 1_000_000)) < 81_000
    assert steps.late == 1


def test_history_of_another_step_length_is_ignored() -> None:
    """A 60-s step cannot be added to 30-s steps."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 1)
    steps.add(history(1, (0, 0, 5)).model_copy(update={"step_s": 60.0}))
    assert steps.late == 1
    assert steps.close(1e4) == []


HISTORY = [
    history(step, (step % 2, router, 1 + step), ranges=[(router, step * 10, step * 10 + 10)])
    for step in range(8)
    for router in range(3)
]


@given(st.permutations(range(len(HISTORY))))
def test_closed_steps_add_up_to_the_records_in_any_order(order: list[int]) -> None:
    """Whatever the order of arrival, every step is the sum of its records, closed once, in order."""
    steps = StepBook(SeriesRows(SERIES), SHARDS, 3)
    for number in order:
        steps.add(HISTORY[number])
    closed = steps.close(240.0)
    assert [step.index for step in closed] == list(range(8))
    for step in closed:
        assert step.counts is not None
        assert step.counts[step.index % 2].tolist() == [1.0 + step.index] * 3 + [0.0]
