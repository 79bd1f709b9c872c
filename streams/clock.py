"""The one clock of a run: model time from wall time. Production runs with time_scale 1."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Model time = start + (wall - t0) x time_scale; all in seconds since 1970.

    With the defaults model time is wall time. The same three numbers must be configured in every
    process of a run.
    """

    start: float = 0.0
    t0: float = 0.0
    time_scale: float = 1.0

    def now(self) -> float:
        """Returns the model time now."""
        return self.model(time.time())

    def model(self, wall_s: float) -> float:
        """Returns the model time of a wall time (a Kafka timestamp / 1000)."""
        return self.start + (wall_s - self.t0) * self.time_scale

    def wall(self, model_s: float) -> float:
        """Returns the wall time at which the model time is reached."""
        return self.t0 + (model_s - self.start) / self.time_scale

    def wall_duration(self, model_s: float) -> float:
        """Returns how long a duration of model time lasts on the wall."""
        return model_s / self.time_scale
