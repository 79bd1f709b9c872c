"""Drives a router's handoffs: hands them mapping changes, progress and tails, as these come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from schemas.records import HandoffLoad
from streams import metrics
from streams.core.fences import NOTHING
from streams.core.handoff import Base, Phase
from streams.core.handoffs import Handoffs
from streams.core.routing import Routes
from streams.router_fences import WAITED_S, GroupWatch, TailReader


class HandoffDriver:
    """Used by the router's thread alone, at batch borders."""

    def __init__(
        self, kafka: Mapping[str, Any], handoffs: Handoffs, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._handoffs = handoffs
        self._groups = GroupWatch(kafka, on_failure)
        self._tails = TailReader(kafka)
        self._asked: dict[tuple[int, int, int], tuple[Base, Future[int | None]]] = {}
        """(id of a base, cluster, partition) -> the answer about its tail."""
        self.routes: Routes | None = None
        """The mapping that the handoffs follow, and by which is routed."""
        self._rescues: dict[int, int] = {}
        self._advanced = 0.0
        self.moving = False
        """Whether something is on its way."""
        self.load = HandoffLoad()
        """How much of it, as of the last look."""

    def start(self) -> None:
        """Starts to look at the clusters' groups."""
        self._groups.start()

    def stop(self) -> None:
        """Ends the threads soon, without waiting for them."""
        self._groups.stop()
        self._tails.end()

    def follow(self, routes: Routes | None) -> bool:
        """Moves the handoffs on; returns whether all partitions must be taken over anew.

        Nothing happens while something released is still to be sent: it goes first. A rescuer has
        written what no router knows of: then every fence is taken again.
        """
        handoffs = self._handoffs
        if routes is None or handoffs.released():
            return False
        now = time.monotonic()
        readings = self._groups.take()
        for reading in readings:
            handoffs.reached(reading.number, reading.offsets)
        rescued = False
        if routes is not self.routes:
            self.routes = routes
            handoffs.change(routes.aim, now)
            rescues = {number: cluster.rescues for number, cluster in handoffs.clusters().items()}
            rescued = any(count > self._rescues.get(number, count) for number, count in rescues.items())
            self._rescues = rescues
        elif not readings and now - self._advanced < WAITED_S:
            return False
        self._advanced = now
        self._take_tails()
        for seconds in handoffs.advance(now):
            metrics.HOLD_SECONDS.observe(seconds)
        self._ask_tails()
        awaited = frozenset(handoffs.awaited())
        self._groups.watch(handoffs.clusters(), awaited)
        self._show()
        return rescued

    def remade(self, topics: set[str]) -> None:
        """Forgets how far the groups of these topics were: their offsets start anew."""
        numbers = self._handoffs.numbers
        for number in sorted(number for topic in topics for number in numbers.by_topic.get(topic, ())):
            self._groups.forget(number)
            self._handoffs.reached(number, [NOTHING] * numbers.partitions[number])

    def _take_tails(self) -> None:
        for key, (base, answer) in list(self._asked.items()):
            if answer.done():
                del self._asked[key]
                last = answer.result()
                if last is not None:
                    base.lower(key[1], key[2], last)

    def _ask_tails(self) -> None:
        """Asks for the tails on which something waits, once each at a time."""
        numbers = self._handoffs.numbers
        for partition, places in self._handoffs.tails().items():
            base = self._handoffs.active[partition].base
            for cluster, output in sorted(places):
                key = (id(base), cluster, output)
                if key in self._asked:
                    continue
                committed = int(self._handoffs.committed.row(cluster)[output])
                end = int(base.fences.row(cluster)[output]) + 1
                place = (numbers.topics[cluster], output)
                self._asked[key] = (base, self._tails.ask(place, committed, end))

    def _show(self) -> None:
        """Keeps what is on its way for reports and metrics."""
        handoffs = self._handoffs
        self.moving = handoffs.moving()
        counts = handoffs.phases()
        held = [handoff.held for handoff in handoffs.active.values()]
        self.load = HandoffLoad(
            watch=counts[Phase.WATCH], hold=counts[Phase.HOLD], held_requests=sum(one.count for one in held)
        )
        for phase in (Phase.WATCH, Phase.HOLD):
            metrics.HANDOFF_SLOTS.labels(phase.name.lower()).set(counts[phase])
        metrics.HELD_REQUESTS.set(self.load.held_requests)
        metrics.HELD_BYTES.set(sum(one.bytes for one in held))
