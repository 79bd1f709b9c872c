"""Averages of the balance bench, and its targets, computed from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from statistics import fmean
from typing import Any

from app.bench.plan import SIZES
from app.bench.report import judged
from streams.core.simulation.lanes import UNMOVED, Policy

Row = Mapping[str, Any]

FIELDS = (
    "violations_pct",
    "violations5_pct",
    "moved_pct_per_h",
    "moves_per_h",
    "reversals_pct",
    "away_pct",
    "hold_p99_s",
)
FAST_S, SLOW_S = 10.0, 30.0
"""Intervals of rounds: the default, and three times that."""
ANNOUNCED = ("tenant-campaigns", "imports")
"""Scenarios in which foresight decides: announced, or recurring."""


def means(rows: Sequence[Row], scenarios: Set[str]) -> dict[str, dict[str, float]]:
    """Returns the mean of every field over the rows of some scenarios, by policy and interval of rounds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["scenario"] in scenarios:
            found.setdefault(_name(row["policy"], row["round_s"]), []).append(row)
    return {
        name: {field: round(fmean(row[field] for row in group), 5) for field in FIELDS}
        for name, group in found.items()
    }


def _name(policy: str, round_s: float) -> str:
    return policy if policy in {unmoved.value for unmoved in UNMOVED} else f"{policy}, {round_s:g} s"


def targets(rows: Sequence[Row], main: Set[str], plan_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns every target with what was measured, and whether it is met; None where it was not measured."""
    board = _Board(rows, main)
    return [*board.violations(), *board.ratios(), *board.movement(), *board.special(), *_plans(plan_ms)]


class _Board:
    """Rows, looked at from all sides."""

    def __init__(self, rows: Sequence[Row], main: Set[str]) -> None:
        self._rows = rows
        self._main = sorted(main & {row["scenario"] for row in rows})

    def mean(
        self, policy: Policy, field: str, round_s: float, scenarios: Sequence[str] | None = None
    ) -> float | None:
        """Returns the mean of one figure; None where there is no row."""
        name = _name(policy.value, round_s)
        found = means(self._rows, set(self._main if scenarios is None else scenarios)).get(name)
        return None if found is None else found[field]

    def ratio(
        self,
        one: Policy,
        other: Policy,
        round_s: float,
        scenarios: Sequence[str] | None = None,
        field: str = "violations_pct",
    ) -> float | None:
        """Returns one policy's figure over another's; infinite over 0, 1 where both are 0."""
        mine, theirs = (self.mean(policy, field, round_s, scenarios) for policy in (one, other))
        if mine is None or theirs is None:
            return None
        if theirs == 0:
            return 1.0 if mine == 0 else float("inf")
        return mine / theirs

    def worst(self, policy: Policy, round_s: float, against: Policy | None = None) -> float | None:
        """Returns the largest mean of a scenario, or the largest difference to another policy's."""
        found = []
        for scenario in self._main:
            mine = self.mean(policy, "violations_pct", round_s, [scenario])
            theirs = self.mean(against, "violations_pct", round_s, [scenario]) if against else 0.0
            if mine is not None and theirs is not None:
                found.append(mine - theirs)
        return max(found, default=None)

    def violations(self) -> list[dict[str, Any]]:
        policy = Policy.PREDICTIVE
        return [
            judged(
                "predictive: waited > 1 s, %, average",
                "<=",
                0.05,
                self.mean(policy, "violations_pct", FAST_S),
            ),
            judged("predictive: waited > 1 s, %, worst scenario", "<=", 0.12, self.worst(policy, FAST_S)),
            judged(
                "predictive: waited > 5 s, %, average",
                "<=",
                0.02,
                self.mean(policy, "violations5_pct", FAST_S),
            ),
        ]

    def ratios(self) -> list[dict[str, Any]]:
        mine, other = Policy.PREDICTIVE, Policy.REACTIVE
        found = []
        for round_s, limit in ((SLOW_S, 0.35), (FAST_S, 0.5)):
            what = f"predictive / reactive, rounds of {round_s:g} s"
            found.append(judged(f"{what}, average", "<=", limit, self.ratio(mine, other, round_s)))
            found += [
                judged(f"{what}, {scenario}", "<=", 0.25, self.ratio(mine, other, round_s, [scenario]))
                for scenario in ANNOUNCED
            ]
            found.append(
                judged(
                    f"predictive - reactive, {round_s:g} s, worst scenario, points",
                    "<=",
                    0.02,
                    self.worst(mine, round_s, other),
                )
            )
        found.append(judged("static / predictive", ">=", 50, self.ratio(Policy.STATIC, mine, FAST_S)))
        oracle = self.mean(Policy.ORACLE, "violations_pct", FAST_S)
        own = self.mean(mine, "violations_pct", FAST_S)
        gap = None if oracle is None or own is None else own - oracle
        found.append(judged("predictive - oracle, points", "<=", 0.03, gap))
        return found

    def movement(self) -> list[dict[str, Any]]:
        mine = Policy.PREDICTIVE
        moved = self.ratio(mine, Policy.REACTIVE, FAST_S, field="moved_pct_per_h")
        return [
            judged("predictive: load moved, %/h", "<=", 15, self.mean(mine, "moved_pct_per_h", FAST_S)),
            judged("load moved, predictive / reactive", "<=", 0.9, moved),
            judged("predictive: moves per hour", "<=", 40, self.mean(mine, "moves_per_h", FAST_S)),
            judged(
                "predictive: reversals within 10 min, % of moves",
                "<=",
                6,
                self.mean(mine, "reversals_pct", FAST_S),
            ),
            judged("predictive: load away from home, %", "<=", 6, self.mean(mine, "away_pct", FAST_S)),
            judged(
                "ordered / order-free, reactive",
                "<=",
                1.3,
                self.ratio(Policy.REACTIVE, Policy.UNORDERED, FAST_S),
            ),
            judged("hold p99, s, predictive", "<=", 12, self.mean(mine, "hold_p99_s", FAST_S)),
        ]

    def special(self) -> list[dict[str, Any]]:
        even = self.mean(Policy.PREDICTIVE, "moves_per_h", FAST_S, ["even-load"])
        bad = self.ratio(Policy.PREDICTIVE, Policy.REACTIVE, FAST_S, ["bad-forecast"])
        return [
            judged("even load: moves per hour", "==", 0, even),
            judged("bad forecast: predictive / reactive", "<=", 1.1, bad),
        ]


def _plans(plan_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        judged(f"plan p99, {size.name} (shards x clusters), ms", "<=", size.target_ms, plan_ms.get(size.name))
        for size in SIZES
    ]
