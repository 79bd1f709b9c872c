"""What the balancer asks the broker for again and again: backends' progress, routers' settled versions."""

from __future__ import annotations

from collections.abc import Callable

from streams.balancer_takeover import Settings
from streams.core.rounds import Rounds
from streams.progress import Progress, ProgressWatcher
from streams.settled import Notes, RoutersGroup, SettledWatcher


class Watch:
    """Two threads that ask, and the newest answers of each, for the loop to hand over."""

    def __init__(self, settings: Settings, fail: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._fail = fail
        self._progress: ProgressWatcher | None = None
        self._settled: SettledWatcher | None = None
        self._lags: dict[str, Progress] = {}
        self._notes: Notes | None = None

    def start(self, rounds: Rounds) -> None:
        """Begins to ask, twice per round."""
        settings = self._settings
        interval_s = settings.clock.wall_duration(settings.rounds.round_s) / 2
        routers = RoutersGroup(settings.router_group, settings.ingest, rounds.ingest_partitions)
        self._progress = ProgressWatcher(settings.kafka, interval_s, self._on_progress, self._fail)
        self._settled = SettledWatcher(settings.kafka, routers, interval_s, self._on_notes, self._fail)
        self.follow(rounds)
        self._progress.start()
        self._settled.start()

    def follow(self, rounds: Rounds) -> None:
        """Asks for the clusters as they are registered now."""
        if self._progress is not None:
            self._progress.watch(rounds.mapped())

    def hand_over(self, rounds: Rounds, now: float) -> None:
        """Gives the core what was answered since it was last called."""
        lags, self._lags = self._lags, {}
        for reading in list(lags.values()):
            rounds.on_lag(reading.cluster, reading.committed, reading.end, now)
        if self._notes is not None:
            rounds.on_settled(self._notes.settled)

    def stop(self) -> None:
        """Ends the threads, without waiting."""
        for thread in (self._progress, self._settled):
            if thread is not None:
                thread.stop(0.0)
        self._progress = self._settled = None
        self._lags, self._notes = {}, None

    def _on_progress(self, reading: Progress) -> None:
        self._lags[reading.cluster] = reading

    def _on_notes(self, notes: Notes) -> None:
        self._notes = notes
