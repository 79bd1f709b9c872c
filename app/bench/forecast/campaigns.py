"""Announced campaigns on real request rates: how well the start of one is forecast, and by whom.

Everything that decides is the product's own: the outlook learns the steps, the book holds the announcements,
trust is learned from campaign to campaign. Only the campaigns are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from app.bench.series_files import Series
from schemas.records import Event
from streams.core.events import EventBook
from streams.core.forecast.profile import DAY_S, Floats
from streams.core.key_rules import KeyRules, RequestType, parse_field
from streams.core.load import Step
from streams.core.outlook import HORIZON, Outlook
from streams.core.steps import STEP_S

MOST_STEP_S = 60.0
"""Series with longer steps say nothing about a start that takes two minutes."""
LEAST_DAYS, MOST_DAYS = 6.0, 14.0
FIRST_DAYS = 3.0
"""Days without campaigns: the forecaster learns what is usual."""
A_DAY = 3
"""Campaigns a day, each in a third of its own."""
UPLIFT = (1.8, 4.0)
"""How many times the load a campaign makes of it."""
WRONG = 1.6
"""The declared uplift is wrong by up to this factor."""
START_SD_S = 45.0
CANCELLED = 0.06
RAMP_S = 120.0
LASTS_S = (900.0, 3600.0)
ANNOUNCED_S = 86_400.0
"""How long before its start a campaign is announced."""
FORGOTTEN_S = 7200.0
"""How long after its end it leaves the book; its kind has learned from it then."""
TAUGHT = 9
"""Campaigns of a kind after which its starts are scored."""
BEFORE_S, AFTER_S = 60.0, 300.0
"""The start ramp: from the middle of the declared rise, a minute back and as far on as a forecast looks."""
SAMPLES = 6


@dataclass(frozen=True)
class Campaign:
    """What was announced, and what came of it."""

    event: Event
    series: int
    number: int
    """Which of its series' campaigns."""
    late_s: float
    uplift: float
    """What it really makes of the load; 1 = cancelled, and nobody said so."""

    def factor(self, times: Floats) -> Floats:
        """Returns float64[n]: by what the load is multiplied at each time."""
        rise = np.clip((times - self.event.start - self.late_s) / RAMP_S + 0.5, 0.0, 1.0)
        fall = np.clip((self.event.end + self.late_s - times) / RAMP_S + 0.5, 0.0, 1.0)
        found: Floats = np.exp(log(self.uplift) * np.minimum(rise, fall))
        return found


@dataclass(frozen=True)
class World:
    """Request rates with campaigns on them, in the product's own steps."""

    first: int
    """Step of the first row."""
    counts: Floats
    """float64[steps, series], requests in each step."""
    campaigns: tuple[Campaign, ...]


def world(series: Sequence[Series], by_kind: bool, days: float = MOST_DAYS, seed: int = 7) -> World | None:
    """Returns the rates of at most so many days with campaigns; None where no series is fit.

    by_kind: a series' announcements are all wrong in the same way, but for a little; else each in its own.
    """
    halves = [_in_steps(one) for one in series if _fit(one)]
    if not halves:
        return None
    day = round(DAY_S / STEP_S)
    starts = [start % day for start, _ in halves]
    first = max(starts)
    size = min(start + len(values) - first for start, (_, values) in zip(starts, halves, strict=True))
    size = min(size, round(days * day))
    columns = [
        values[first - start : first - start + size]
        for start, (_, values) in zip(starts, halves, strict=True)
    ]
    counts = np.stack(columns, axis=1)
    campaigns = _campaigns(first * STEP_S, size * STEP_S, len(columns), by_kind, np.random.default_rng(seed))
    middles = (first + (np.arange(size)[:, None] + (np.arange(SAMPLES) + 0.5) / SAMPLES)) * STEP_S
    for one in campaigns:
        near = slice(
            *np.searchsorted(middles[:, 0], [one.event.start - 600.0, one.event.end + 600.0]).tolist()
        )
        counts[near, one.series] *= one.factor(middles[near]).mean(axis=1)
    return World(first, counts, tuple(campaigns))


def _fit(one: Series) -> bool:
    """Returns whether a series is long enough, and can be put into the steps of the outlook."""
    days = len(one.values) * one.step_s / DAY_S
    return one.step_s in (STEP_S, MOST_STEP_S) and days >= LEAST_DAYS


def _in_steps(one: Series) -> tuple[int, Floats]:
    """Returns the first step and float64[n], requests in steps of 30 s; unknown is as the one before."""
    values = one.values[: round(MOST_DAYS * DAY_S / one.step_s)]
    there = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(len(values)), 0))
    parts = round(one.step_s / STEP_S)
    return round(one.start_s / STEP_S), np.repeat(values[there] / parts, parts)


def _campaigns(
    start_s: float, lasts_s: float, series: int, by_kind: bool, rng: np.random.Generator
) -> list[Campaign]:
    found = []
    for number in range(series):
        bias = rng.uniform(-log(WRONG), log(WRONG))
        room = DAY_S / A_DAY
        for turn in range(int((lasts_s - FIRST_DAYS * DAY_S) // room)):
            duration = rng.uniform(*LASTS_S)
            begin = start_s + FIRST_DAYS * DAY_S + turn * room + rng.uniform(0.1, 0.8) * (room - duration)
            uplift = exp(rng.uniform(*np.log(UPLIFT)))
            own = rng.uniform(-log(WRONG), log(WRONG))
            wrong = bias + 0.2 * own if by_kind else own
            event = Event(
                id=f"campaign-{number}-{turn}",
                kind=f"campaign-{number}",
                start=begin,
                end=begin + duration,
                types=[_name(number)],
                uplift=uplift * exp(np.clip(wrong, -log(WRONG), log(WRONG))),
            )
            came = rng.uniform() >= CANCELLED
            found.append(Campaign(event, number, turn, rng.normal(0.0, START_SD_S), uplift if came else 1.0))
    return found


def _name(series: int) -> str:
    return f"series-{series}"


@dataclass
class Errors:
    """Sums over scored forecasts of starts."""

    error: float = 0.0
    observed: float = 0.0

    def add(self, made: float, truth: float) -> None:
        """Takes one forecast and what came."""
        self.error += float(abs(made - truth))
        self.observed += float(truth)

    @property
    def wape(self) -> float | None:
        """Sum of |error| / sum of what came; None where nothing was scored."""
        return self.error / self.observed if self.observed > 0 else None


@dataclass(frozen=True)
class Starts:
    """How well starts were forecast."""

    came: Errors
    """Starts of campaigns that came, after TAUGHT of their kind."""
    first: Errors
    """Those before."""
    cancelled: Errors
    """Starts that did not come."""
    planner: Errors
    """As `came`, by what the planner is given: with headroom around a start, and gated."""


def run_campaigns(given: World, announced: bool) -> Starts:
    """Returns the errors of forecasts up to 5 min ahead of the starts; without announcements if asked."""
    series = given.counts.shape[1]
    key = (parse_field("json:id"),)
    types = tuple(RequestType(_name(number), key) for number in range(series))
    rules = KeyRules(series, (parse_field("json:type"),), types)
    outlook, book = Outlook(rules), EventBook(rules, ())
    starts = Starts(Errors(), Errors(), Errors(), Errors())
    waiting = sorted(given.campaigns, key=lambda one: one.event.start, reverse=True)
    over = sorted(given.campaigns, key=lambda one: one.event.end)
    looked: list[Campaign] = []
    for row, counts in enumerate(given.counts):
        now = (given.first + row + 1) * STEP_S
        while waiting and waiting[-1].event.start - ANNOUNCED_S <= now:
            looked.append(waiting.pop())
            if announced:
                book.add(looked[-1].event)
        while over and over[0].event.end + FORGOTTEN_S < now:
            book.withdraw(over.pop(0).event.id)
        outlook.learn(Step(given.first + row, np.diag(counts)), book)
        looked = [one for one in looked if now < one.event.start + AFTER_S]
        for one in looked:
            if now + HORIZON * STEP_S > one.event.start - BEFORE_S:
                _score(given, row, one, outlook, book, starts)
    return starts


def _score(given: World, row: int, one: Campaign, outlook: Outlook, book: EventBook, starts: Starts) -> None:
    """Adds the forecasts that were made after a row for the steps of a start."""
    steps = given.first + row + 1 + np.arange(HORIZON)
    truth = given.counts[row + 1 : row + 1 + HORIZON, one.series]
    times = (steps[:, None] + (np.arange(SAMPLES) + 0.5) / SAMPLES) * STEP_S
    uplift = book.uplift(_name(one.series), times.ravel(), headroom=False).reshape(times.shape).mean(axis=1)
    made = outlook.forecaster.forecast()[one.series, 1:] * uplift
    planned = _planned(given, row, one.series, outlook, book)
    middles = times.mean(axis=1) - one.event.start
    for ahead in np.flatnonzero(
        (middles > -BEFORE_S) & (middles < AFTER_S) & (np.arange(HORIZON) < len(truth))
    ):
        if one.uplift == 1.0:
            starts.cancelled.add(made[ahead], truth[ahead])
        elif one.number < TAUGHT:
            starts.first.add(made[ahead], truth[ahead])
        else:
            starts.came.add(made[ahead], truth[ahead])
            starts.planner.add(planned[ahead], truth[ahead])


def _planned(given: World, row: int, series: int, outlook: Outlook, book: EventBook) -> Floats:
    """Returns float64[horizon], requests in each step: the mean of what the planner is told at its ends."""
    now = (given.first + row + 1) * STEP_S
    rates = np.diag(given.counts[row]) / STEP_S
    load = outlook.demand(now, rates, {}, book).load[series]
    planned: Floats = (load[:-1] + load[1:]) / 2 * STEP_S
    return planned
