"""A router in a process of its own, for the tests: `python -m tests.streams.router_process SETTINGS`."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from confluent_kafka import Consumer, Message

from app.host import run_router
from streams import router_fences, router_member
from streams.clock import Clock
from streams.core.handoff import HandoffSettings
from streams.core.keys import KeyRules, RequestType, parse_field
from streams.router import RouterSettings


def rules(shards: int = 32) -> KeyRules:
    """The rules of the tests' requests: by JSON fields, by header and record key, without order; no `*`."""
    return KeyRules(
        shards=shards,
        type_from=(parse_field("header:type"), parse_field("json:type")),
        types=(
            RequestType("update", (parse_field("json:user.id"),), keyspace="user"),
            RequestType("read", (parse_field("header:tenant"), parse_field("key"))),
            RequestType("view", (parse_field("json:user.id"),), keyspace="user", order="none"),
        ),
    )


class Leaver(Consumer):
    """A consumer that leaves its group at SIGUSR1, and never comes back."""

    leaving = False

    def consume(self, *given: Any, **more: Any) -> list[Message]:
        if Leaver.leaving:
            Leaver.leaving = False
            self.unsubscribe()
        return super().consume(*given, **more)

    @staticmethod
    def leave(*_signal: Any) -> None:
        """Handles the signal."""
        Leaver.leaving = True


def main() -> None:
    """Runs the router that the JSON in the first argument describes."""
    given = json.loads(sys.argv[1])
    settings = RouterSettings(
        kafka={"bootstrap.servers": given["bootstrap"], **given.get("kafka", {})},
        prefix=given["prefix"],
        ingest=given["prefix"] + "requests",
        group=given["prefix"] + "router",
        instance=given["instance"],
        guarantee=given.get("guarantee", "exactly-once"),
        instance_id=given.get("instance_id", ""),
        handoff=HandoffSettings(**given.get("handoff", {})),
    )
    clock = Clock(**given.get("clock", {}))
    router_member.Consumer = Leaver  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, Leaver.leave)
    router_fences.NO_COMMIT_S = given.get("no_commit_s", router_fences.NO_COMMIT_S)
    sys.exit(run_router(settings=settings, rules=rules(given.get("shards", 32)), clock=clock, web_port=0))


if __name__ == "__main__":
    main()
