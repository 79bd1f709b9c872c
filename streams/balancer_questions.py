"""What the balancer asks the broker once: for a command, and about a cluster that looks dead."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaException

from schemas.records import (
    AcceptRules,
    Cluster,
    ClusterAdd,
    Command,
    Rescue,
    SetClusterState,
    WantedState,
)
from streams.balancer_takeover import Settings, partition_count
from streams.core.outcome import NOTHING_FOUND, Found
from streams.groups import admin_client, member_count, request_waits
from streams.settled import RoutersGroup, asking_consumer, read_notes


def found_for(settings: Settings, command: Command, clusters: Mapping[str, Cluster]) -> Found:
    """Returns what the core must know of the broker to judge a command. Waits for the broker."""
    match command:
        case ClusterAdd():
            return Found(partitions=partition_count(settings.kafka, command.topic))
        case SetClusterState(state=WantedState.REMOVED) if command.cluster in clusters:
            return Found(waiting=waits(settings, clusters[command.cluster]))
        case Rescue() if command.cluster in clusters:
            group = clusters[command.cluster].group
            return Found(members=member_count(admin_client(settings.kafka), group))
        case AcceptRules():
            members = member_count(admin_client(settings.kafka), settings.router_group)
            return Found(members=members, held_slots=_held_slots(settings))
        case _:
            return NOTHING_FOUND


def waits(settings: Settings, cluster: Cluster) -> bool | None:
    """Returns whether a request waits in a cluster's topic, None where that is not known."""
    if partition_count(settings.kafka, cluster.topic) is None:
        return False
    return request_waits(settings.kafka, cluster)


def _held_slots(settings: Settings) -> int | None:
    """Returns of how many slots routers hold requests, None where that is not known."""
    partitions = partition_count(settings.kafka, settings.ingest)
    if partitions is None:
        return None
    consumer = asking_consumer(settings.kafka, settings.router_group)
    try:
        notes = read_notes(consumer, RoutersGroup(settings.router_group, settings.ingest, partitions))
    except KafkaException:
        return None
    finally:
        consumer.close()
    return None if notes.unreadable else notes.held_slots
