"""Processes of a run: killed, stopped, brought back, and none left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.chaos.crew import Crew
from app.chaos.failures import Failure
from app.chaos.storm import Storm
from app.local_kafka import LocalKafka

SERVER = ("http.server", "--bind", "127.0.0.1", "0")
"""A process of the standard library that runs until it is ended."""
WAIT_S = 20.0


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path) as made:
        yield made


def status(pid: int) -> str:
    return str(psutil.Process(pid).status()) if psutil.pid_exists(pid) else "gone"


def test_a_killed_member_is_restarted_as_another_process_with_a_log_of_its_own(crew: Crew) -> None:
    member = crew.start("one", "router", *SERVER)
    before = member.process.pid
    crew.kill(member)
    assert status(before) == "gone"
    crew.restart(member)
    assert member.process.pid != before
    assert member.log.name == "one.2.log"
    assert crew.of("router", "up") == [member]


def test_a_frozen_member_does_nothing_until_it_continues(crew: Crew) -> None:
    member = crew.start("one", "router", *SERVER)
    crew.freeze(member)
    until(lambda: status(member.process.pid) == psutil.STATUS_STOPPED, "it is stopped")
    crew.thaw(member)
    until(lambda: status(member.process.pid) != psutil.STATUS_STOPPED, "it continues")


def test_a_member_that_ends_by_itself_is_found_once_with_its_last_words(crew: Crew) -> None:
    member = crew.start("one", "backend", "no_such_module")
    until(lambda: member.process.poll() is not None, "it ends")
    assert list(crew.fallen()) == [member]
    assert list(crew.fallen()) == []
    assert "no_such_module" in member.last_words()


def test_nobody_is_left_behind_not_even_a_stopped_one(tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        pids = [crew.start(name, "router", *SERVER).process.pid for name in ("one", "two")]
        crew.freeze(crew.members["two"])
    assert [status(pid) for pid in pids] == ["gone", "gone"]


def test_a_storm_does_what_is_scheduled_and_calms_down(crew: Crew) -> None:
    """A kill with a later restart, a stop, two more routers and one less; at the end all are well."""

    def start(index: int) -> None:
        crew.start(f"router-{index}", "router", *SERVER)

    start(0)
    crew.start("c1-0", "backend", *SERVER)
    failures = [
        Failure(0.0, "kill", "backend", 0.5, for_s=0.1),
        Failure(0.0, "routers", "router", count=3),
        Failure(0.1, "freeze", "router", 0.99, for_s=60.0),
        Failure(0.2, "kill", "mapping"),
        Failure(0.3, "routers", "router", count=2),
        Failure(0.3, "freeze", "router", 0.0, for_s=60.0),
    ]
    storm = Storm(crew, failures, LocalKafka("", "external"), start, time.monotonic())
    until(lambda: storm.tick() or len(storm.timeline) == len(failures) + 1, "all has happened")
    storm.calm()
    assert storm.kills == 3
    assert sorted((item.what, item.whom) for item in storm.timeline) == [
        ("continue", "router-0"),
        ("freeze", "router-0"),
        ("freeze", "router-2"),
        ("kill", "c1-0"),
        ("no kill", "mapping"),
        ("routers", "router"),
        ("routers", "router"),
        ("start", "c1-0"),
    ]
    assert [member.state for member in crew.members.values()] == ["up", "up", "up", "ended"]


def test_a_router_that_ends_by_itself_is_started_again_and_noted(crew: Crew) -> None:
    member = crew.start("router-0", "router", "no_such_module")
    storm = Storm(crew, [], LocalKafka("", "external"), lambda _index: None, time.monotonic())
    until(lambda: storm.tick() or member.incarnation == 2, "it is started again")
    assert [item.what for item in storm.timeline][:2] == ["ended by itself", "start"]
    assert "status 1" in storm.timeline[0].detail
