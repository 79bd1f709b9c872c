"""Topics made on a real broker: who made one may use it at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app import topic_admin
from app.config import Config, load
from app.local_kafka import LocalKafka
from tests.acceptance.cli_kit import cli_for
from tests.streams.broker import make_topic

pytestmark = pytest.mark.broker


@pytest.fixture
def config(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Config:
    """A configuration with topics of its own, none of them made yet."""
    return load(cli_for(tmp_path, kafka.bootstrap, prefix).file, {})


def test_what_was_made_on_a_busy_broker_is_there_for_the_next_command(config: Config) -> None:
    """200 partitions of another topic are on their way: ours are known all the same when `create` returns."""
    admin = AdminClient(config.kafka)
    busy = admin.create_topics([NewTopic(f"{config.prefix}busy", 200, 1)])
    made = topic_admin.create(config, ingest_partitions=12)
    topic_admin.require(config, *(finding.topic for finding in made))
    cluster = topic_admin.create_cluster_topic(config, f"{config.prefix}requests.c1")
    assert topic_admin.check_cluster_topic(config, cluster[0].topic).ok
    assert {finding.text for finding in [*made, *cluster]} == {"made"}
    for answer in busy.values():
        answer.result(60)
    removed = admin.delete_topics(list(busy))
    for answer in removed.values():
        answer.result(60)


def test_a_topic_is_waited_for_until_it_is_known(config: Config) -> None:
    """The broker hears of it half a second after we began to ask."""
    name = f"{config.prefix}late"
    later = threading.Timer(0.5, make_topic, (config.kafka["bootstrap.servers"], name, 2))
    later.start()
    assert topic_admin.wait_until_known(config, {name: 2}) == {}
    later.join()
    topic_admin.require(config, name)


def test_a_topic_that_stays_unknown_is_said_with_what_to_do(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded: which topic, how much of it can be used, what to look at."""
    monkeypatch.setattr(topic_admin, "NEW_TOPIC_S", 1.0)
    small = make_topic(config.kafka["bootstrap.servers"], f"{config.prefix}small", 2)
    missing = f"{config.prefix}missing"
    began = time.monotonic()
    late = topic_admin.wait_until_known(config, {small: 3, missing: 1})
    assert 1 <= time.monotonic() - began < 1 + topic_admin.TIMEOUT_S
    assert not late[small].ok
    assert late[small].text.startswith("1 s after it was made 2 of 3 partitions can be used; see whether")
    assert late[missing].text.startswith("1 s after it was made 0 of 1 partition can be used; ")
