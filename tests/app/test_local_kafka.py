"""The local Kafka: it is chosen in order, it works, and it never outlives its user."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app import local_kafka as module
from app import local_kafka_java as java_module
from app.local_kafka import LocalKafka, local_kafka
from app.local_kafka_java import find_jars, find_java
from schemas.errors import NoKafkaError

ROOT = Path(__file__).resolve().parents[2]
ORPHAN_S = 10.0  # the guard looks every quarter of a second; the rest is for a busy machine


def round_trip(bootstrap: str, topic: str) -> bytes | None:
    """The value of a record after its way through a new topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, b"there and back")
    assert producer.flush(30) == 0
    return first_value(bootstrap, topic)


def first_value(bootstrap: str, topic: str) -> bytes | None:
    """The value of the topic's first record; None when it has none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        messages = consumer.consume(1, timeout=30)
        return messages[0].value() if messages else None
    finally:
        consumer.close()


def gone(pid: int, within_s: float = ORPHAN_S) -> bool:
    """Whether the process ended in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def start_in_a_process() -> tuple["subprocess.Popen[str]", psutil.Process]:
    """`python -m app.local_kafka`, and its broker's JVM."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "app.local_kafka"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("127.0.0.1:")
    children = psutil.Process(owner.pid).children(recursive=True)
    (jvm,) = [child for child in children if Path(child.cmdline()[0]).name == "java"]
    return owner, jvm


def java_only() -> None:
    """Leave out, and say so, what is about a broker started from jars where another way is used."""
    if os.environ.get("KAFKA_BOOTSTRAP") or module._why_no_docker() is None:
        pytest.skip("left out: this machine's Kafka is not started from Java")
    if isinstance(find_java(os.environ.get("JAVA_HOME", "")), str):
        pytest.skip("left out: no Java here")


@pytest.mark.broker
def test_a_record_makes_the_round_trip(kafka: LocalKafka, prefix: str) -> None:
    """The session's broker takes topics and records."""
    assert round_trip(kafka.bootstrap, f"{prefix}.trip") == b"there and back"


@pytest.mark.broker
def test_an_unknown_topic_is_not_made_by_the_broker(kafka: LocalKafka, prefix: str) -> None:
    """A mistyped topic fails here as it does in production."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.list_topics(f"{prefix}.nobody-made-it", timeout=10)
    assert f"{prefix}.nobody-made-it" not in admin.list_topics(timeout=10).topics


@pytest.mark.broker
def test_a_killed_broker_comes_back_with_its_data_and_leaves_no_folder(tmp_path: Path) -> None:
    """kill and restart keep address and records, extra settings reach the broker, the end removes all."""
    java_only()
    with local_kafka(extra={"message.max.bytes": "123456"}) as own:
        assert own.java is not None
        folder = own.java.folder
        address, first_pid = own.bootstrap, own.pid
        assert round_trip(address, "kept") == b"there and back"
        own.kill()
        assert own.pid is None
        own.restart()
        assert (own.bootstrap, own.pid != first_pid) == (address, True)
        assert first_value(address, "kept") == b"there and back"
        assert "message.max.bytes=123456\n" in (folder / "server.properties").read_text()
        last_pid = own.pid
    assert last_pid is not None
    assert not psutil.pid_exists(last_pid)
    assert not folder.exists()


@pytest.mark.broker
def test_a_data_folder_of_ones_own_is_found_again(tmp_path: Path) -> None:
    """With `data_dir` the records outlive the broker."""
    java_only()
    with local_kafka(data_dir=tmp_path) as first:
        round_trip(first.bootstrap, "kept")
    with local_kafka(data_dir=tmp_path) as second:
        assert first_value(second.bootstrap, "kept") == b"there and back"
    assert (tmp_path / "data").is_dir()


@pytest.mark.broker
def test_an_owner_killed_with_sigkill_leaves_no_broker_and_no_data() -> None:
    """The guard notices: no JVM, no guard, no folder stay behind."""
    java_only()
    owner, jvm = start_in_a_process()
    guard = jvm.parent()
    assert guard is not None
    folder = Path(jvm.cmdline()[-1]).parent
    owner.kill()
    owner.communicate()
    assert gone(jvm.pid)
    assert gone(guard.pid)
    assert not folder.exists()


@pytest.mark.broker
def test_a_killed_guard_takes_the_broker_with_it() -> None:
    """Even the keeper may be killed: the kernel ends the JVM."""
    java_only()
    owner, jvm = start_in_a_process()
    guard = jvm.parent()
    assert guard is not None
    guard.kill()
    assert gone(jvm.pid)
    owner.terminate()
    owner.communicate(timeout=30)


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_owner_stops_its_broker_and_removes_its_data(number: signal.Signals) -> None:
    """Ctrl-C, or a kill, ends it in order and without a traceback's exit code."""
    java_only()
    owner, jvm = start_in_a_process()
    folder = Path(jvm.cmdline()[-1]).parent
    owner.send_signal(number)
    owner.communicate(timeout=30)
    assert owner.returncode == 0
    assert not psutil.pid_exists(jvm.pid)
    assert not folder.exists()


@pytest.mark.broker
def test_a_failing_body_stops_the_broker() -> None:
    """An exception of the user's passes through, and the broker is gone."""
    java_only()
    pids: list[int] = []

    def fail() -> None:
        with local_kafka() as own:
            assert own.pid is not None
            pids.append(own.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not psutil.pid_exists(pids[0])


@pytest.mark.broker
def test_kafka_bootstrap_goes_before_every_other_way(
    kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's broker is used as it is, and is not ours to stop."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka.bootstrap)
    with local_kafka() as external:
        assert (external.kind, external.bootstrap, external.pid) == ("external", kafka.bootstrap, None)
        external.stop()
        with pytest.raises(NoKafkaError, match="not ours"):
            external.kill()
    assert module.answers(kafka.bootstrap, 10)


def test_a_kafka_bootstrap_that_does_not_answer_is_an_error_and_no_other_way_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who names a broker wants that one."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setattr(module, "EXTERNAL_S", 0.5)
    with pytest.raises(NoKafkaError, match=r"127\.0\.0\.1:1 does not answer"), local_kafka():
        pass


def test_without_any_way_one_message_names_all_three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No broker, no Docker, no Java: the text says what each of them lacks."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-docker.sock")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoKafkaError) as refused, local_kafka():
        pass
    text = str(refused.value)
    assert refused.value.code == "no-kafka"
    ways = ("1. KAFKA_BOOTSTRAP", "2. a Docker daemon: none answers", "3. Java 17", "no java on the PATH")
    for way in ways:
        assert way in text


def test_java_that_is_too_old_is_named_with_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kafka 4 does not run on Java 11; the message says so before the broker would."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java("") == f"{java} is version 11"


def testfree_ports_are_different_and_free() -> None:
    """Broker and controller each get a port that can be bound."""
    ports = module.free_ports(20)
    assert len(set(ports)) == 20
    assert all(port in module.PORTS for port in ports)


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout without jars, and an `mvn` on the PATH that writes one and counts its calls in a file."""
    pom = tmp_path / "deploy/kafka/pom.xml"
    pom.parent.mkdir(parents=True)
    pom.write_text("<project/>")
    mvn = tmp_path / "bin/mvn"
    mvn.parent.mkdir()
    mvn.write_text(
        '#!/bin/sh\necho call >> "$(dirname "$0")/calls"\n'
        'for a; do case $a in -DoutputDirectory=*) d=${a#*=};; esac; done\nmkdir "$d" && : > "$d/kafka.jar"\n'
    )
    mvn.chmod(0o755)
    monkeypatch.setattr(java_module, "ROOT", tmp_path)
    monkeypatch.setattr(java_module, "POMS", (pom,))
    monkeypatch.setenv("PATH", f"{mvn.parent}:/usr/bin:/bin")
    return tmp_path


def test_two_who_need_the_jars_at_once_fetch_them_once(checkout: Path) -> None:
    """One fetches, the other waits for it; whoever comes later finds them."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: find_jars(lambda text: None), range(2))
    assert first == second == find_jars(lambda text: None)
    assert isinstance(first, Path)
    assert [path.name for path in first.iterdir()] == ["kafka.jar"]
    assert (checkout / "bin/calls").read_text() == "call\n"


def test_a_failed_download_is_an_error_with_mavens_words_and_leaves_nothing(checkout: Path) -> None:
    """The next attempt starts afresh."""
    (checkout / "bin/mvn").write_text("#!/bin/sh\necho 'Could not transfer artifact'\nexit 1\n")
    with pytest.raises(NoKafkaError, match="Could not transfer artifact"):
        find_jars(lambda text: None)
    assert [path.name for path in (checkout / ".work/kafka-jars").iterdir()] == ["lock"]
