"""What routers say of handoffs and busy keys, summed over those that are alive."""

from __future__ import annotations

from schemas.records import HandoffLoad, HotKeyLoad, LoadReport
from streams.core.router_reports import BusyKey, RouterReports


def report(router: str, window: int, load: HandoffLoad, *keys: tuple[str, int, int]) -> LoadReport:
    """A report of the 5-s window number `window`; keys are (hexadecimal digit, slot, requests)."""
    return LoadReport(
        router=router,
        window_from=window * 5.0,
        window_to=(window + 1) * 5.0,
        epoch=1,
        version=1,
        series=[],
        partitions=[],
        hot_keys=[HotKeyLoad(hash=digit * 16, slot=slot, requests=count) for digit, slot, count in keys],
        handoffs=load,
    )


def test_handoffs_are_the_sum_of_every_routers_newest_report() -> None:
    """An older report that comes late changes nothing; a new one replaces the last."""
    reports = RouterReports()
    assert reports.handoffs(0.0) == HandoffLoad()
    reports.add(report("a", 2, HandoffLoad(watch=9, hold=9, held_requests=9)))
    reports.add(report("a", 3, HandoffLoad(watch=1, hold=2, held_requests=30)))
    reports.add(report("b", 3, HandoffLoad(watch=4, hold=0, held_requests=0)))
    reports.add(report("a", 2, HandoffLoad(watch=9, hold=9, held_requests=9)))
    assert reports.handoffs(20.0) == HandoffLoad(watch=5, hold=2, held_requests=30)


def test_a_router_that_is_gone_holds_nothing() -> None:
    """After 30 s without a report it is not counted, whether others report or nobody does."""
    reports = RouterReports()
    reports.add(report("a", 0, HandoffLoad(hold=7)))
    assert reports.handoffs(34.9).hold == 7
    assert reports.handoffs(35.0).hold == 0
    reports.add(report("b", 7, HandoffLoad(hold=1)))
    assert reports.handoffs(34.9).hold == 1


def test_busy_keys_are_rates_over_all_routers() -> None:
    """The same key in two routers' partitions counts once, with both rates; the busiest come first."""
    reports = RouterReports()
    reports.add(report("a", 0, HandoffLoad(), ("a", 1, 50), ("b", 2, 100)))
    reports.add(report("b", 0, HandoffLoad(), ("a", 1, 75), ("c", 3, 5)))
    assert reports.busy_keys(5.0, 2) == [BusyKey("a" * 16, 1, 25.0), BusyKey("b" * 16, 2, 20.0)]
    assert reports.busy_keys(60.0, 2) == []
