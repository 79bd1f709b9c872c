"""What runs in the router's Faust agent, and how the router's thread gets there and back."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, cast

from confluent_kafka import Message

from streams.core.handoffs import Handoffs
from streams.core.keys import KeyReader
from streams.core.poison import Condemned, Place
from streams.core.routing import Request, Routed, Routes, route


@dataclass
class Work:
    """One batch on its way to the agent and back."""

    batch: list[Message]
    routes: Routes
    reader: KeyReader
    handoffs: Handoffs
    condemned: Mapping[Place, Condemned]
    most_released: int
    result: Future[Routed] = field(default_factory=Future)


async def route_work(work: Work) -> None:
    """The agent's body: routes one batch. What it raises is a defect, and ends the process."""
    try:
        batch = cast(list[Request], work.batch)
        routed = route(batch, work.routes, work.reader, work.handoffs, work.condemned, work.most_released)
        work.result.set_result(routed)
    except BaseException as error:
        work.result.set_exception(error)
        raise


class Channel(Protocol):
    """The way to the agent."""

    def put(self, value: object) -> None: ...
