"""The command line on a real broker, as an operator uses it, and the page of the balancer that answers it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from app.cli import main
from app.config import load
from app.local_kafka import LocalKafka
from schemas import topics
from schemas.records import Counts, LoadReport, PartitionLoad
from tests.streams.broker import make_topic, until

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
[kafka]
"bootstrap.servers" = "{bootstrap}"
[topics]
prefix = "{prefix}."
ingest = "{prefix}.requests"
replication_factor = 1
cluster_partitions = 3
[sharding]
shards = 16
[[request_types]]
name = "order"
key = ["json:tenant", "json:user.id"]
[[request_types]]
name = "*"
key = ["key"]
[clock]
start = {now}
t0 = {now}
time_scale = 10
[balancer]
dwell_s = 180
[web]
port = 0
"""
TENANT = "acme-of-the-secret-tenant"
"""A key value: it may be in an event, it must not be on the page."""


@dataclass
class Cli:
    """`foreshard` with one configuration file, in this process."""

    file: Path
    bootstrap: str
    prefix: str

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "-c", str(self.file)])

    def ok(self, *arguments: str) -> str:
        """Runs a command that must succeed; returns what it printed."""
        answer = self.run(*arguments)
        assert answer.exit_code == 0, answer.stderr
        return answer.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, status: int, *arguments: str) -> str:
        """Runs a command that must end with this status; returns what it said on stderr."""
        answer = self.run(*arguments)
        assert answer.exit_code == status, answer.stdout + answer.stderr
        return answer.stderr


def cli_for(folder: Path, bootstrap: str, prefix: str) -> Cli:
    path = folder / "foreshard.toml"
    path.write_text(CONFIGURATION.format(bootstrap=bootstrap, prefix=prefix, now=time.time()))
    return Cli(path, bootstrap, prefix)


@pytest.fixture
def cli(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Cli:
    """The command line with topics of its own, none of them made yet."""
    return cli_for(tmp_path, kafka.bootstrap, prefix)


@pytest.fixture
def made(cli: Cli) -> Cli:
    """The same with its topics made."""
    cli.ok("topics", "create", "--ingest-partitions", "2")
    return cli


# ---------------------------------------------------------------------------- topics


def test_topics_are_made_once_and_then_found(cli: Cli) -> None:
    """The ingest topic is its producers', unless its partitions are given; twice changes nothing."""
    answer = cli.run("topics", "create")
    assert answer.exit_code == 5
    assert f"{cli.prefix}.requests" in answer.stdout.splitlines()[-1]
    assert "`foreshard topics create --ingest-partitions N`" in answer.stdout
    cli.ok("topics", "create", "--ingest-partitions", "2")
    again = cli.json("topics", "create", "--ingest-partitions", "2")
    assert {item["text"] for item in again} == {"was there already"}
    names = {f"{cli.prefix}.{spec.name}" for spec in topics.OWN_TOPICS} | {f"{cli.prefix}.requests"}
    assert {item["topic"] for item in again} == names
    assert all(item["ok"] for item in cli.json("topics", "check"))


def test_topics_check_finds_what_is_wrong_and_says_what_to_type(cli: Cli) -> None:
    """A missing topic, a wrong partition count, a wrong setting, a limit without room: status 5."""
    make_topic(cli.bootstrap, f"{cli.prefix}.requests")
    make_topic(cli.bootstrap, f"{cli.prefix}.load", 1, {"retention.ms": str(28 * 86_400_000)})
    make_topic(
        cli.bootstrap, f"{cli.prefix}.mapping", 1, topics.MAPPING.settings | {"cleanup.policy": "delete"}
    )
    make_topic(cli.bootstrap, f"{cli.prefix}.dead-letter", 4, {"retention.ms": str(28 * 86_400_000)})
    answer = cli.run("topics", "check", "--json")
    assert answer.exit_code == 5
    found = {item["topic"].removeprefix(cli.prefix + "."): item["text"] for item in json.loads(answer.stdout)}
    assert found["requests"] == "1 partition"
    assert found["state"] == "missing; type `foreshard topics create`"
    assert found["load"] == "1 partition instead of 4: it has to be made again"
    assert found["mapping"].startswith("cleanup.policy is delete instead of compact; type kafka-configs.sh")
    assert "max.message.bytes is 1048588 instead of 1114124" in found["dead-letter"]
    assert "--add-config max.message.bytes=1114124" in found["dead-letter"]


def test_more_replicas_than_brokers_names_the_option(cli: Cli) -> None:
    """The default of 3 on a single broker: what to change, and nothing made."""
    cli.file.write_text(cli.file.read_text().replace("replication_factor = 1", "replication_factor = 3"))
    answer = cli.run("topics", "create")
    assert answer.exit_code == 5
    assert "fewer than 3 brokers; set replication_factor in [topics]" in answer.stdout


def test_a_missing_topic_is_named_with_what_makes_it(cli: Cli) -> None:
    """Every verb that reads or writes a topic: status 5 before anything is sent."""
    for verb in (
        ["clusters", "list"],
        ["clusters", "add", "c1", "--capacity", "5"],
        ["events", "list"],
        ["rounds", "list"],
        ["mapping", "show"],
        ["mode", "auto"],
        ["freeze", "--no-wait"],
    ):
        said = cli.refused(5, *verb)
        assert said.startswith(f"foreshard: topic: {cli.prefix}.")
        assert "does not exist; type `foreshard topics create`" in said


# ---------------------------------------------------------------------------- without a balancer


def test_without_a_balancer_a_command_is_stored_and_says_so(made: Cli) -> None:
    """Nobody runs: known at once, status 10 and the command that starts one; --no-wait does not ask."""
    began = time.monotonic()
    said = made.refused(10, "mode", "auto")
    assert "not-ready: no balancer runs yet; command mode-" in said
    assert "`foreshard balancer`" in said
    assert time.monotonic() - began < 10
    assert made.ok("freeze", "--no-wait").startswith("stored as freeze-")


def test_before_the_first_start_everything_is_empty_and_says_what_comes_next(made: Cli) -> None:
    """No cluster, event, round or mapping yet: a word each, and [] for programs."""
    assert "type `foreshard clusters add" in made.ok("clusters", "list")
    assert made.ok("events", "list") == "no events\n"
    assert "`foreshard balancer`" in made.ok("rounds", "list")
    assert made.json("clusters", "list") == made.json("events", "list") == made.json("rounds", "list") == []
    assert "there is no mapping yet: `foreshard clusters add`" in made.refused(10, "mapping", "show")
    assert "no mapping yet" in made.refused(10, "mapping", "owner", "a", "b", "--type", "order")
    assert "there is no round 1.1" in made.refused(2, "rounds", "show", "1.1")


def test_a_cluster_that_cannot_be_is_refused(made: Cli) -> None:
    """Capacity, name, topic: wrong ones are refused before anything is stored."""
    add = ("clusters", "add", "c1", "--capacity")
    for capacity in ("-5", "0", "nan", "inf"):
        assert "cluster c1: capacity_cps: " in made.refused(2, *add, capacity)
    assert "cluster: String should match pattern" in made.refused(
        2, "clusters", "add", "c 1", "--capacity", "5"
    )
    assert "missing" in made.refused(5, *add, "5", "--topic", "nowhere")
    assert "is the ingest topic" in made.refused(5, *add, "5", "--topic", f"{made.prefix}.requests")
    assert "is our own" in made.refused(5, *add, "5", "--topic", f"{made.prefix}.load")
    small = make_topic(made.bootstrap, f"{made.prefix}.small")
    assert "max.message.bytes=1114124" in made.refused(5, *add, "5", "--topic", small)
    room = {"max.message.bytes": "1114124"}
    compacted = make_topic(made.bootstrap, f"{made.prefix}.kept", 1, room | {"cleanup.policy": "compact"})
    assert "cleanup.policy is compact" in made.refused(5, *add, "5", "--topic", compacted)


def test_a_cluster_topic_needs_the_ingest_topic_for_its_size(cli: Cli) -> None:
    """What records may come decides what a cluster's topic must take."""
    cli.run("topics", "create")
    said = cli.refused(5, "clusters", "add", "c1", "--capacity", "5")
    assert f"ingest topic {cli.prefix}.requests does not exist" in said


def test_events_are_posted_listed_and_withdrawn(made: Cli) -> None:
    """Types, keys with a comma, rate, total; a bad record of somebody else is named and can be withdrawn."""
    made.ok("events", "post", "--kind", "campaign", "--at", "tomorrow 10:00", "--for", "2h", "--id", "sale",
            "--type", "order", "--type", "*", "--uplift", "2.5")  # fmt: skip
    said = made.ok("events", "post", "--kind", "import", "--at", "+1h", "--for", "40m", "--id", "in",
                   "--key", f'order:{TENANT},"7,5"', "--key", f"order:{TENANT},8",
                   "--total", "2400")  # fmt: skip
    assert "+ 1 requests/s" in said
    producer = Producer({"bootstrap.servers": made.bootstrap})
    producer.produce(f"{made.prefix}.events", b"not JSON", b"broken")
    assert producer.flush(10) == 0
    answer = made.run("events", "list", "--json")
    assert answer.stderr.startswith("left out broken: Event: ")
    first, second = json.loads(answer.stdout)
    assert (first["id"], first["keys"][0]["values"]) == ("in", [TENANT, "7,5"])
    assert (second["types"], second["end"] - second["start"]) == (["order", "*"], 7200)
    text = made.ok("events", "list").splitlines()
    assert [line.split()[:3] for line in text[1:]] == [["in", "import", "to"], ["sale", "campaign", "to"]]
    for event in ("sale", "broken"):
        assert made.ok("events", "cancel", event) == f"withdrawn: {event}\n"
    assert "there is no event sale" in made.refused(2, "events", "cancel", "sale")
    assert [event["id"] for event in made.json("events", "list")] == ["in"]
    over = made.run(
        "events", "post", "--kind", "x", "--at", "2020-01-01", "--for", "1h", "--type", "*", "--rps", "1"
    )
    assert (over.exit_code, over.stderr) == (0, "note: it is over already\n")


# ---------------------------------------------------------------------------- with a balancer


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


def measure(led: Led) -> None:
    """Reports a load until a round has seen it: 80 requests/s, most of them in one shard."""
    config = load(led.file, {})
    producer = Producer(config.kafka)
    start, offset = config.clock.now() // 5 * 5, 0

    def seen() -> bool:
        nonlocal start, offset
        while start + 5 <= config.clock.now():
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
            producer.produce(config.topic(topics.LOAD), report.to_json(), b"r")
            start, offset = start + 5, offset + sum(counts.count)
        assert producer.flush(10) == 0
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
        *("clusters", "series", "decisions", "mapping", "events"),
    }
    assert {item["name"] for item in state["clusters"]} >= {"c1", "c2"}
    assert [item["name"] for item in state["series"]] == ["order", "*"]
    newest = state["decisions"][0]
    assert newest["id"] == f"{newest['epoch']}.{newest['round']}"
    mapping = state["mapping"]
    assert len(mapping["homes"]) == len(mapping["away"]) == 16
    assert sum(mapping["slots"]) == 16 * 256
    assert len(mapping["names"]) == len(mapping["slots"])
    assert json.loads(led.fetch("/healthz"))["ok"] is True
    assert b"foreshard_" in led.fetch("/metrics")


# ---------------------------------------------------------------------------- no broker


def test_a_broker_that_is_away_is_said_in_one_line_and_soon(tmp_path: Path) -> None:
    """Status 4, the address, what to check; nothing of librdkafka on the terminal; well under a minute."""
    cli = cli_for(tmp_path, "127.0.0.1:1", "x")
    verbs = (
        ["clusters", "list"],
        ["mode", "auto"],
        ["topics", "create"],
    )
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", *verb, "-c", str(cli.file)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for verb in verbs
    ]  # fmt: skip
    for process in running:
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (4, "")
        assert said.startswith("foreshard: broker-unreachable: no answer from 127.0.0.1:1 (not within 8 s)")
        assert said.count("\n") == 1
    assert time.monotonic() - began < 30  # 8 s, and three interpreters that start on a busy machine
