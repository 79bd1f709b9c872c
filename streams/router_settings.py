"""What one router needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.topics import DEAD_LETTER
from streams.core.handoff import HandoffSettings


@dataclass(frozen=True)
class RouterSettings:
    """What one router needs to know. `kafka` are librdkafka properties with the bootstrap servers."""

    kafka: dict[str, Any]
    prefix: str
    ingest: str
    group: str
    instance: str
    """Stable name of this router among all of the prefix: its transactional id rests on it."""
    guarantee: Literal["exactly-once", "at-least-once"] = "exactly-once"
    instance_id: str = ""
    """Makes this router a static member of its group: a restart is no rebalance."""
    handoff: HandoffSettings = field(default_factory=HandoffSettings)
    batch_min: int = 64
    batch_max: int = 20_000

    @property
    def transactional_id(self) -> str:
        """Returns the id that fences this router's predecessor."""
        return f"{self.prefix}router-{self.instance}"

    @property
    def dead_letter(self) -> str:
        """Returns the name of the dead-letter topic."""
        return self.prefix + DEAD_LETTER.name
