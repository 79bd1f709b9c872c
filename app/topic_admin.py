"""Foreshard's topics on the broker: made from the one list in schemas/topics.py, and checked against it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from app.config import Config
from schemas import topics
from schemas.errors import BrokerUnreachableError, TopicError

TIMEOUT_S = 8.0
"""Wall seconds for one answer: a person waits for it, and a broker that is there takes milliseconds."""
NEW_TOPIC_S = 30.0
"""Wall seconds for a topic that was made a moment ago to become known: milliseconds at most times, but more
than 15 behind 500 new partitions of others on an overloaded machine."""
LOOK_S = 0.05
"""Wall seconds between two looks whether it is."""
MAKE_INGEST = "foreshard topics create --ingest-partitions N"
DAY_MS = 86_400_000
SIZE = "max.message.bytes"
SIZE_DEFAULT = 1_048_588
"""Kafka's default of max.message.bytes: what the ingest topic is taken to have until it is there."""
AT_LEAST = frozenset({SIZE, "min.insync.replicas"})
"""Settings of which more is as good."""


@dataclass(frozen=True)
class Wanted:
    """One topic as it should be."""

    name: str
    partitions: int
    settings: Mapping[str, str]
    replicas: int = 1
    any_partitions: bool = False
    maker: str = "foreshard topics create"
    """The command that makes it."""


@dataclass(frozen=True)
class Finding:
    """What was made or found of one topic."""

    topic: str
    ok: bool
    text: str


@dataclass(frozen=True)
class _There:
    """A topic as it is."""

    partitions: int
    replicas: int
    led: int
    """Partitions that have a leader: the others can be neither written nor read."""


def require(config: Config, *names: str) -> None:
    """Raises BrokerUnreachableError where no broker answers, TopicError where a topic is missing."""
    there = _describe(config, names)
    missing = sorted(set(names) - set(there))
    if missing:
        are = "do not exist" if len(missing) > 1 else "does not exist"
        maker = MAKE_INGEST if config.ingest in missing else "foreshard topics create"
        raise TopicError(f"{', '.join(missing)} {are}; type `{maker}`")


def create(config: Config, *, ingest_partitions: int | None = None) -> list[Finding]:
    """Makes every topic that is missing; the ingest topic too when its partition count is given."""
    findings: list[Finding] = []
    there = bool(_describe(config, [config.ingest]))
    if ingest_partitions is not None:
        findings = _make(config, [Wanted(config.ingest, ingest_partitions, _durable(config))])
        there = there or findings[0].ok
    limit = _limit(config, config.ingest) if there else SIZE_DEFAULT
    findings += _make(config, wanted(config, limit))
    if not there and ingest_partitions is None:
        text = f"missing; its producers make it, or `{MAKE_INGEST}`"
        findings.append(Finding(config.ingest, False, text))
    return findings


def create_cluster_topic(config: Config, name: str) -> list[Finding]:
    """Makes a cluster's topic, with room for the headers that routers add."""
    item = _of_cluster(config, name, _ingest_limit(config))
    return _make(config, [item])


def check(config: Config, cluster_topics: Sequence[str] = ()) -> list[Finding]:
    """Returns one finding per topic: there, with the partitions and settings that the promises need."""
    limit = _limit(config, config.ingest) if _describe(config, [config.ingest]) else None
    ingest = Wanted(config.ingest, 1, {}, any_partitions=True, maker=MAKE_INGEST)
    of_clusters = [_of_cluster(config, name, limit) for name in cluster_topics]
    return _check(config, [ingest, *wanted(config, limit), *of_clusters])


def check_cluster_topic(config: Config, name: str) -> Finding:
    """Returns what is found of one cluster's topic; raises TopicError without an ingest topic."""
    return _check(config, [_of_cluster(config, name, _ingest_limit(config))])[0]


def wanted(config: Config, ingest_bytes: int | None) -> list[Wanted]:
    """Returns our own topics; `ingest_bytes` is the ingest topic's record limit where it is known."""
    section = config.file.topics
    found = []
    for spec in topics.OWN_TOPICS:
        settings = dict(spec.settings) | _durable(config)
        if "retention.ms" in settings:
            settings["retention.ms"] = str(int(section.retention_days * DAY_MS))
        if spec is topics.DEAD_LETTER and ingest_bytes is not None:
            settings[SIZE] = str(ingest_bytes + topics.ROOM_BYTES)
        partitions = section.partitions.get(spec.name, spec.partitions)
        found.append(Wanted(config.topic(spec), partitions, settings, section.replication_factor))
    return found


def _of_cluster(config: Config, name: str, ingest_bytes: int | None) -> Wanted:
    """Returns a cluster's topic; compaction would take requests that are not processed yet."""
    room = {} if ingest_bytes is None else {SIZE: str(ingest_bytes + topics.ROOM_BYTES)}
    settings = {"cleanup.policy": "delete"} | room | _durable(config)
    maker = "foreshard clusters add NAME --capacity N"
    return Wanted(name, config.file.topics.cluster_partitions, settings, any_partitions=True, maker=maker)


def _durable(config: Config) -> dict[str, str]:
    return {"min.insync.replicas": "2"} if config.file.topics.replication_factor >= 3 else {}


def _check(config: Config, items: Sequence[Wanted]) -> list[Finding]:
    there = _describe(config, [item.name for item in items])
    actual = _settings(config, there)
    return [_compare(item, there.get(item.name), actual.get(item.name, {})) for item in items]


def _compare(item: Wanted, there: _There | None, actual: Mapping[str, str]) -> Finding:
    if there is None:
        return Finding(item.name, False, f"missing; type `{item.maker}`")
    wrong = []
    if not item.any_partitions and there.partitions != item.partitions:
        wrong.append(f"{_count(there.partitions)} instead of {item.partitions}: it has to be made again")
    if there.led < there.partitions:
        wrong.append(f"{_count(there.partitions - there.led)} without a leader: see whether all brokers run")
    if there.replicas < item.replicas:
        wrong.append(f"{there.replicas} replicas instead of {item.replicas}: kafka-reassign-partitions.sh")
    differs = {
        name: value for name, value in item.settings.items() if not _good(name, actual.get(name, ""), value)
    }
    wrong += [f"{name} is {actual.get(name)} instead of {value}" for name, value in differs.items()]
    if differs:
        pairs = ",".join(f"{name}={value}" for name, value in differs.items())
        command = f"kafka-configs.sh --alter --entity-type topics --entity-name {item.name}"
        wrong.append(f"type {command} --add-config {pairs}")
    return Finding(item.name, not wrong, "; ".join(wrong) or _count(there.partitions))


def _count(partitions: int) -> str:
    return f"{partitions} partition{'s' * (partitions != 1)}"


def _good(name: str, actual: str, value: str) -> bool:
    enough = name in AT_LEAST and actual.isdigit() and int(actual) >= int(value)
    return enough or actual == value


def _make(config: Config, items: list[Wanted]) -> list[Finding]:
    """Makes the topics that are missing; returns once the next command finds them."""
    factor = config.file.topics.replication_factor
    asked = [NewTopic(i.name, i.partitions, factor, config=dict(i.settings)) for i in items]
    findings = []
    least: dict[str, int] = {}
    admin = AdminClient(config.kafka)
    for name, future in admin.create_topics(asked, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
            findings.append(Finding(name, True, "made"))
            least[name] = next(item.partitions for item in items if item.name == name)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            there = reason.code() == KafkaError.TOPIC_ALREADY_EXISTS
            findings.append(Finding(name, there, "was there already" if there else _why(reason, factor)))
            least |= {name: 1} if there else {}  # somebody else may have made it a moment ago
    late = wait_until_known(config, least) if least else {}
    return [late.get(finding.topic, finding) for finding in findings]


def wait_until_known(config: Config, least: Mapping[str, int]) -> dict[str, Finding]:
    """Returns what is wrong, by topic, once each has at least so many partitions with a leader, or too late.

    A topic is made when the controller says so; the brokers, whom everybody asks, hear of it afterwards.
    """
    deadline = time.monotonic() + NEW_TOPIC_S
    while True:
        there = _describe(config, least)
        led = {name: there[name].led if name in there else 0 for name in least}
        late = {name: found for name, found in led.items() if found < least[name]}
        if not late or time.monotonic() > deadline:
            return {name: Finding(name, False, _late(found, least[name])) for name, found in late.items()}
        time.sleep(LOOK_S)


def _late(led: int, wanted: int) -> str:
    return (
        f"{NEW_TOPIC_S:.0f} s after it was made {led} of {_count(wanted)} can be used; "
        "see whether all brokers run, then type `foreshard topics check`"
    )


def _why(reason: KafkaError, factor: int) -> str:
    if reason.code() == KafkaError.INVALID_REPLICATION_FACTOR:
        return f"there are fewer than {factor} brokers; set replication_factor in [topics]"
    return str(reason.str())


def _describe(config: Config, names: Iterable[str]) -> dict[str, _There]:
    """Returns those of the topics that exist. (list_topics would make them, where brokers create topics.)"""
    found = {}
    asked = TopicCollection(list(names))
    admin = AdminClient(config.kafka)
    for name, future in admin.describe_topics(asked, request_timeout=TIMEOUT_S).items():
        try:
            partitions = future.result().partitions
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
                continue
            raise unreachable(config, reason) from None
        found[name] = _There(
            len(partitions),
            min(len(partition.replicas) for partition in partitions),
            sum(partition.leader is not None for partition in partitions),
        )
    return found


def unreachable(config: Config, reason: KafkaError) -> BrokerUnreachableError:
    """Returns the error for a broker that does not answer, or refuses to."""
    silent = reason.code() == KafkaError._TIMED_OUT
    why = f"not within {TIMEOUT_S:.0f} s" if silent else reason.str()
    return BrokerUnreachableError(
        f"no answer from {config.kafka['bootstrap.servers']} ({why}); "
        "check bootstrap.servers and the security settings in [kafka]"
    )


def _ingest_limit(config: Config) -> int:
    if not _describe(config, [config.ingest]):
        raise TopicError(
            f"ingest topic {config.ingest} does not exist; its producers make it, or `{MAKE_INGEST}`"
        )
    return _limit(config, config.ingest)


def _limit(config: Config, name: str) -> int:
    """Returns the record limit of a topic that exists, or was made a moment ago."""
    deadline = time.monotonic() + NEW_TOPIC_S
    while True:
        try:
            return int(_settings(config, [name])[name][SIZE])
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _settings(config: Config, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the settings of topics that exist."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    admin = AdminClient(config.kafka)
    answers: Mapping[Any, Any] = admin.describe_configs(resources, request_timeout=TIMEOUT_S)
    return {
        resource.name: {key: str(entry.value) for key, entry in answer.result().items()}
        for resource, answer in answers.items()
    }
