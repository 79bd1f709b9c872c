"""The peers' own environments, made by the bench: a virtual environment, or what Maven builds."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from app.local_kafka_java import find_java

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
WORK = ROOT / ".work" / "bench"
"""Ignored by git; removed by `make clean`."""

MAKE_S = 600
"""Seconds that making one environment may take."""

LINES_SHOWN = 3
"""Lines of a failed command's output that the report keeps."""


@dataclass(frozen=True)
class Missing:
    """An environment that could not be made, and why."""

    reason: str


@dataclass(frozen=True)
class Environment:
    """How to start what is in it: a command, without the file that the bench gives to every peer."""

    command: tuple[str, ...]


JVM = ("-Xms512m", "-Xmx1g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
"""ParallelGC used the least CPU of the collectors here."""


def streams_environment(java_home: str = "") -> Environment | Missing:
    """Returns how to start the Kafka Streams peer, built anew where its sources have changed."""
    java = find_java(java_home)
    if isinstance(java, str):
        return Missing(java)
    mvn = shutil.which("mvn")
    if mvn is None:
        return Missing("no mvn on the PATH")
    folder = PEERS / "kafka_streams"
    out = WORK / f"kafka-streams-{fingerprint(folder)}"
    copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={out}/lib"]
    build = [mvn, "-q", "-B", "-f", str(folder / "pom.xml"), f"-Dbench.out={out}", "compile", *copy]
    failed = make(out, [build])
    classpath = f"{out}/classes:{out}/lib/*"
    return failed or Environment((str(java), *JVM, "-cp", classpath, "org.foreshard.bench.RouterBench"))


def python_environment(peer: str, script: str = "router.py") -> Environment | Missing:
    """Returns how to start a script of bench/peers/`peer`/ in a virtual environment of its own."""
    folder = PEERS / peer
    out = WORK / f"{peer}-{fingerprint(folder / 'requirements.txt')}"
    python = f"{out}/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]
    commands = [[sys.executable, "-m", "venv", str(out)], [*install, str(folder / "requirements.txt")]]
    return make(out, commands) or Environment((python, str(folder / script)))


def make(out: Path, commands: list[list[str]]) -> Missing | None:
    """Runs the commands that make the folder `out`, unless they have all succeeded before."""
    done = out / ".made"
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return None
        shutil.rmtree(out, ignore_errors=True)
        for command in commands:
            failed = _run(command)
            if failed:
                return Missing(failed)
        done.touch()
    return None


def _run(command: list[str]) -> str:
    """Returns what the command said last where it failed, else ""."""
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=MAKE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if not ran.returncode:
        return ""
    lines = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    return f"{Path(command[0]).name} failed: " + " / ".join(lines[-LINES_SHOWN:])


def fingerprint(path: Path) -> str:
    """Returns 12 digits that change with the content of a file or folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(PEERS).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
