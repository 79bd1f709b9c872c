"""What failed transactions mean: a poison record, a reason to pause, or a reason to give up."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from schemas.errors import BadRequest, ProtocolError
from streams import metrics
from streams.core.poison import Place, PoisonHunt
from streams.core.routing import Routed
from streams.router_checks import TopicWatch
from streams.router_transactions import RecordTooLargeError, TransactionFailedError

log = logging.getLogger(__name__)

BACK_OFF_S = (0.05, 5.0)
"""First and longest pause after a failed transaction; doubled each time in a row."""

FAILURES = 3
"""Failures in a row, with the broker reachable, after which going on would only hide them."""


class Failures:
    """Remembers the failures since the last commit, and the record that is hunted for."""

    def __init__(self, ingest: str, watch: TopicWatch) -> None:
        self._ingest = ingest
        self._watch = watch
        self._in_a_row = 0
        self.hunt = PoisonHunt()
        self.pause_s = BACK_OFF_S[0]
        """How long to wait before the next attempt."""

    def committed(self, routed: Routed) -> None:
        """Takes in a committed batch."""
        self._in_a_row, self.pause_s = 0, BACK_OFF_S[0]
        if routed.origins:
            self.hunt.committed(len(routed.origins), routed.positions)

    def failed(self, failure: TransactionFailedError, places: list[Place], needed: Mapping[str, int]) -> None:
        """Takes in a failed transaction of these records; raises ProtocolError when there is no way on.

        `needed` are the topics that it may have gone to, with their partitions.
        """
        metrics.TRANSACTIONS_FAILED.labels(failure.kind.value).inc()
        log.debug("transaction failed: %s", failure)
        refused = failure.refused
        if refused is not None and places:
            # The broker is well; the hunt takes some attempts.
            self._in_a_row, self.pause_s = 0, BACK_OFF_S[0]
            self._refused(places, refused, str(failure))
            return
        self.pause_s = min(self.pause_s * 2, BACK_OFF_S[1])
        if not failure.membership:
            self._count(failure, needed)

    def too_large(self, routed: Routed, failure: RecordTooLargeError) -> None:
        """Condemns the record that the client itself refused to produce."""
        self._refused([routed.origins[failure.index]], BadRequest.TOO_LARGE, str(failure))

    def _refused(self, places: list[Place], bad: BadRequest, reason: str) -> None:
        if not self.hunt.refused(places, bad, reason):
            place = f"{self._ingest}[{places[0][0]}]@{places[0][1]}"
            raise ProtocolError(f"the dead-letter topic refuses even the headers of {place}: {reason}")

    def _count(self, failure: TransactionFailedError, needed: Mapping[str, int]) -> None:
        """Gives up after FAILURES in a row that neither an absent broker nor topic explains."""
        if not self._watch.refresh() or self._watch.missing(needed):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= FAILURES:
            raise ProtocolError(f"{self._in_a_row} transactions failed in a row, the last one: {failure}")
