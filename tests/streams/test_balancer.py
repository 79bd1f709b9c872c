"""The balancer process on a real broker: first start, bad records, succession, its end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from app.local_kafka import LocalKafka
from schemas.records import (
    ClusterMetrics,
    Counts,
    Decision,
    Event,
    Freeze,
    LoadHistory,
    MappingRecord,
    Skip,
)
from schemas.topics import DECISIONS, STATE
from streams.balancer import Assigned, Balancer, Role, Settings
from streams.mapping_topic import MappingWriter
from tests.streams.balancer_kit import SHARDS, BalancedSite, balanced_site
from tests.streams.router_kit import wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def site(kafka: LocalKafka, prefix: str, tmp_path: Path) -> Iterator[BalancedSite]:
    """Topics on the shared broker, no mapping yet."""
    with balanced_site(kafka.bootstrap, prefix, tmp_path) as made:
        yield made


def event(site: BalancedSite, name: str = "e1") -> Event:
    return Event(id=name, kind="campaign", start=site.now, end=site.now + 3600, types=["update"], uplift=2.0)


def test_commands_written_before_the_first_start_are_applied_before_version_1(site: BalancedSite) -> None:
    """Version 1 has all three clusters; its epoch is 1; the commands were answered before it."""
    site.register()
    balancer = site.balancer(lead=False)
    wait_for("version 1", site.metas)
    meta = site.metas()[0]
    assert (meta.version, meta.epoch, sorted(meta.clusters)) == (1, 1, ["c1", "c2", "c3"])
    shards = [record for _, record in site.mapping() if isinstance(record, MappingRecord)]
    assert [record.shard for record in shards] == list(range(SHARDS))
    first = [record for _, record in site.decisions()][:5]
    assert [type(record).__name__ for record in first] == ["Answer"] * 4 + ["Decision"]
    assert all(answer.accepted for answer in site.answers().values())
    assert balancer.stop() < 5.0


def test_clean_end_hands_over_at_once(site: BalancedSite) -> None:
    """SIGTERM ends the leader in under 5 s, and the standby leads without waiting for a session to end."""
    site.register()
    first = site.balancer()
    second = site.balancer(lead=False)
    wait_for("the other stands by", lambda: second.role() == "standby")
    site.command(Freeze(id="f1", at=site.now, reason="release day"))
    wait_for("the freeze is answered", lambda: "f1" in site.answers())
    assert first.stop() < 5.0
    site.wait_leading(second, 8.0)
    wait_for("the new epoch", lambda: site.metas()[-1].epoch == 2)
    assert site.metas()[-1].version == 1
    wait_for("a round of the new leader", lambda: site.rounds()[-1].epoch == 2)
    last = site.rounds()[-1]
    assert (last.skip, last.detail) != (None, "")
    text = second.get("/metrics")
    assert "foreshard_balancer_leading 1.0" in text
    assert "foreshard_balancer_epoch 2.0" in text
    assert "foreshard_balancer_learned_steps 0.0" in text
    assert "foreshard_balancer_round_seconds_count" in text
    assert 'foreshard_balancer_clusters{state="active"} 3.0' in text
    assert 'foreshard_balancer_clusters{state="down"} 0.0' in text
    assert "foreshard_balancer_settled_mapping_version 0.0" in text  # no router has settled anything
    assert "foreshard_balancer_pending_shards 0.0" in text
    assert second.stop() < 5.0


def test_bad_records_are_dead_lettered_and_cost_nothing_else(site: BalancedSite) -> None:
    """Each with error, reason and source; the next good record of every topic is applied."""
    site.register()
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    good = json.loads(event(site).to_json())
    bad: list[tuple[str, bytes | None, bytes | None, str]] = [
        ("load", b"not json", b"r", "Invalid JSON"),
        ("load", b"", b"r", "the value is empty"),
        ("load", b'{"schema":1,"kind":"history","router":"r","step":NaN}', b"r", "load record"),
        ("metrics", b'{"cluster":"c1","instance":"i","at":1,"interval_s":10,"cpu":NaN}', b"c1", "cpu"),
        (
            "metrics",
            b'{"cluster":"c1","instance":"i","at":1,"interval_s":10,"capacity_cps":-5.0}',
            b"c1",
            "capacity_cps",
        ),
        ("metrics", b'{"cluster":"c9","instance":"i","at":1,"interval_s":10}', b"c9", "not registered"),
        ("metrics", b'{"cluster":"c1","instance":"i","at":1e15,"interval_s":10}', b"c1", "ahead of"),
        ("events", json.dumps(good | {"end": good["start"] - 1}).encode(), b"e1", "not after its start"),
        ("events", event(site).to_json(), b"e2", "record key 'e2'"),
        ("events", b"", b"e1", "the value is empty"),
        (
            "events",
            json.dumps(
                {**good, "types": [], "cluster": "c9", "uplift": None, "capacity_factor": 0.5}
            ).encode(),
            b"e1",
            "not registered",
        ),
        ("commands", b"{", None, "command"),
        ("commands", b'{"id":"x","at":1,"kind":"dance"}', None, "kind"),
        ("commands", None, None, "the value is empty"),
    ]
    for topic, value, key, _ in bad:
        site.put(topic, value, key)
    site.put("events", event(site).to_json(), b"e1")
    site.put("load", site.report().to_json(), b"test")
    full = ClusterMetrics(cluster="c1", instance="i", at=site.now, interval_s=100.0, memory=0.99)
    site.put("metrics", full.to_json(), b"c1")
    site.command(Freeze(id="f1", at=site.now, reason="after the bad ones"))

    def applied() -> Decision | None:
        found = [d for d in site.rounds() if d.events == ["e1"] and d.detail == "after the bad ones"]
        return next((d for d in found if any("memory" in view.notes for view in d.clusters)), None)

    decision = wait_for("a round with all good records", applied)
    assert decision.skip is Skip.FROZEN
    letters = wait_for(
        "all dead letters", lambda: len(site.dead_letters()) >= len(bad) and site.dead_letters()
    )
    assert len(letters) == len(bad)
    for topic, value, _, reason in bad:
        source = f"{site.prefix}{topic}["
        matching = [
            letter
            for letter in letters
            if letter["source"].startswith(source)
            and letter["value"] == (value or b"").decode()
            and reason in letter["reason"]
        ]
        assert matching, f"{topic}: {reason}: {letters}"
        assert matching[0]["error"] == "invalid-record"
    text = balancer.get("/metrics")
    assert 'foreshard_balancer_bad_records_total{topic="events"} 4.0' in text
    site.put("events", None, b"e1")
    wait_for("the withdrawal is applied", lambda: site.rounds()[-1].events == [])

    assert balancer.stop() < 5.0
    site.put("load", b"while nobody leads", b"r")
    heir = site.balancer()
    wait_for("the new dead letter", lambda: len(site.dead_letters()) > len(bad))
    wait_for("a round", lambda: site.rounds()[-1].epoch == 2)
    assert len(site.dead_letters()) == len(bad) + 1
    heir.stop()


def test_a_record_as_large_as_the_broker_takes_is_dead_lettered(site: BalancedSite) -> None:
    """Its reason is cut, its value kept: it stops no round."""
    site.register()
    balancer = site.balancer()
    value = b'{"schema":1,"kind":"report",' + b'"x":1,' * 170_000
    site.put("load", value[:1_040_000], b"r")
    (letter,) = wait_for("the dead letter", site.dead_letters)
    assert len(letter["value"]) > 1_000_000
    seen = len(site.rounds())
    wait_for("rounds go on", lambda: len(site.rounds()) > seen)
    balancer.stop()


def test_other_rules_than_the_mappings_are_refused_at_start(site: BalancedSite) -> None:
    """A balancer that could never lead does not stand by: exit status 6, with both shard counts."""
    site.register()
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    other = site.folder / "other.toml"
    other.write_text(site.path.read_text().replace(f"shards = {SHARDS}", "shards = 64"))
    refused = site.start("balancer", path=other)
    assert refused.process.wait(30) == 6
    assert f"made for {SHARDS} shards" in refused.stderr()
    assert "configuration has 64 shards" in refused.stderr()
    assert balancer.role() == "leading"
    balancer.stop()


def test_missing_topics_are_named(kafka: LocalKafka, site: BalancedSite) -> None:
    """Exit status 5, the topic, and what to type."""
    other = site.folder / "other.toml"
    other.write_text(site.path.read_text().replace(f'prefix = "{site.prefix}"', 'prefix = "nobody."'))
    ended = site.start("balancer", path=other)
    assert ended.process.wait(30) == 5
    assert "nobody.mapping" in ended.stderr()
    assert "foreshard topics create" in ended.stderr()


def test_take_over_learns_history_and_passes_over_old_reports(site: BalancedSite) -> None:
    """Stored history counts whatever its age; 5-s reports of long ago are not even decoded."""
    site.register()
    first = int(site.now // 30) - 40
    for step in range(first, first + 40):
        arrivals = Counts(series=[0], shard=[step % SHARDS], count=[30])
        history = LoadHistory(router="r", step=step, step_s=30.0, series=["update"], arrivals=arrivals)
        site.put("load", history.to_json(), b"r", age_s=3600)
    broken = site.report().to_json()[:-5]
    site.put("load", broken, b"r", age_s=3600)
    site.put("load", broken, b"r")
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    learned = re.search(r"^foreshard_balancer_learned_steps (\S+)$", balancer.get("/metrics"), re.MULTILINE)
    assert learned
    assert float(learned[1]) >= 40
    assert len(wait_for("the dead letter", site.dead_letters)) == 1
    balancer.stop()


def test_leader_that_cannot_write_ends_and_its_successor_continues(site: BalancedSite) -> None:
    """The core has gone on as if its records were stored, so the process must not: status 4, and why."""
    site.register()
    balancer = site.balancer()
    wait_for("version 1", site.metas)
    limit(site, "120")  # bytes: a transaction marker fits, no decision does
    site.command(site.add("c1", 50.0, id="again", group="other"))
    assert balancer.process.wait(60) == 4
    assert "could not be written in 5 attempts" in balancer.stderr()
    assert [meta.version for meta in site.metas()] == [1]
    limit(site, "1048588")
    heir = site.balancer()
    wait_for("the command is applied", lambda: "again" in site.answers())
    assert site.answers()["again"].epoch == 2
    assert site.metas()[-1].clusters["c1"].group == "other"
    heir.stop()


def limit(site: BalancedSite, most_bytes: str) -> None:
    """Sets the largest record of the decisions topic, as a careless operator might."""
    entry = ConfigEntry("max.message.bytes", most_bytes, incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, site.config.topic(DECISIONS), incremental_configs=[entry])
    admin = site.admin
    for done in admin.incremental_alter_configs([topic]).values():
        done.result(20)


def test_assignment_that_was_taken_back_fences_nobody(site: BalancedSite) -> None:
    """A signal that waited too long in the channel: the partition is another's by now."""
    leader = MappingWriter({"bootstrap.servers": site.bootstrap}, site.prefix)
    leader.take_over()
    config = site.config
    settings = Settings(
        config.kafka, config.prefix, config.ingest, "r", config.rules, config.rounds, config.clock
    )
    failures: list[BaseException] = []
    late = Balancer(settings, failures.append)
    asyncio.run(late.on_commands(Assigned(1)))
    assert late.role is Role.STANDBY
    leader.write([(config.topic(STATE), b"k", b"{}")])
    leader.close()
    assert not failures
