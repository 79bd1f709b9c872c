"""What is compared: the variants, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError

Guarantee = Literal["exactly-once", "at-least-once"]
Family = Literal["bare", "foreshard", "streams", "quix", "faust"]
Movement = Literal["", "none", "moving"]

EOS: Guarantee = "exactly-once"
ALO: Guarantee = "at-least-once"


@dataclass(frozen=True)
class Window:
    """The part of the requests that counts: those after the first `skip`, up to `until`."""

    skip: int
    until: int

    def within(self, messages: int) -> Window:
        """Returns the window in a topic with so many messages: a third of it is skipped at most."""
        until = min(self.until, int(messages * 0.95))
        return Window(min(self.skip, until // 3), until)


FAST = Window(300_000, 1_500_000)
"""10 s or more of what routes over 100,000 requests/s without a JIT."""
WARM_JIT = Window(1_000_000, 3_800_000)
"""The first million is what a JVM needs to compile what it will run."""
MOVING = Window(500_000, 3_000_000)
"""Four reports or more of the share in handoff."""
MIDDLE = Window(100_000, 600_000)
SLOW = Window(8_000, 60_000)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    title: str
    family: Family
    guarantee: Guarantee
    window: Window
    workers: int = 1
    """Processes of foreshard, stream threads of Kafka Streams."""
    shards: int = 256
    movement: Movement = ""
    """Whether slots move while it runs; "" also means that nobody commits for the backends."""
    main: bool = True
    """Measured with every message size, and its latency too."""

    @property
    def routes_fully(self) -> bool:
        """Returns whether it does all of the router's work."""
        return self.family != "bare"


VARIANTS = (
    Variant("bare-alo", "bare loop", "bare", ALO, FAST),
    Variant("foreshard-alo", "foreshard", "foreshard", ALO, FAST),
    Variant("bare-eos", "bare loop", "bare", EOS, FAST),
    Variant("foreshard-eos", "foreshard", "foreshard", EOS, FAST),
    Variant("shards-4096-eos", "foreshard, 4,096 shards", "foreshard", EOS, FAST, shards=4096, main=False),
    Variant("streams-eos", "Kafka Streams, 1 thread", "streams", EOS, WARM_JIT),
    Variant("quix-eos", "Quix Streams", "quix", EOS, MIDDLE),
    Variant("faust-alo", "Faust, its own transport", "faust", ALO, SLOW),
    Variant("streams-alo", "Kafka Streams, 1 thread", "streams", ALO, WARM_JIT),
    Variant("quix-alo", "Quix Streams", "quix", ALO, MIDDLE),
    Variant("streams-2-eos", "Kafka Streams, 2 threads", "streams", EOS, WARM_JIT, workers=2, main=False),
    Variant("streams-2-alo", "Kafka Streams, 2 threads", "streams", ALO, WARM_JIT, workers=2, main=False),
    Variant("foreshard-2-eos", "foreshard, 2 processes", "foreshard", EOS, FAST, workers=2, main=False),
    Variant(
        "handoff-none-eos",
        "foreshard, none in handoff",
        "foreshard",
        EOS,
        MOVING,
        movement="none",
        main=False,
    ),
    Variant(
        "handoff-moving-eos",
        "foreshard, 5 % in handoff",
        "foreshard",
        EOS,
        MOVING,
        movement="moving",
        main=False,
    ),
)
"""In the order of the runs: what is compared with each other is measured one after the other."""

QUICK = "bare-eos,foreshard-eos,streams-eos,quix-eos,faust-alo,foreshard-alo"
"""What about ten minutes are enough for."""


def chosen(names: str) -> list[Variant]:
    """Returns the variants of a comma-separated list, each by its name or its beginning; "" = all."""
    if not names:
        return list(VARIANTS)
    found = []
    for wanted in names.split(","):
        matching = [v for v in VARIANTS if v.name == wanted or v.name.startswith(f"{wanted}-")]
        if not matching:
            known = ", ".join(variant.name for variant in VARIANTS)
            raise ConfigError([f"--variants: {wanted!r} is none of {known}"])
        found += [variant for variant in matching if variant not in found]
    return [variant for variant in VARIANTS if variant in found]
