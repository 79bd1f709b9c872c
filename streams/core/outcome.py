"""What a command is judged by, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.core.out import Out


@dataclass(frozen=True)
class Found:
    """What the broker said about the things that a command names; None: not asked, or no answer."""

    partitions: int | None = None
    """Partitions of the topic of a cluster that is added; None: there is no such topic."""
    waiting: bool | None = None
    """Whether a request waits in the cluster's topic that its group has not committed."""
    members: int | None = None
    """Members of the cluster's group; for new key rules, of the routers'."""
    held_slots: int | None = None
    """Slots of which routers hold requests."""


NOTHING_FOUND = Found()


@dataclass(frozen=True)
class Outcome:
    """What became of one command: the answer's text, and what is written beside it."""

    accepted: bool
    text: str
    outs: list[Out] = field(default_factory=list)


def refused(text: str) -> Outcome:
    """Returns the outcome of a command that changes nothing; the text says what to type next."""
    return Outcome(False, text)
