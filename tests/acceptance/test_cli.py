"""The command line on a real broker without a balancer, as an operator uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from app.local_kafka import LocalKafka
from schemas import topics
from tests.acceptance.cli_kit import ROOT, TENANT, Cli, cli_for
from tests.streams.broker import make_topic

pytestmark = pytest.mark.broker


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
        ["balancer"],
    ):
        said = cli.refused(5, *verb)
        assert said.startswith(f"foreshard: topic: {cli.prefix}.")
        assert " exist; type `foreshard topics create" in said


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
