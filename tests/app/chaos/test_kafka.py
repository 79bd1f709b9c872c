"""The broker of a run: with a controller of its own, killed and started again, and gone at the end."""

from __future__ import annotations

import time

import psutil
import pytest

from app.chaos.failures import BROKER_DEAD_S
from app.chaos.kafka import killable_kafka
from app.local_kafka import SETTINGS, answers


def test_a_killed_broker_stays_dead_until_it_has_been_fenced() -> None:
    """Before, it would take itself for the leader of its partitions when it is back."""
    assert BROKER_DEAD_S[0] * 1000 > int(SETTINGS["broker.session.timeout.ms"])


@pytest.mark.slow
@pytest.mark.broker
def test_a_killed_broker_comes_back_and_its_controller_lives_on() -> None:
    shared = _nodes()
    with killable_kafka(lambda _text: None) as kafka:
        if kafka.java is None or kafka.pid is None:
            pytest.skip("the broker is not a process of ours to kill")
        folder, first = kafka.java.folder, kafka.pid
        others = _nodes() - shared - {first}
        assert answers(kafka.bootstrap, 10)
        kafka.kill()
        time.sleep(BROKER_DEAD_S[0])
        assert not answers(kafka.bootstrap, 1)
        kafka.restart()
        assert answers(kafka.bootstrap, 10)
        assert kafka.pid not in (None, first)
        assert others
        assert others <= _nodes()
    assert not folder.exists()
    assert not others & _nodes()


def _nodes() -> set[int]:
    """Returns the Kafka nodes that this process has started, through their keepers."""
    own = psutil.Process().children(recursive=True)
    return {child.pid for child in own if child.name() == "java" and child.status() != psutil.STATUS_ZOMBIE}
