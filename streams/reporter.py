"""What a backend's sidecar reports: CPU, memory, queue depth, throughput, latency, every 10 s.

The backend itself changes nothing: its consumer group's committed offsets say how much waits and
how fast it works, its process id says how busy it is. Unknown is left out, never sent as 0.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import InvalidRecordError
from schemas.records import Cluster, ClusterMetrics
from schemas.topics import CLUSTERS, METRICS
from streams.clock import Clock
from streams.kafka_settings import EVERY_CLIENT

INTERVAL_S = 10.0
"""Model seconds between two records: one per round of the balancer."""

ASK_TIMEOUT_S = 3.0
"""Wall seconds for one question to the broker: an outage costs a report, not the process."""

MAX_CPU = 1.5
"""Upper end of the record's CPU: the clock of the process table and ours differ a little."""

END, FIRST = -1, -2
"""Kafka's logical timestamps: the end (with read_committed the last stable offset), the first record."""

CGROUP = Path("/sys/fs/cgroup")
CPU_PERIOD_FIELDS = 2
"""cpu.max holds "quota period" in us, or "max period"."""


@dataclass(frozen=True)
class Progress:
    """A consumer group on its topic at one moment: offsets, transaction markers included."""

    at: float
    done: int
    """Sum of the committed offsets, from the beginning of each partition."""
    waiting: int
    """Offsets between the committed ones and the last stable ones."""


class GroupLag:
    """Reads a group's progress through a consumer of that group that never subscribes.

    It is no member of the group, so it disturbs nobody; unlike the admin client's question, this one
    survives a broker that is away.
    """

    def __init__(self, kafka: dict[str, Any], topic: str, group: str) -> None:
        self.topic = topic
        self.group = group
        self._partitions: list[TopicPartition] = []
        self._consumer = Consumer(
            EVERY_CLIENT
            | kafka
            | {
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "log_level": 0,  # an outage is seen by the missing reports, not by a flood of lines
            }
        )

    def read(self, now: float) -> Progress | None:
        """Returns the progress now; None when the broker did not answer or the topic is not there."""
        try:
            if not self._partitions:
                self._partitions = self._find_partitions()
            committed = self._consumer.committed(self._partitions, timeout=ASK_TIMEOUT_S)
            ends = self._offsets(END)
            fresh = any(place.offset < 0 for place in committed)
            firsts = self._offsets(FIRST) if fresh else {}
        except KafkaException:
            self._partitions = []
            return None
        done = waiting = 0
        for place in committed:
            if place.error is not None or ends.get(place.partition, -1) < 0:
                return None
            position = place.offset if place.offset >= 0 else max(0, firsts.get(place.partition, 0))
            done += position
            waiting += max(0, ends[place.partition] - position)
        return Progress(now, done, waiting) if committed else None

    def close(self) -> None:
        self._consumer.close()

    def _find_partitions(self) -> list[TopicPartition]:
        found = self._consumer.list_topics(self.topic, timeout=ASK_TIMEOUT_S).topics[self.topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return [TopicPartition(self.topic, number) for number in found.partitions]

    def _offsets(self, logical: int) -> dict[int, int]:
        """Returns the logical offset of every partition, in one request; -1 where it failed.

        A partition that the group never committed is read from its first record.
        """
        asked = [TopicPartition(p.topic, p.partition, logical) for p in self._partitions]
        answer = self._consumer.offsets_for_times(asked, timeout=ASK_TIMEOUT_S)
        return {p.partition: p.offset if p.error is None else -1 for p in answer}


class Usage:
    """CPU and memory of a process tree, or of the host when no process is given.

    CPU is a fraction of what the tree may use: its affinity and its cgroup's quota.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._seen: dict[tuple[int, float], float] = {}
        self._host_cpu = psutil.cpu_percent(interval=None)  # the first call only sets the starting point
        if pid is not None:
            self.read(0.0)

    def read(self, wall_s: float) -> tuple[float | None, float | None]:
        """Returns (CPU, memory) as fractions over the last `wall_s` seconds; None where unknown."""
        if self._pid is None:
            return psutil.cpu_percent(interval=None) / 100, psutil.virtual_memory().percent / 100
        try:
            root = psutil.Process(self._pid)
            if root.status() == psutil.STATUS_ZOMBIE:
                return None, None
            tree = [root, *root.children(recursive=True)]
            cores = min(float(len(root.cpu_affinity() or [0])), cgroup_limit(self._pid, "cpu.max"))
            memory_limit = min(float(psutil.virtual_memory().total), cgroup_limit(self._pid, "memory.max"))
        except psutil.Error:
            return None, None
        used, resident = self._consume(tree)
        cpu = used / wall_s / cores if wall_s > 0 and cores > 0 else None
        return cpu, min(1.0, resident / memory_limit)

    def _consume(self, tree: list[psutil.Process]) -> tuple[float, float]:
        """Returns CPU seconds used since the last call and resident bytes now, over the tree.

        A process seen for the first time counts from its start if it is younger than the last call.
        """
        first = not self._seen
        spent: dict[tuple[int, float], float] = {}
        resident = 0.0
        for process in tree:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent[(process.pid, process.create_time())] = times.user + times.system
                resident += process.memory_info().rss
        used = 0.0 if first else sum(total - self._seen.get(who, 0.0) for who, total in spent.items())
        self._seen = spent
        return max(0.0, used), resident


def cgroup_limit(pid: int, name: str) -> float:
    """Returns the tightest limit on the way up the process's cgroup (v2): cores or bytes; inf if none."""
    tightest = float("inf")
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return tightest
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::")]
    folder = CGROUP / paths[0].strip().lstrip("/") if paths else CGROUP
    for place in (folder, *folder.parents):
        if not place.is_relative_to(CGROUP):
            break
        with contextlib.suppress(OSError, ValueError):
            tightest = min(tightest, _limit((place / name).read_text().split()))
    return tightest


def _limit(words: list[str]) -> float:
    """Returns the value of cpu.max ("150000 100000" -> 1.5) or memory.max ("1073741824")."""
    if not words or words[0] == "max":
        return float("inf")
    return float(words[0]) / float(words[1]) if len(words) == CPU_PERIOD_FIELDS else float(words[0])


class ClusterFinder:
    """Follows the `clusters` topic for one cluster's topic and group."""

    def __init__(self, kafka: dict[str, Any], prefix: str, cluster: str) -> None:
        self._cluster = cluster
        self._found: Cluster | None = None
        self._consumer = Consumer(
            EVERY_CLIENT
            | kafka
            | {
                "group.id": f"{prefix}reporter",  # required by the client; never joined, never committed
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(prefix + CLUSTERS.name, 0, 0)])

    def latest(self) -> Cluster | None:
        """Returns the newest registration of the cluster; None while it has none."""
        messages = self._consumer.consume(1000, 0.0)
        while messages:
            for message in messages:
                self._take(message)
            messages = self._consumer.consume(1000, 0.0)
        return self._found

    def close(self) -> None:
        self._consumer.close()

    def _take(self, message: Message) -> None:
        if message.error() is not None or message.key() != self._cluster.encode():
            return
        with contextlib.suppress(InvalidRecordError):
            self._found = Cluster.from_json(message.value()) if message.value() else None


@dataclass(frozen=True)
class Watched:
    """What one reporter looks at. Without topic and group the `clusters` topic names them."""

    cluster: str
    instance: str
    pid: int | None = None
    """Root of the process tree; None = the whole host."""
    capacity_cps: float | None = None
    topic: str | None = None
    group: str | None = None


class Reporter:
    """One sidecar: `report` measures and returns one record; `send` gives it to the broker."""

    def __init__(self, kafka: dict[str, Any], prefix: str, watched: Watched) -> None:
        self._kafka = kafka
        self._metrics_topic = prefix + METRICS.name
        self._watched = watched
        self._usage = Usage(watched.pid)
        named = watched.topic and watched.group
        self._finder = None if named else ClusterFinder(kafka, prefix, watched.cluster)
        self._lag: GroupLag | None = None
        self._last: Progress | None = None
        self.registered = self._finder is None
        """False while the `clusters` topic does not name the cluster: nobody could use its records."""
        self._producer = Producer(EVERY_CLIENT | kafka | {"acks": "all", "linger.ms": 5, "log_level": 0})
        self.refused = 0
        """Records that the broker did not take."""

    def report(self, now: float, interval_s: float, wall_s: float) -> ClusterMetrics:
        """Returns what can be known now; `interval_s` is in model time, `wall_s` the same on the wall."""
        cpu, memory = self._usage.read(wall_s)
        progress = self._progress(now)
        throughput = _throughput(self._last, progress)
        latency = None
        if progress is not None and throughput is not None:
            latency = _latency(progress.waiting, throughput)
        self._last = progress or self._last
        return ClusterMetrics(
            cluster=self._watched.cluster,
            instance=self._watched.instance,
            at=now,
            interval_s=interval_s,
            cpu=None if cpu is None else min(MAX_CPU, max(0.0, cpu)),
            memory=memory,
            queue_depth=None if progress is None else progress.waiting,
            throughput_rps=throughput,
            latency_s=latency,
            latency_estimated=latency is not None,
            capacity_cps=self._watched.capacity_cps,
        )

    def send(self, record: ClusterMetrics) -> None:
        """Hands the record to the client; while the broker is away the newest ones are kept."""
        try:
            self._producer.produce(
                self._metrics_topic, record.to_json(), record.cluster, on_delivery=self._delivered
            )
        except BufferError:
            self.refused += 1
        self._producer.poll(0)

    def close(self) -> None:
        self._producer.flush(ASK_TIMEOUT_S)
        for open_client in (self._finder, self._lag):
            if open_client is not None:
                open_client.close()

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        self.refused += error is not None

    def _progress(self, now: float) -> Progress | None:
        found = self._finder.latest() if self._finder is not None else None
        topic = self._watched.topic or (found.topic if found else None)
        group = self._watched.group or (found.group if found else None)
        self.registered = self._finder is None or found is not None
        if topic is None or group is None:
            return None
        if self._lag is None or (self._lag.topic, self._lag.group) != (topic, group):
            if self._lag is not None:
                self._lag.close()
            self._lag, self._last = GroupLag(self._kafka, topic, group), None
        return self._lag.read(now)


def _throughput(before: Progress | None, after: Progress | None) -> float | None:
    """Returns committed offsets per second between two readings, transaction markers included."""
    if before is None or after is None or after.at <= before.at or after.done < before.done:
        return None
    return (after.done - before.done) / (after.at - before.at)


def _latency(waiting: int, throughput: float) -> float | None:
    """Returns how long the newest request will wait: markers cancel out of the quotient."""
    if throughput > 0:
        return waiting / throughput
    return 0.0 if waiting == 0 else None


def run_reporter(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    kafka: dict[str, Any],
    prefix: str,
    cluster: str,
    topic: str | None,
    group: str | None,
    instance: str,
    pid: int | None,
    capacity_cps: float | None,
    clock: Clock,
    stop: threading.Event,
) -> int:
    """Reports every `INTERVAL_S` of model time until `stop`; returns the exit status."""
    reporter = Reporter(kafka, prefix, Watched(cluster, instance, pid, capacity_cps, topic, group))
    try:
        last = clock.now()
        due = last + INTERVAL_S
        while not stop.wait(max(0.0, clock.wall_duration(due - clock.now()))):
            now = clock.now()
            record = reporter.report(now, now - last, clock.wall_duration(now - last))
            if reporter.registered:
                reporter.send(record)
            last = now
            due = max(due + INTERVAL_S, now)
    finally:
        reporter.close()
    return 0
