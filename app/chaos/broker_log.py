"""What the broker's own log says against it: a broker that breaks transactions makes any router look bad."""

from __future__ import annotations

import re
from pathlib import Path

LOG_BYTES = 20_000_000
"""The end of the broker's log that is kept."""

SKIPPED = re.compile(
    r"Couldn't find leader endpoint for partitions \w+\((.*?)\) while trying to send transaction markers"
)
"""Kafka 4.3.0 and 4.3.1 take a partition without a leader for a deleted one and leave out its marker: in
that partition an aborted transaction is committed with the next one of its producer, a committed one is
lost. Earlier versions ask again. A single node that was killed has such partitions for some 0.3 s of its
restart, while transactions left by the kill are finished."""


def markers_skipped(folder: Path) -> int | None:
    """Returns how many transaction markers a broker with this folder left out; None without its log."""
    log = folder / "server.log"
    if not log.exists():
        return None
    with log.open(encoding="utf-8", errors="replace") as lines:
        found = (SKIPPED.search(line) for line in lines)
        return sum(len(match[1].split(",")) for match in found if match)


def keep(folder: Path, target: Path) -> None:
    """Copies the end of the broker's log."""
    log = folder / "server.log"
    if log.exists():
        target.write_bytes(log.read_bytes()[-LOG_BYTES:])
