"""`python -m app.chaos`: the same as `foreshard bench chaos`."""

from app.chaos.command import chaos

chaos()
