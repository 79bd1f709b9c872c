"""The series of a balancer: the names that records carry, and the rows under which they are forecast.

Every request type has a row. A type with `forecast_by` has 64 more in reserve: the series of its values,
named type/value, get them in the order in which closed steps show requests of them, the largest first. What
has no row, as the value 65 and later ones, counts in the row of its type. A row is never given back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streams.core.key_rules import ANY_TYPE, SERIES_MARK, KeyRules
from streams.core.value_series import value_text

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

VALUES_KEPT = 64
"""Rows in reserve for a type: at 90 us per series and step, 64 take 6 ms of every 30 s."""
VALUES_HEARD = 1024
"""Values of a type that are told apart before they have a row: 128 of each router, and of those before it."""
NO_SPLIT: Mapping[str, str] = MappingProxyType({})


class SeriesRows:
    """Which row each series has. Shared by all that counts, forecasts or announces requests of a series."""

    def __init__(self, types: Sequence[str], split: Mapping[str, str] = NO_SPLIT) -> None:
        """types: their names, by index; split: the types with `forecast_by`, each with that field."""
        self.types = tuple(types)
        self.split = dict(split)
        reserved = [number for number, name in enumerate(types) if name in split for _ in range(VALUES_KEPT)]
        self.type_of: Ints = np.array([*range(len(types)), *reserved], dtype=np.int64)
        """int64[rows]: index of each row's type; a type's own row is that of its index."""
        self.names: list[str] = [*types, *[""] * len(reserved)]
        """Series of each row; empty for one in reserve."""
        self.reserve: Bools = np.array([not name for name in self.names], dtype=np.bool_)
        """bool[rows]: which have no series yet."""
        self._free: dict[int, list[int]] = {}
        """Type index -> its rows in reserve."""
        for row in np.flatnonzero(self.reserve).tolist():
            self._free.setdefault(int(self.type_of[row]), []).append(row)
        self._row = {name: number for number, name in enumerate(types)}
        self._heard: list[str] = list(types)
        """Series by number: the types, then values as they are heard of."""
        self._number = dict(self._row)
        self._room = dict.fromkeys((self._row[name] for name in split), VALUES_HEARD)
        self._rows: Ints = np.arange(len(types), dtype=np.int64)
        """int64[numbers]"""

    @classmethod
    def of(cls, rules: KeyRules) -> SeriesRows:
        split = {rule.name: str(rule.forecast_by) for rule in rules.types if rule.forecast_by is not None}
        return cls(rules.series, split)

    # ------------------------------------------------------------------ names of records

    def numbers(self, names: Sequence[str]) -> Ints:
        """Returns int64[len(names)]: a number for each series, which it keeps; that of `*`, or -1, if none.

        Numbers below len(types) are types. A value's series has that of its type where the type is not
        split here, or already has very many.
        """
        known = self._number
        return np.array([known[name] if name in known else self._hear(name) for name in names], np.int64)

    def _hear(self, name: str) -> int:
        kind = self.type_index(name)
        if self._room.get(kind, 0) <= 0 or not self._is_value(name, kind):
            return kind
        self._room[kind] -= 1
        self._number[name] = len(self._heard)
        self._heard.append(name)
        self._rows = np.append(self._rows, self._row.get(name, kind))
        return self._number[name]

    def type_index(self, name: str) -> int:
        """Returns the index of the type that a series is or is of; that of `*`, or -1, if there is none."""
        before = name
        while before not in self._row or self._row[before] >= len(self.types):
            before, mark, _ = before.rpartition(SERIES_MARK)
            if not mark:
                return self._row.get(ANY_TYPE, -1)
        return self._row[before]

    def names_of(self, numbers: Ints) -> list[str]:
        """Returns the series of these numbers."""
        return [self._heard[number] for number in numbers.tolist()]

    def rows_of(self, numbers: Ints) -> Ints:
        """Returns the row in which the series of each number counts now."""
        return self._rows[numbers]

    # ------------------------------------------------------------------ rows

    def row(self, name: str) -> int:
        """Returns the row in which a series counts: its own, else that of its type."""
        found = self._row.get(name)
        return self.type_index(name) if found is None else found

    def scope(self, name: str) -> list[int]:
        """Returns the rows of a type and of all its values, or that of one value's series, if it has one."""
        own = self._row.get(name)
        if own is None:
            return []
        if name not in self.split:
            return [own]
        rows: list[int] = np.flatnonzero((self.type_of == own) & ~self.reserve).tolist()
        return rows

    def known(self, name: str) -> bool:
        """Returns whether this is a type, or a value's series of a type that is split."""
        if name in self.types:
            return True
        return self._is_value(name, self.type_index(name))

    def _is_value(self, name: str, kind: int) -> bool:
        if kind < 0 or self.types[kind] not in self.split:
            return False
        before = self.types[kind] + SERIES_MARK
        return name.startswith(before) and value_text(name[len(before) :]) is not None

    def assign(self, names: Sequence[str], requests: Floats) -> None:
        """Gives free rows to those of these series that have requests and no row; the largest first."""
        new = [
            (-float(count), name)
            for name, count in zip(names, requests, strict=True)
            if count > 0 and name not in self._row
        ]
        for _, name in sorted(new):
            free = self._free[self.type_index(name)]
            if free:
                self._give(name, free[0])

    def _give(self, name: str, row: int) -> None:
        self.names[row] = name
        self.reserve[row] = False
        self._free[int(self.type_of[row])].remove(row)
        self._row[name] = row
        if name in self._number:
            self._rows[self._number[name]] = row

    def take(self, names: Sequence[str]) -> None:
        """Takes a predecessor's series of every row; where they do not fit, ValueError, and takes nothing.

        To be called before any step is learned.
        """
        given = {row: name for row, name in enumerate(names) if name and row >= len(self.types)}
        fits = len(names) == len(self.names) and tuple(names[: len(self.types)]) == self.types
        if not fits or any(self.type_index(name) != self.type_of[row] for row, name in given.items()):
            raise ValueError(f"{len(names)} rows do not fit types {', '.join(self.types)}")
        for row, name in given.items():
            self._give(name, row)

    # ------------------------------------------------------------------ figures by row

    def by_row(self, counts: Floats, values: Sequence[str]) -> Floats:
        """Returns float64[rows, n] of float64[types + values, n], the last of which are these series."""
        if not self.split:
            return counts
        total = np.zeros((len(self.names), counts.shape[1]))
        where = [*range(len(self.types)), *(self.row(name) for name in values)]
        np.add.at(total, where, counts)
        return total

    def by_type(self, figures: Floats) -> Floats:
        """Returns float64[types], the sums of float64[rows]."""
        if not self.split:
            return figures
        return np.bincount(self.type_of, figures, len(self.types)).astype(np.float64)
