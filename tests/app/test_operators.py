"""What operators send: stored, and interrupted cleanly."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from app import operators, topic_admin
from app.config import load
from app.local_kafka import LocalKafka
from schemas.records import Mode, SetMode
from schemas.topics import COMMANDS

CONFIG = """
[kafka]
"bootstrap.servers" = "{bootstrap}"
[topics]
prefix = "{prefix}."
ingest = "{prefix}.requests"
replication_factor = 1
[[request_types]]
name = "order"
key = ["json:user"]
"""


@pytest.mark.broker
def test_a_ctrl_c_cannot_fall_into_the_wait_for_the_confirmation(
    kafka: LocalKafka, prefix: str, tmp_path: Path
) -> None:
    """No Python runs in flush: an exception raised in a delivery callback became a SystemError."""
    path = tmp_path / "foreshard.toml"
    path.write_text(CONFIG.format(bootstrap=kafka.bootstrap, prefix=prefix))
    config = load(path)
    topic_admin.create(config, ingest_partitions=1)
    inside = False
    flushes: list[str] = []
    ran: list[str] = []

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal inside
        if event in ("c_call", "c_return") and getattr(arg, "__name__", "") == "flush":
            inside = event == "c_call"
            flushes.append(event)
        elif event == "call" and inside:
            ran.append(frame.f_code.co_qualname)

    sys.setprofile(watch)
    try:
        operators.send(config, COMMANDS, None, SetMode(id="c-1", at=1.0, mode=Mode.OBSERVE))
    finally:
        sys.setprofile(None)
    assert flushes == ["c_call", "c_return"]
    assert ran == []
