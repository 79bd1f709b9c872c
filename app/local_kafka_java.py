"""A local Kafka broker from Maven's jars: fetched once, one KRaft node, gone with its user.

Kept apart from `app.local_kafka`, which chooses; nobody else needs this module.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import NoKafkaError

JAVA_MIN = 17  # brokers of Kafka 4 need it
GUARD = Path(__file__).with_name("local_kafka_guard.py")
ROOT = Path(__file__).resolve().parent.parent
# In a checkout; installed with the packages.
POMS = (ROOT / "deploy/kafka/pom.xml", Path(sys.prefix) / "share/foreshard/kafka/pom.xml")
START_S = 120.0  # a broker needs 3 s; the rest is for a machine that is busy with tests
STOP_S = 5.0  # an orderly stop takes under 1 s; data that go with it are not worth more
KEPT_STOP_S = 20.0  # data that stay are
JVM = ("-Xms256m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")
LOG_TAIL = 3000  # characters of the broker's log in an error
LOG4J2 = """\
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""

Answers = Callable[[str, float], bool]  # (bootstrap, timeout_s) -> the broker named itself in time


@dataclass
class JavaBroker:
    """One broker: how it is started, where its files are, and its process while it runs."""

    bootstrap: str
    command: list[str]
    folder: Path
    temporary: bool  # the folder goes with the broker
    answers: Answers
    pid: int | None = None
    guard: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Return once the broker answers; NoKafkaError with the end of its log when it does not."""
        self.guard = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(GUARD), str(os.getpid())),
                str(self.folder) if self.temporary else "-",
                str(self.folder / "jvm.log"),
                *self.command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us, not the broker: clients close first
        )
        try:
            assert self.guard.stdout is not None
            with self.guard.stdout as lines:
                self.pid = int(lines.readline())
            self._await_ready(self.guard)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for a broker that does not end in time (a SIGSTOPped one never would)."""
        self._end(signal.SIGTERM, STOP_S if self.temporary else KEPT_STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL; the data stay as they are."""
        self._end(signal.SIGKILL, START_S)

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same ports and data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Delete the folder, if it was made for this broker alone."""
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals, patience_s: float) -> None:
        if self.guard is None or self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.guard.poll() is None:  # while the guard lives, the id is still the broker's
                os.kill(self.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.guard.wait(patience_s)
            self.guard, self.pid = None, None

    def _await_ready(self, guard: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_S
        host, port = self.bootstrap.split(":")
        while time.monotonic() < deadline and guard.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                time.sleep(0.05)
                continue
            if self.answers(self.bootstrap, 5.0):
                return
        what = "ended" if guard.poll() is not None else f"did not answer in {START_S:.0f} s"
        logs = (self.folder / "jvm.log", self.folder / "server.log")
        tail = "".join(path.read_text(errors="replace")[-LOG_TAIL:] for path in logs if path.exists())
        raise NoKafkaError(f"the local Kafka broker {what} while starting; its log ends:\n{tail}")


def find_java(java_home: str) -> Path | str:
    """The `java` to use (from JAVA_HOME, else from the PATH), or why there is none."""
    at_home = shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else None
    found = at_home or shutil.which("java")
    if found is None:
        return "no java on the PATH"
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(\d+)', answer.stderr)
    if version is None or int(version[1]) < JAVA_MIN:
        return f"{found} is version {version[1] if version else 'unknown'}"
    return Path(found)


def find_jars(say: Callable[[str], None]) -> Path | str:
    """The folder with the broker's jars, fetched by Maven the first time; or why there is none.

    The folder is named after the pom's content. Two processes may ask at once: one fetches, under a lock,
    into a folder beside; the rename makes it valid, so that half a download is never taken for a whole one.
    """
    pom = next((path for path in POMS if path.is_file()), None)
    if pom is None:
        return "deploy/kafka/pom.xml is missing"
    cache = ROOT / ".work/kafka-jars" if pom == POMS[0] else Path.home() / ".cache/foreshard/kafka-jars"
    jars = cache / hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    if jars.is_dir():
        return jars
    mvn = shutil.which("mvn")
    if mvn is None:
        return "no mvn on the PATH"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            say("fetching Kafka's jars with Maven (44 MB, once)")
            _fetch(mvn, pom, jars)
    return jars


def _fetch(mvn: str, pom: Path, jars: Path) -> None:
    """Let Maven copy the jars into a folder beside `jars`, and rename it."""
    with tempfile.TemporaryDirectory(prefix="partial-", dir=jars.parent) as partial:
        target = Path(partial) / "jars"
        fetched = subprocess.run(
            [*(mvn, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"),
             *("-DincludeScope=runtime", f"-DoutputDirectory={target}")],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if fetched.returncode != 0:
            output = (fetched.stdout + fetched.stderr)[-LOG_TAIL:]
            raise NoKafkaError(f"Maven could not fetch Kafka's jars with {pom}:\n{output}")
        target.rename(jars)


def prepare(java: Path, jars: Path, folder: Path, settings: Mapping[str, str]) -> list[str]:
    """The broker's command line, after writing its settings and formatting its storage in `folder`."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    lines = {**settings, "log.dirs": str(data)}
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    logging = folder / "log4j2.properties"
    logging.write_text(LOG4J2.format(log=folder / "server.log"))
    jvm = [str(java), *JVM, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars}/*"]
    if not (data / "meta.properties").exists():
        _format(jvm, properties)
    return [*jvm, "kafka.Kafka", str(properties)]


def _format(jvm: list[str], properties: Path) -> None:
    """Make the data folder of a new cluster."""
    identity = uuid.uuid4().bytes
    # The first bit cleared: the text then never begins with a dash, which the tool would take for an option.
    cluster_id = urlsafe_b64encode(bytes([identity[0] & 0x7F]) + identity[1:]).decode().rstrip("=")
    tool = [*jvm, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]  # quick: it runs once
    formatted = subprocess.run(
        [*tool, "-t", cluster_id, "-c", str(properties)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if formatted.returncode != 0:
        output = (formatted.stdout + formatted.stderr)[-LOG_TAIL:]
        raise NoKafkaError(f"Kafka could not format its storage ({properties}):\n{output}")
