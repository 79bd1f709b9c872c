"""A Kafka for the demo, the tests and the benchmarks.

Where it comes from, in this order: `KAFKA_BOOTSTRAP` (somebody else's broker); a Docker daemon; Java 17 with
Maven. A broker started here listens on 127.0.0.1 only, on ports of its own, and goes when its user goes.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.interruption import interruptible
from app.local_kafka_java import JAVA_MIN, START_S, JavaBroker, find_jars, find_java, prepare
from schemas.errors import NoKafkaError

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "apache/kafka:4.2.0"  # the version of deploy/kafka/pom.xml; 4.3.0 and 4.3.1 lose transaction markers
EXTERNAL_S = 15.0  # how long somebody else's broker may take to answer
PORTS = range(15000, 30000)  # below every ephemeral range: no client's own socket takes a dead broker's port
ATTEMPTS = 3  # a port found free may be taken before the broker has it

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",  # a mistyped topic is an error here as in production
    "min.insync.replicas": "1",
    # One node: the broker's own topics cannot have three copies; few partitions make start and stop quick.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",  # nobody else is coming: assign at once
    "group.min.session.timeout.ms": "1000",  # tests of lost members need not wait 6 s
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",  # ms; 10 s by default
    "broker.session.timeout.ms": "4000",  # a killed broker may come back after this long, 9 s by default
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.enable": "true",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # 128 MiB of a 1 GiB heap otherwise
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass
class LocalKafka:
    """A Kafka that answers. `pid` is the broker's JVM for kind "java", so that a test may stop or kill it."""

    bootstrap: str
    kind: Literal["external", "docker", "java"]
    java: JavaBroker | None = None
    container: "DockerContainer | None" = None

    @property
    def pid(self) -> int | None:
        """The broker's process id; None while it does not run, and where we did not start it from jars."""
        return None if self.java is None else self.java.pid

    def stop(self) -> None:
        """End what was started here, data kept; somebody else's broker is left alone."""
        if self.java is not None:
            self.java.stop()
        if self.container is not None:
            self.container.stop()
            self.container = None

    def kill(self) -> None:
        """SIGKILL the broker (kind "java" only)."""
        self._own().kill()

    def restart(self) -> None:
        """Stop the broker if it runs, start it on the same ports and data (kind "java" only)."""
        self._own().restart()

    def close(self) -> None:
        """Stop it and remove what was temporary."""
        self.stop()
        if self.java is not None:
            self.java.remove()

    def _own(self) -> JavaBroker:
        if self.java is None:
            raise NoKafkaError(f"a broker of kind {self.kind} is not ours to kill; use Java and Maven")
        return self.java


@contextlib.contextmanager
def local_kafka(
    *,
    data_dir: Path | None = None,
    keep: bool = False,
    quiet: bool = True,
    extra: Mapping[str, str] | None = None,
) -> Iterator[LocalKafka]:
    """A broker that answers, stopped at the end if it was started here.

    `data_dir`: where a Java broker keeps its data (found again next time); without it a temporary folder,
    removed at the end unless `keep`. `extra`: server properties beside `SETTINGS`. `quiet=False` tells stderr
    what is used.
    """

    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    kafka = _choose(data_dir, keep, dict(extra or {}), say)
    try:
        yield kafka
    finally:
        kafka.close()
        if kafka.java is not None and not kafka.java.temporary:
            say(f"the broker's data and log stay in {kafka.java.folder}")


def _choose(
    data_dir: Path | None, keep: bool, extra: dict[str, str], say: Callable[[str], None]
) -> LocalKafka:
    """The first of the three ways that is open here; NoKafkaError says why none is."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP", "").strip()
    if bootstrap:
        say(f"using the Kafka at {bootstrap} (KAFKA_BOOTSTRAP)")
        if not answers(bootstrap, EXTERNAL_S):
            raise NoKafkaError(
                f"KAFKA_BOOTSTRAP={bootstrap} does not answer; start that broker, or unset the variable"
            )
        return LocalKafka(bootstrap, "external")
    no_docker = _why_no_docker()
    if no_docker is None:
        say(f"starting Kafka in Docker ({IMAGE})")
        return _start_docker(extra)
    java = find_java(os.environ.get("JAVA_HOME", ""))
    jars = find_jars(say) if isinstance(java, Path) else java
    if isinstance(java, Path) and isinstance(jars, Path):
        say("starting Kafka with Java")
        return _start_java(java, jars, data_dir, keep, extra)
    raise NoKafkaError(
        "no Kafka to work with; one of three is needed:\n"
        "  1. KAFKA_BOOTSTRAP=host:port of a running broker: not set\n"
        f"  2. a Docker daemon: {no_docker}\n"
        f"  3. Java {JAVA_MIN} or newer and Maven: {jars}"
    )


def _start_java(
    java: Path, jars: Path, data_dir: Path | None, keep: bool, extra: dict[str, str]
) -> LocalKafka:
    """A running broker from the jars; tries other ports when somebody was quicker on ours."""
    for attempt in range(1, ATTEMPTS + 1):
        port, controller_port = free_ports(2)
        folder = data_dir or Path(tempfile.mkdtemp(prefix="foreshard-kafka-"))
        settings = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            **extra,
        }
        temporary = data_dir is None and not keep
        broker = JavaBroker(f"127.0.0.1:{port}", [], folder, temporary, answers)
        try:
            broker.command = prepare(java, jars, folder, settings)
            broker.start()
        except BaseException as error:
            broker.remove()
            if attempt == ATTEMPTS or "Address already in use" not in str(error):
                raise
        else:
            return LocalKafka(broker.bootstrap, "java", java=broker)
    raise AssertionError(f"unreachable after {ATTEMPTS} attempts")


def _why_no_docker() -> str | None:
    """None where a daemon answers, else why not."""
    try:
        import docker  # noqa: PLC0415 - comes with testcontainers, which only development has
    except ImportError:
        return "the Python package testcontainers is missing (pip install 'foreshard[dev]')"
    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            client.ping()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is not a way to a Kafka
        return f"none answers ({str(error).splitlines()[0][:100]})"
    return None


def _start_docker(extra: dict[str, str]) -> LocalKafka:
    """A broker in the Kafka project's own image.

    This branch cannot be exercised where no Docker daemon runs, as on the machine it was written on: after a
    change here, run the tests where one does. testcontainers' KafkaContainer expects another vendor's image,
    hence its generic container and our own start-up check. Its reaper removes the container if we are killed.
    """
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - slow, and only where Docker answers

    (port,) = free_ports(1)
    container = DockerContainer(IMAGE)
    host = container.get_docker_client().host()
    remote = host not in ("localhost", "127.0.0.1")
    address = f"{host if remote else '127.0.0.1'}:{port}"
    # A tuple binds the port to one address; testcontainers' types know only the number.
    container.ports["9092"] = port if remote else ("127.0.0.1", port)  # type: ignore[assignment]
    settings = {
        **SETTINGS,
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "controller.quorum.voters": "1@localhost:9093",
        "advertised.listeners": f"PLAINTEXT://{address}",  # what a client outside the container dials
        **extra,
    }
    for name, value in settings.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    try:
        container.start()
        if not answers(address, START_S):
            out, err = container.get_logs()
            log = (out + err).decode(errors="replace")[-2000:]
            raise NoKafkaError(f"{IMAGE} did not answer on {address} in {START_S:.0f} s; log:\n{log}")
    except BaseException:
        container.stop()
        raise
    return LocalKafka(address, "docker", container=container)


def answers(bootstrap: str, timeout_s: float) -> bool:
    """Whether a broker there names itself within the time."""
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(KafkaException):
            if client.list_topics(timeout=max(0.1, min(2.0, deadline - time.monotonic()))).brokers:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that are free now."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does
            port = random.SystemRandom().choice(PORTS)
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def main() -> None:
    """Run a local Kafka until Ctrl-C or SIGTERM; its address is the first line of stdout."""
    parser = argparse.ArgumentParser(prog="python -m app.local_kafka", description=main.__doc__)
    parser.add_argument("--data-dir", type=Path, help="keep the data here (default: a temporary folder)")
    arguments = parser.parse_args()
    # A shell starts background jobs with SIGINT ignored, and `kill` sends SIGTERM: each ends it in order.
    with contextlib.suppress(KeyboardInterrupt), interruptible():
        try:
            with local_kafka(data_dir=arguments.data_dir, quiet=False) as kafka:
                sys.stdout.write(kafka.bootstrap + "\n")
                sys.stdout.flush()
                while True:
                    signal.pause()
        except NoKafkaError as error:
            sys.stderr.write(f"{error.code}: {error}\n")
            sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
