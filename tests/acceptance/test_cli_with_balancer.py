"""The command line beside a running balancer, and the page that the balancer serves."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from app.config import load
from app.local_kafka import LocalKafka
from schemas import topics
from schemas.records import Counts, LoadHistory, LoadReport, PartitionLoad
from streams.core.offset_note import OffsetNote, encode_note
from tests.acceptance.cli_kit import ROOT, TENANT, Cli, cli_for
from tests.streams.broker import make_topic, until

pytestmark = pytest.mark.broker


@dataclass
class Led(Cli):
    """The command line beside a running balancer with three clusters."""

    url: str = ""

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
            return body


@pytest.fixture(scope="module")
def led(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Led]:
    """Clusters are added before the first balancer starts, which then leads and measures a load."""
    prefix = f"led{time.monotonic_ns()}"
    cli = cli_for(tmp_path_factory.mktemp("led"), kafka.bootstrap, prefix)
    cli.ok("topics", "create", "--ingest-partitions", "2")
    until(lambda: cli.run("topics", "check").exit_code == 0, "a busy broker knows the topics that it made")
    for name, capacity in (("c1", "100"), ("c2", "50")):
        cli.ok("clusters", "add", name, "--capacity", capacity, "--no-wait")
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "balancer", "-c", str(cli.file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        running = Led(cli.file, kafka.bootstrap, prefix, url)
        until(lambda: json.loads(running.fetch("/api/state"))["mapping"] is not None, "it leads")
        measure(running)
        yield running
    finally:
        process.terminate()
        status = process.wait(20)
    assert status == 0


class Reports:
    """The load reports of one router: 80 requests/s, most of them in one shard."""

    def __init__(self, led: Led) -> None:
        self._config = load(led.file, {})
        self._producer = Producer(self._config.kafka)
        self._start = self._config.clock.now() // 5 * 5
        self._offset = 0

    def send(self) -> None:
        """Sends what is due."""
        config = self._config
        while self._start + 5 <= config.clock.now():
            start, offset = self._start, self._offset
            counts = Counts(series=[0] * 16, shard=list(range(16)), count=[130, *[9] * 15])
            parts = [
                PartitionLoad(
                    partition=number,
                    from_offset=offset,
                    to_offset=offset + sum(counts.count),
                    requests=sum(counts.count),
                    bytes=1,
                    lag=0,
                    forwarded=counts,
                )
                for number in (0, 1)
            ]
            report = LoadReport(
                router="r", window_from=start, window_to=start + 5, epoch=1, version=1,
                series=list(config.rules.series), partitions=parts,
            )  # fmt: skip
            self._producer.produce(config.topic(topics.LOAD), report.to_json(), b"r")
            self._start, self._offset = start + 5, offset + sum(counts.count)
        assert self._producer.flush(10) == 0


def measure(led: Led) -> None:
    """Reports a load until a round has seen it."""
    reports = Reports(led)

    def seen() -> bool:
        reports.send()
        return bool(json.loads(led.fetch("/api/state"))["clusters"])

    until(seen, "a round with clusters")


def test_clusters_that_were_added_before_the_first_start_have_the_mapping(led: Led) -> None:
    """Shares by capacity; the owner of a key is one of them, on a partition of its topic."""
    assert {cluster["name"] for cluster in led.json("clusters", "list")} >= {"c1", "c2"}
    shown = led.json("mapping", "show")
    assert (shown["shards"], shown["epoch"], len(shown["records"])) == (16, 1, 16)
    owner = led.json("mapping", "owner", "acme", "7", "--type", "order")
    assert owner["topic"] == f"{led.prefix}.requests.{owner['cluster']}"
    assert owner["partition"] in range(3)
    assert led.json("key", "shard", "acme", "7", "--type", "order")["shard"] == owner["shard"]
    text = led.ok("mapping", "owner", "acme", "7", "--type", "order")
    assert text.startswith(owner["cluster"])
    assert f"{owner['topic']}[{owner['partition']}], shard {owner['shard']}" in text
    assert led.ok("mapping", "show").startswith("mapping 1.")


def test_the_leader_answers_who_is_in_control(led: Led) -> None:
    """Mode, freeze and resume take effect, are answered, and show on the page."""
    assert led.ok("mode", "auto") == "mode was observe, is auto\n"
    assert "frozen" in led.ok("freeze", "--reason", "deploy")
    assert json.loads(led.fetch("/api/state"))["frozen"] is True
    assert led.ok("resume") == "resumed\n"
    assert led.ok("resume") == "was not frozen\n"
    assert led.ok("mode", "observe") == "mode was auto, is observe\n"
    assert "'fast' is not one of" in led.refused(2, "mode", "fast")


def test_a_cluster_joins_adopts_a_topic_and_changes_its_capacity(led: Led) -> None:
    """A new capacity keeps topic and group; another topic for a registered cluster is refused."""
    own = make_topic(led.bootstrap, f"{led.prefix}.adopted", 5, {"max.message.bytes": "2000000"})
    added = led.ok(
        "clusters", "add", "c3", "--capacity", "30", "--guess", "--topic", own, "--group", "workers"
    )
    assert added == "cluster c3 is registered\n"
    assert led.ok("clusters", "add", "c3", "--capacity", "40") == "cluster c3 has a capacity of 40 now\n"
    found = {cluster["name"]: cluster for cluster in led.json("clusters", "list")}["c3"]
    assert (found["topic"], found["group"], found["partitions"]) == (own, "workers", 5)
    assert (found["capacity_cps"], found["capacity_guessed"]) == (40, False)
    other = make_topic(led.bootstrap, f"{led.prefix}.other", 5, {"max.message.bytes": "2000000"})
    assert "refused: cluster c3 exists with topic" in led.refused(
        2, "clusters", "add", "c3", "--capacity", "1", "--topic", other
    )
    assert "is cluster c3's" in led.refused(5, "clusters", "add", "c4", "--capacity", "1", "--topic", own)
    assert any(item["topic"] == own and item["ok"] for item in led.json("topics", "check"))
    assert "c3 joined" in led.ok("rounds", "list", "--plans")


def test_rounds_tell_what_was_seen_and_why(led: Led) -> None:
    """The newest ones, oldest first; one round with its clusters and series; plans alone on request."""
    newest = led.json("rounds", "list", "-n", "3")
    assert len(newest) == 3
    assert [item["round"] for item in newest] == sorted(item["round"] for item in newest)
    measured = next(item for item in led.json("rounds", "list", "-n", "500") if item["clusters"])
    assert led.json("rounds", "show", measured["id"]) == measured
    text = led.ok("rounds", "show", measured["id"])
    assert text.startswith(f"round {measured['id']} at 20")
    for word in ("cluster", "capacity/s", "c1", "c2", "series", "order", measured["detail"]):
        assert word in text
    first = led.json("rounds", "list", "--plans")[0]
    assert first["detail"] == "first mapping: 16 shards over 2 clusters"
    assert "there is no round 9.9" in led.refused(2, "rounds", "show", "9.9")


def test_an_event_reaches_the_balancer(led: Led) -> None:
    """A cluster's capacity is announced only for a cluster that is registered; events show on the page."""
    post = (
        "events",
        "post",
        "--kind",
        "maintenance",
        "--at",
        "+1h",
        "--for",
        "2h",
        "--capacity-factor",
        ".5",
    )
    assert "names cluster c9, which is not registered" in led.refused(2, *post, "--cluster", "c9")
    led.ok(*post, "--cluster", "c1", "--id", "m1")
    led.ok("events", "post", "--kind", "import", "--at", "+1h", "--for", "2h", "--id", "k1", "--rps", "5",
           "--key", f"order:{TENANT},7")  # fmt: skip

    def scopes() -> dict[str, str]:
        return {event["id"]: event["scope"] for event in json.loads(led.fetch("/api/state"))["events"]}

    until(lambda: scopes() == {"m1": "c1", "k1": "1 key of order"}, "both events on the page")
    assert TENANT.encode() not in led.fetch("/api/state")
    led.ok("events", "cancel", "k1")
    until(lambda: set(scopes()) == {"m1"}, "the withdrawn event is gone")


def test_the_page_and_its_state_are_served(led: Led) -> None:
    """The page asks for one thing, which has what it draws; health and metrics are beside it."""
    assert led.fetch("/").startswith(b"<!doctype html>")
    state = json.loads(led.fetch("/api/state"))
    assert state["role"] == "leading"
    assert set(state) == {
        *("role", "model_time", "mode", "frozen", "epoch", "steps_learned"),
        *("clusters", "series", "costs", "decisions", "mapping", "handoffs", "events"),
    }
    assert {item["name"] for item in state["clusters"]} >= {"c1", "c2"}
    assert [item["name"] for item in state["series"]] == ["order", "*"]
    assert state["costs"] == {"learned": False, "cpu_error": None}
    newest = state["decisions"][0]
    assert newest["id"] == f"{newest['epoch']}.{newest['round']}"
    mapping = state["mapping"]
    assert len(mapping["homes"]) == len(mapping["away"]) == 16
    assert sum(mapping["slots"]) == 16 * 256
    assert len(mapping["names"]) == len(mapping["slots"])
    handoffs = state["handoffs"]
    assert {"c1", "c2"} <= set(handoffs["states"]["active"])
    assert (handoffs["hold"], handoffs["held_requests"]) == (0, 0)
    assert json.loads(led.fetch("/healthz"))["ok"] is True
    assert b"foreshard_" in led.fetch("/metrics")


# ---------------------------------------------------------------------------- clusters that leave


@pytest.fixture
def settling(led: Led) -> Iterator[Callable[[Callable[[], bool], str], None]]:
    """A router that reports load and settles every version, in auto mode: waits for something meanwhile."""
    config = load(led.file, {})
    consumer = Consumer(config.kafka | {"group.id": config.file.router.group})
    reports = Reports(led)

    def settle() -> None:
        version = led.json("mapping", "show")["version"]
        note = encode_note(OffsetNote(version, version, 0, config.rules.rules_hash()))
        places = [TopicPartition(config.ingest, number, 0, note) for number in (0, 1)]
        consumer.commit(offsets=places, asynchronous=False)
        reports.send()

    def wait(true: Callable[[], bool], what: str) -> None:
        until(lambda: (settle(), true())[1], what)

    led.ok("mode", "auto")
    yield wait
    led.ok("mode", "observe")
    consumer.close()


def slots(led: Led, cluster: str) -> int:
    """Returns how many slots the cluster owns, -1 where the mapping does not have it."""
    shown = led.json("mapping", "show")
    if cluster not in shown["clusters"]:
        return -1
    return sum(
        stop - start
        for record in shown["records"]
        for start, stop, owner in record["segments"]
        if owner == cluster
    )


def names(led: Led) -> set[str]:
    return {cluster["name"] for cluster in led.json("clusters", "list")}


def test_a_cluster_drains_comes_back_and_is_removed(led: Led, settling: Callable[..., None]) -> None:
    """What cannot be yet is refused with what to type; afterwards nothing names the cluster."""
    led.ok("clusters", "add", "d1", "--capacity", "50")
    settling(lambda: slots(led, "d1") > 0, "the new cluster has slots")
    assert "type `foreshard clusters drain d1` first" in led.refused(2, "clusters", "remove", "d1")
    drains = "cluster d1 drains; when it owns no slots, `foreshard clusters remove d1` forgets it\n"
    assert led.ok("clusters", "drain", "d1") == drains
    settling(lambda: slots(led, "d1") == 0, "it is empty")
    assert "draining" in led.ok("clusters", "list")
    assert led.ok("clusters", "activate", "d1").startswith("cluster d1 is active, was draining")
    settling(lambda: slots(led, "d1") > 0, "its slots come back")
    led.ok("clusters", "drain", "d1")
    settling(lambda: led.run("clusters", "remove", "d1").exit_code == 0, "it can be removed")
    assert slots(led, "d1") == -1
    assert "d1" not in names(led)
    assert "cluster d1 is not registered" in led.refused(2, "clusters", "drain", "d1")
    plans = led.ok("rounds", "list", "--plans")
    assert "d1 is draining, by command" in plans
    assert "d1 is removed, by command" in plans


def test_a_cluster_that_is_down_is_rescued(led: Led, settling: Callable[..., None]) -> None:
    """Its requests go where the mapping says now; the command waits for the end and says how many."""
    led.ok("clusters", "add", "d2", "--capacity", "50")
    topic = f"{led.prefix}.requests.d2"
    producer = Producer({"bootstrap.servers": led.bootstrap})
    for number in range(100):
        value = json.dumps({"type": "order", "tenant": "acme", "user": {"id": number}}).encode()
        producer.produce(topic, value, b"%d" % number)
    assert producer.flush(10) == 0
    assert "type `foreshard clusters down d2` first" in led.refused(2, "clusters", "rescue", "d2")
    assert led.ok("clusters", "down", "d2").startswith("cluster d2 is down, its slots leave")
    settling(lambda: slots(led, "d2") == 0, "it is empty")
    settling(
        lambda: "type `foreshard clusters rescue d2`" in led.run("clusters", "remove", "d2").stderr,
        "what still waits is all that keeps it",
    )
    begun, ended = led.ok("clusters", "rescue", "d2").splitlines()
    assert begun == f"the rescue of d2 has begun: about 100 requests wait in {topic}"
    assert ended == "rescued 100 requests of d2"
    assert led.json("mapping", "show")["clusters"]["d2"]["rescues"] == 1
    settling(lambda: led.run("clusters", "remove", "d2").exit_code == 0, "it can be removed")
    assert "d2" not in names(led)


def test_the_same_rules_are_accepted_without_an_end(led: Led) -> None:
    """Nothing changes, so the balancer leads on."""
    assert "the mapping has these rules already" in led.ok("mapping", "accept-rules")


def store_history(led: Led) -> list[int]:
    """Stores twenty steps in which the shards of c1 are far too much for it; returns their times."""
    config = load(led.file, {})
    homes = [record["home"] for record in led.json("mapping", "show")["records"]]
    counts = [120 if home == "c1" else 3 for home in homes]
    producer = Producer(config.kafka)
    first = int(config.clock.now() // 30) - 30
    for step in range(first, first + 20):
        arrivals = Counts(series=[0] * 16, shard=list(range(16)), count=counts)
        record = LoadHistory(router="r", step=step, step_s=30.0, series=["order"], arrivals=arrivals)
        producer.produce(config.topic(topics.LOAD), record.to_json(), b"r")
    assert producer.flush(10) == 0
    return [30 * step for step in range(first, first + 20)]


def test_stored_load_is_exported_and_makes_homes(led: Led, tmp_path: Path) -> None:
    """A table for simulations; a proposal that evens the homes out, and takes effect when applied."""
    times = store_history(led)
    file = tmp_path / "history.csv"
    assert led.ok("load", "export", str(file)).endswith(f" steps in {file}\n")
    rows = [row for row in csv.DictReader(file.open()) if int(row["time"]) in times]
    assert [row["series"] for row in rows] == ["order", "*"] * 20
    assert {int(row["requests"]) for row in rows if row["series"] == "*"} == {0}
    assert led.ok("load", "export", "-", "--shards").startswith("time,series,shard,requests\n")
    assert "--to is not after --from" in led.refused(2, "load", "export", "x.csv", "--from", "+1h")

    proposal = led.json("rehome", "--days", "0.05")
    before = {cluster["name"]: cluster["load_cps"] for cluster in proposal["clusters"]}
    after = {cluster["name"]: cluster["new_load_cps"] for cluster in proposal["clusters"]}
    assert after["c1"] < before["c1"]
    assert {item["home"] for item in proposal["homes"]} == {"c1"}
    assert 0 < proposal["moved_cps"] < proposal["load_cps"]
    assert "shards get another home" in led.ok("rehome", "--days", "0.05")
    new = {item["shard"]: item["new_home"] for item in proposal["homes"]}

    def homes() -> dict[int, str]:
        return {record["shard"]: record["home"] for record in led.json("mapping", "show")["records"]}

    assert homes() != homes() | new, "showing changes nothing"
    assert proposal["answer"] is None
    assert f"{len(new)} of 16 shards have new homes" in led.ok("rehome", "--days", "0.05", "--apply")
    assert homes() == homes() | new
    newest = led.json("rounds", "list", "--plans", "-n", "1")[0]
    assert newest["detail"] == f"{len(new)} of 16 shards have new homes, by command"
