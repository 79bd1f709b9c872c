"""What the figures were measured on: hardware and versions, no names of hosts or folders."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import confluent_kafka
import psutil

from app.bench.peers import PEERS, ROOT
from app.local_kafka_java import find_java

SHOWN = ("quixstreams", "faust-streaming", "aiokafka", "confluent-kafka", "statsforecast", "lightgbm")
"""Of the peers' pins, what says which peer it is."""


def machine() -> dict[str, Any]:
    """Returns the processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Returns the versions of everything that the router's bench measures."""
    kafka = re.search(r"<kafka.version>(.*?)<", (ROOT / "deploy/kafka/pom.xml").read_text())
    streams = re.search(r"<kafka.version>(.*?)<", (PEERS / "kafka_streams/pom.xml").read_text())
    found = _own() | {
        "confluent-kafka": importlib.metadata.version("confluent-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
        "broker": kafka[1] if kafka else "unknown",
        "kafka-streams": streams[1] if streams else "unknown",
        "java": _java(),
    }
    return found | _pinned("quix", "faust")


def forecast_versions() -> dict[str, str]:
    """Returns the versions of everything that the forecast bench measures."""
    found = {name: importlib.metadata.version(name) for name in ("numpy", "river")}
    return _own() | found | _pinned("statsforecast", "lightgbm")


def _own() -> dict[str, str]:
    return {
        "foreshard": importlib.metadata.version("foreshard"),
        "commit": _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
    }


def _pinned(*peers: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for peer in peers:
        pins = dict(line.split("==") for line in (PEERS / peer / "requirements.txt").read_text().split())
        found |= {f"{peer}: {name}": pins[name] for name in SHOWN if name in pins}
    return found


def _processor() -> str:
    """Returns the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def _java() -> str:
    java = find_java("")
    if isinstance(java, str):
        return java
    version = re.search(r'version "(.*?)"', _said(str(java), "-version"))
    return version[1] if version else "unknown"


def _said(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return "unknown"
    return (ran.stdout + ran.stderr).strip() if not ran.returncode else "unknown"
