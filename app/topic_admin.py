"""Foreshard's topics on the broker: made from the one list in schemas/topics.py, and checked against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from app.config import Config
from schemas import topics
from schemas.errors import BrokerUnreachableError, TopicError

TIMEOUT_S = 15.0
DAY_MS = 86_400_000
SIZE = "max.message.bytes"


@dataclass(frozen=True)
class Wanted:
    """One topic as it should be."""

    name: str
    partitions: int
    settings: dict[str, str]
    any_partitions: bool = False


@dataclass(frozen=True)
class Finding:
    """What was made or found of one topic."""

    topic: str
    ok: bool
    text: str


def wanted(config: Config, ingest_bytes: int | None) -> list[Wanted]:
    """Returns our own topics; `ingest_bytes` is the ingest topic's record limit where it is known."""
    section = config.file.topics
    found = []
    for spec in topics.OWN_TOPICS:
        settings = dict(spec.settings)
        if "retention.ms" in settings:
            settings["retention.ms"] = str(int(section.retention_days * DAY_MS))
        if section.replication_factor >= 3:
            settings["min.insync.replicas"] = "2"
        if spec is topics.DEAD_LETTER and ingest_bytes is not None:
            settings[SIZE] = str(ingest_bytes + topics.ROOM_BYTES)
        partitions = section.partitions.get(spec.name, spec.partitions)
        found.append(Wanted(config.topic(spec), partitions, settings))
    return found


def create(config: Config, *, ingest_partitions: int | None = None) -> list[Finding]:
    """Makes every topic that is missing; the ingest topic too when its partition count is given."""
    admin = _admin(config)
    if ingest_partitions is not None:
        findings = _make(admin, config, [Wanted(config.ingest, ingest_partitions, {})])
    else:
        findings = []
    limit = int(_settings(admin, config.ingest)[SIZE]) if _partitions(admin, config.ingest) else None
    findings += _make(admin, config, wanted(config, limit))
    if limit is None:
        text = "does not exist; it belongs to its producers: make it, or give --ingest-partitions"
        findings.append(Finding(config.ingest, False, text))
    return findings


def create_cluster_topic(config: Config, name: str) -> list[Finding]:
    """Makes a cluster's topic, with room for the headers that routers add."""
    admin = _admin(config)
    if not _partitions(admin, config.ingest):
        raise TopicError(f"ingest topic {config.ingest} does not exist; make it first")
    limit = int(_settings(admin, config.ingest)[SIZE]) + topics.ROOM_BYTES
    return _make(admin, config, [Wanted(name, config.file.topics.cluster_partitions, {SIZE: str(limit)})])


def partitions(config: Config, name: str) -> int | None:
    """Returns the partition count of a topic, None when it does not exist."""
    return _partitions(_admin(config), name)


def check(config: Config, cluster_topics: Sequence[str] = ()) -> list[Finding]:
    """Returns one finding per topic: there, with the partitions and settings that the promises need."""
    admin = _admin(config)
    limit = int(_settings(admin, config.ingest)[SIZE]) if _partitions(admin, config.ingest) else None
    ingest = Wanted(config.ingest, 1, {}, any_partitions=True)
    room = {} if limit is None else {SIZE: str(limit + topics.ROOM_BYTES)}
    of_clusters = [Wanted(name, 1, room, any_partitions=True) for name in cluster_topics]
    return [_check(admin, item) for item in [ingest, *wanted(config, limit), *of_clusters]]


def _check(admin: AdminClient, item: Wanted) -> Finding:
    count = _partitions(admin, item.name)
    if not count:
        return Finding(item.name, False, "missing; type `foreshard topics create`")
    wrong = []
    if not item.any_partitions and count != item.partitions:
        wrong.append(f"{count} partitions instead of {item.partitions}")
    actual = _settings(admin, item.name)
    for name, value in item.settings.items():
        given = actual.get(name, "")
        enough = name == SIZE and given.isdigit() and int(given) >= int(value)
        if given != value and not enough:
            wrong.append(f"{name} is {given} instead of {value}")
    return Finding(item.name, not wrong, "; ".join(wrong) or f"{count} partitions")


def _make(admin: AdminClient, config: Config, items: list[Wanted]) -> list[Finding]:
    factor = config.file.topics.replication_factor
    asked = [NewTopic(i.name, i.partitions, factor, config=i.settings) for i in items]
    findings = []
    for name, future in admin.create_topics(asked, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
            findings.append(Finding(name, True, "made"))
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            there = reason.code() == KafkaError.TOPIC_ALREADY_EXISTS
            findings.append(Finding(name, there, "was there already" if there else _why(reason, factor)))
    return findings


def _why(reason: KafkaError, factor: int) -> str:
    if reason.code() == KafkaError.INVALID_REPLICATION_FACTOR:
        return f"{reason.str()}; set topics.replication_factor (now {factor}) to the brokers you have"
    return str(reason.str())


def _admin(config: Config) -> AdminClient:
    return AdminClient(config.kafka)


def _partitions(admin: AdminClient, name: str) -> int | None:
    try:
        found = admin.list_topics(name, timeout=TIMEOUT_S).topics.get(name)
    except KafkaException as error:
        raise BrokerUnreachableError(
            f"no broker answered: {error.args[0].str()}; check bootstrap.servers in [kafka]"
        ) from None
    return None if found is None or found.error else len(found.partitions)


def _settings(admin: AdminClient, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    entries: dict[str, Any] = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
    return {key: str(entry.value) for key, entry in entries.items()}
