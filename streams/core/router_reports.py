"""What the routers' newest load reports say of handoffs and busy keys: shown to people, used by no round."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.records import HandoffLoad, LoadReport
from streams.core.load import SILENT_S


@dataclass(frozen=True)
class BusyKey:
    """One of the busiest keys, by its hash: its value is in no report."""

    hash: str
    slot: int
    """Global slot."""
    rps: float
    """Requests/s, estimated from a sample."""


class RouterReports:
    """The newest report of each router; what one says is forgotten after SILENT_S without another."""

    def __init__(self) -> None:
        self._newest: dict[str, LoadReport] = {}

    def add(self, report: LoadReport) -> None:
        """Takes a report; an older one than the router's newest changes nothing."""
        old = self._newest.get(report.router)
        if old is None or old.window_to < report.window_to:
            self._newest[report.router] = report
        self._newest = {router: new for router, new in self._newest.items() if _fresh(new, report.window_to)}

    def handoffs(self, now: float) -> HandoffLoad:
        """Returns what is on its way to another cluster, the sum over the routers that report."""
        loads = [report.handoffs for report in self._newest.values() if _fresh(report, now)]
        return HandoffLoad(
            watch=sum(load.watch for load in loads),
            hold=sum(load.hold for load in loads),
            held_requests=sum(load.held_requests for load in loads),
        )

    def busy_keys(self, now: float, most: int) -> list[BusyKey]:
        """Returns the busiest keys of the newest windows, busiest first."""
        rates: dict[tuple[str, int], float] = {}
        for report in self._newest.values():
            if _fresh(report, now):
                seconds = report.window_to - report.window_from
                for key in report.hot_keys:
                    place = (key.hash, key.slot)
                    rates[place] = rates.get(place, 0.0) + key.requests / seconds
        busiest = sorted(rates.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [BusyKey(name, slot, rps) for (name, slot), rps in busiest]


def _fresh(report: LoadReport, now: float) -> bool:
    return report.window_to > now - SILENT_S
