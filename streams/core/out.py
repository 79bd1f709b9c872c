"""What the balancer's core hands out: records to write, and where."""

from __future__ import annotations

from dataclasses import dataclass

from schemas import topics
from schemas.records import Record


@dataclass(frozen=True)
class Out:
    """One record to write to one of our topics; None is a tombstone: the key is gone."""

    topic: topics.TopicSpec
    key: str
    record: Record | None
