"""Which Kafka settings a user may not change, and what becomes of the others."""

from __future__ import annotations

import pytest

from streams.kafka_settings import (
    RESERVED,
    refuse_reserved,
    report_producer,
    router_consumer,
    router_producer,
)


@pytest.mark.parametrize("name", [*RESERVED, "request.required.acks"])
def test_a_setting_that_the_guarantees_rest_on_is_refused_with_the_reason(name: str) -> None:
    """One sentence each, whatever the value."""
    (mistake,) = refuse_reserved({name: "anything", "client.id": "mine"})
    assert mistake.startswith(f"{name} cannot be set: ")


def test_offset_reset_may_only_be_earliest() -> None:
    """It is the one reserved setting with a value that is right."""
    assert refuse_reserved({"auto.offset.reset": "earliest"}) == []
    assert len(refuse_reserved({"auto.offset.reset": "latest"})) == 1


def test_any_other_setting_of_the_user_wins() -> None:
    """Each client gets only what is meant for its kind, as librdkafka warns of the rest."""
    kafka = {"bootstrap.servers": "b", "session.timeout.ms": 20_000, "linger.ms": 7, "socket.timeout.ms": 9}
    consumer, producer = router_consumer(kafka, "g"), router_producer(kafka, "id")
    assert (consumer["session.timeout.ms"], consumer["socket.timeout.ms"]) == (20_000, 9)
    assert (producer["linger.ms"], producer["socket.timeout.ms"]) == (7, 9)
    assert "linger.ms" not in consumer
    assert "session.timeout.ms" not in producer | report_producer(kafka)


def test_the_guarantees_settings_are_always_there() -> None:
    """Even over a user's value that got past the configuration."""
    wrong = {"isolation.level": "read_uncommitted", "acks": "1", "enable.auto.commit": True}
    consumer, producer = router_consumer(wrong, "g"), router_producer(wrong, "id")
    assert (consumer["isolation.level"], consumer["enable.auto.commit"]) == ("read_committed", False)
    assert (producer["acks"], producer["enable.idempotence"], producer["transactional.id"]) == (
        "all",
        True,
        "id",
    )
