"""How far announcements can be trusted: kappa, the part of a declared effect that really comes.

1 = as declared, 0 = nothing. Each kind of event (campaign, import, ...) has kappa ~ N(mean, variance),
learned from its events. While an event is on, its own kappa is followed by an extended Kalman filter
with state [level, kappa], level = log of the load without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, isfinite, log, sqrt
from typing import Any

from schemas.records import Event

FIRST_MEAN, FIRST_SD = 1.0, 0.35
"""What is thought of a kind before its first event: its word counts, with some doubt."""
EVENT_SD = 0.25
"""How much events of one kind differ."""
LEAST_SD, DRIFT_SD = 0.04, 0.03
"""A kind is never known better than this; what is known of it ages by this with each event."""
MOST_KAPPA = 3.0
"""An announced effect is taken for at most three times its declared (log) size."""
CAUTION = 0.7
"""Room is made for so many standard deviations more than the mean, where an event acts on single keys."""
WATCH_S = 3600.0
"""An hour before an event its level and noise are learned."""
SETTLE_S = 600.0
"""Ten minutes after its end the event is over and its kind learns from it."""
JITTER_S, JITTER = 180.0, 0.5
"""Within 3 min of start and end, half the declared effect counts as uncertain: they are not punctual."""
LEVEL_RATE, NOISE_RATE = 0.1, 0.02
WANDER = 0.15
"""The level wanders by this part of the noise in a step."""
LEAST_NOISE, FIRST_NOISE = 0.02, 0.3
FORECAST_SD = 0.1
"""How far off a forecast is taken to be, where an event was announced too late to learn its level."""
LEAST_LEFT = 0.05
"""At least this part of a load is there without an event that adds to it."""
ENOUGH = 10
"""Steps before the event after which its level and noise are known."""
CAME_NOT, CAME_NOT_SD = 0.25, 3.0
"""Under a quarter of the effect, and over 3 standard deviations off what was thought: it did not happen."""


@dataclass
class Kind:
    """kappa of one kind of event: normal, with a mean and a variance."""

    mean: float = FIRST_MEAN
    variance: float = FIRST_SD**2

    @property
    def of_an_event(self) -> float:
        """Returns the variance of a single event's kappa, before anything of it is seen."""
        return self.variance + EVENT_SD**2

    def learn(self, kappa: float, variance: float) -> None:
        """Learns from one event that is over, unless it plainly did not happen."""
        if abs(kappa) < CAME_NOT and abs(kappa - self.mean) > CAME_NOT_SD * sqrt(self.variance):
            return
        gain = self.variance / (self.variance + variance + EVENT_SD**2 / 4)
        self.mean += gain * (kappa - self.mean)
        self.variance = max((1 - gain) * self.variance, LEAST_SD**2) + DRIFT_SD**2


@dataclass
class Track:
    """One event that is near or on: log of the load without it, and its kappa, with their covariance."""

    kappa: float
    level: float = 0.0
    noise: float = FIRST_NOISE
    usual: float | None = None
    """Log of the usual load at the last step, in any unit."""
    seen: int = 0
    begun: bool = False
    level_variance: float = 0.0
    covariance: float = 0.0
    kappa_variance: float = 0.0

    def before(self, z: float) -> None:
        """Learns level and noise from a step before the event."""
        off = z - self.level if self.seen else 0.0
        if not self.seen:
            self.level = z
        self.seen += 1
        self.level += max(LEVEL_RATE, 1 / self.seen) * off
        if self.seen > 1:
            size = 1.25 * abs(off)
            rate = max(NOISE_RATE, 1 / (self.seen - 1))
            self.noise = max(self.noise + rate * (min(size, 5 * self.noise) - self.noise), LEAST_NOISE)

    def begin(self, kind: Kind, z: float, effect: Effect, expected: float) -> None:
        """Starts to follow kappa, from what is thought of its kind.

        z, expected: log of the load in this step, and of what is forecast for it without the event, or NaN.
        """
        self.begun = True
        self.kappa = kind.mean
        self.kappa_variance = kind.of_an_event
        if self.seen >= ENOUGH:
            self.level_variance = max(1e-4, LEVEL_RATE / (2 - LEVEL_RATE) * self.noise**2)
        elif isfinite(expected):
            self.level, self.noise = expected, FORECAST_SD
            self.level_variance = FORECAST_SD**2
        else:
            self.level = effect.without(z, self.kappa)
            self.level_variance = FIRST_NOISE**2 + (z - self.level) ** 2

    def follow(self, z: float, effect: Effect, jitter: float) -> None:
        """One step of the filter: z = log of its load, jitter = standard deviation added to the noise."""
        self.level_variance += (WANDER * self.noise) ** 2
        expected, by_level, by_kappa = effect.at(self.level, self.kappa)
        to_level = by_level * self.level_variance + by_kappa * self.covariance
        to_kappa = by_level * self.covariance + by_kappa * self.kappa_variance
        total = by_level * to_level + by_kappa * to_kappa + self.noise**2 + jitter**2
        off = z - expected
        self.level += to_level / total * off
        self.kappa = min(max(self.kappa + to_kappa / total * off, -1.0), MOST_KAPPA)
        self.level_variance -= to_level * to_level / total
        self.covariance -= to_level * to_kappa / total
        self.kappa_variance -= to_kappa * to_kappa / total


@dataclass(frozen=True)
class Effect:
    """A declared effect in one step, at kappa = 1: a log factor, or requests that are added."""

    factor: float = 0.0
    """Log of the mean uplift."""
    added: float = 0.0
    """Requests in the step."""

    def at(self, level: float, kappa: float) -> tuple[float, float, float]:
        """Returns the expected log load, and its derivatives by level and kappa."""
        if not self.added:
            return level + kappa * self.factor, 1.0, self.factor
        base = exp(level)
        total = base + max(kappa, 0.0) * self.added
        return log(total), base / total, self.added / total

    def without(self, load: float, kappa: float) -> float:
        """Returns the log load without the effect, given the one with it."""
        if not self.added:
            return load - kappa * self.factor
        return log(max(exp(load) - kappa * self.added, LEAST_LEFT * exp(load)))

    def size(self, level: float) -> float:
        """Returns the log of how many times the load it makes of that of `level`."""
        return self.factor if not self.added else self.at(level, 1.0)[0] - level


@dataclass
class Trust:
    """What is thought of every kind of event, and of the events that are near, on, or over."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)
    """Event -> its kappa in the end."""

    def kappa(self, event: Event) -> float:
        """Returns which part of its declared effect is expected of an event, 0 or more."""
        return min(max(self._thought(event)[0], 0.0), MOST_KAPPA)

    def cautious(self, event: Event) -> float:
        """Returns the part to make room for: more than is expected, as far as that is uncertain yet."""
        variance = max(self._thought(event)[1], 0.0)
        return min(self.kappa(event) + CAUTION * sqrt(variance), MOST_KAPPA)

    def _thought(self, event: Event) -> tuple[float, float]:
        """Returns mean and variance of the event's kappa; of one that is over the outcome is known."""
        if event.id in self.settled:
            return self.settled[event.id], 0.0
        track = self.tracks.get(event.id)
        if track is not None and track.begun:
            return track.kappa, track.kappa_variance
        kind = self.kind(event)
        return kind.mean, kind.of_an_event

    def kind(self, event: Event) -> Kind:
        """Returns what is thought of the event's kind."""
        return self.kinds.get(event.kind) or Kind()

    def near(self, event: Event, time: float) -> bool:
        """Returns whether a step in whose middle it is `time` tells something about the event."""
        return event.id not in self.settled and time >= event.start - WATCH_S

    def learn(
        self,
        event: Event,
        step: tuple[float, float],
        load: float,
        effect: Effect,
        full: Effect,
        usual: float,
        expected: float,
    ) -> None:
        """Learns from one step.

        step: (middle, seconds); load: requests in it where the event acts, without other events' effects;
        effect: what was declared for it, full: at its height; usual, expected: log of the usual load then,
        and of what was forecast without the event, or NaN.
        """
        time, step_s = step
        kind = self.kind(event)
        track = self.tracks.setdefault(event.id, Track(kind.mean))
        if isfinite(usual):
            if track.usual is not None:
                track.level += usual - track.usual
            track.usual = usual
        z = log(load + 1.0)
        if time < event.start - step_s:
            track.before(z)
            return
        if not track.begun:
            track.begin(kind, z, effect, expected)
        unsure = min(abs(time - event.start), abs(time - event.end)) < JITTER_S
        track.follow(z, effect, JITTER * abs(full.size(track.level)) if unsure else 0.0)
        if time >= event.end + SETTLE_S:
            self._settle(event, track)

    def _settle(self, event: Event, track: Track) -> None:
        kind = self.kinds.setdefault(event.kind, Kind())
        kind.learn(track.kappa, track.kappa_variance)
        self.settled[event.id] = track.kappa
        del self.tracks[event.id]

    def forget(self, event_id: str) -> None:
        """Forgets an event that was withdrawn, or is long over; its kind keeps what it has taught."""
        self.tracks.pop(event_id, None)
        self.settled.pop(event_id, None)

    def to_json(self) -> dict[str, Any]:
        """Returns the whole state."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Trust:
        """Returns the Trust that `to_json` was asked of."""
        return cls(
            {name: Kind(**one) for name, one in saved["kinds"].items()},
            {name: Track(**one) for name, one in saved["tracks"].items()},
            dict(saved["settled"]),
        )
