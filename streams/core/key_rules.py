"""The rules of the request types: where type and key of a request are, equal in every process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import BadRequest, BadRequestError
from schemas.records import MAX_SHARDS

FieldKind = Literal["json", "header", "key"]

ANY_TYPE = "*"
"""Name of the rule for every type that has no rule of its own."""
SERIES_MARK = "/"
"""Between type and value in the name of a series that `forecast_by` makes: update/acme."""


@dataclass(frozen=True)
class KeyField:
    """Where a value is: `path` holds the JSON path's parts, or the header's name, or nothing."""

    kind: FieldKind
    path: tuple[str, ...]

    def __str__(self) -> str:
        return self.kind if self.kind == "key" else f"{self.kind}:{'.'.join(self.path)}"


def parse_field(text: str) -> KeyField:
    """Returns the field that "json:user.id", "header:name" or "key" means; else ValueError."""
    if text == "key":
        return KeyField("key", ())
    kind, _, rest = text.partition(":")
    if kind == "header" and rest:
        return KeyField("header", (rest,))
    if kind == "json" and rest and all(rest.split(".")):
        return KeyField("json", tuple(rest.split(".")))
    raise ValueError(f'{text!r} is no field: write "json:user.id", "header:name" or "key"')


@dataclass(frozen=True)
class RequestType:
    """The rule of one request type. An empty keyspace means: the name of the request's type."""

    name: str
    key: tuple[KeyField, ...]
    keyspace: str = ""
    order: Literal["key", "none"] = "key"
    missing: Literal["dead-letter", "empty"] = "dead-letter"
    cost: float = 1.0
    forecast_by: KeyField | None = None
    """Each value of this field has a forecast series of its own (streams/core/series.py)."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a request type has an empty name")
        if not self.key:
            raise ValueError(f"request type {self.name!r} has no key fields")
        if "\0" in self.keyspace + self.name:
            raise ValueError(f"request type {self.name!r}: NUL in its name or keyspace {self.keyspace!r}")
        if not 0 < self.cost < float("inf"):
            raise ValueError(f"request type {self.name!r}: cost {self.cost} is not a positive number")

    @property
    def own_keyspace(self) -> str:
        """The rule's keyspace; "" where it is the name of each request's own type."""
        return self.keyspace or ("" if self.name == ANY_TYPE else self.name)


@dataclass(frozen=True)
class KeyRules:
    """N and all request types: what decides where a request goes, equal in every process."""

    shards: int
    type_from: tuple[KeyField, ...]
    types: tuple[RequestType, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= MAX_SHARDS:
            raise ValueError(f"shards = {self.shards} is not in 1..{MAX_SHARDS}")
        if not self.type_from:
            raise ValueError("type_from is empty: nothing says what type a request has")
        if not self.types:
            raise ValueError("there are no request types")
        names = self.series
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"request types named twice: {twice}")
        for rule in self.types:
            like = sorted(name for name in names if name.startswith(rule.name + SERIES_MARK))
            if rule.forecast_by is not None and like:
                what = f"request type {like[0]!r} is named like a series of {rule.name!r}, whose forecast_by"
                raise ValueError(f"{what} makes series {rule.name + SERIES_MARK}<value>; rename one of them")

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the types in their order; a type's place in it is its series index."""
        return tuple(rule.name for rule in self.types)

    def costs(self) -> npt.NDArray[np.float64]:
        """Returns float64[series], cost units per request."""
        return np.array([rule.cost for rule in self.types], dtype=np.float64)

    def rules_hash(self) -> str:
        """Returns the SHA-256 in hex of N and all that decides the bytes of a key.

        The order of the types, their cost, their order policy and what they are forecast by do not count.
        """
        types = [
            [rule.name, rule.own_keyspace, [str(field) for field in rule.key], rule.missing]
            for rule in sorted(self.types, key=lambda rule: rule.name)
        ]
        canonical = [self.shards, [str(field) for field in self.type_from], types]
        return hashlib.sha256(orjson.dumps(canonical)).hexdigest()

    def rule(self, type_name: str) -> tuple[int, RequestType]:
        """Returns (series index, rule) of a type; BadRequestError where none applies to it."""
        names = self.series
        for name in (type_name, ANY_TYPE):
            if name in names:
                return names.index(name), self.types[names.index(name)]
        raise BadRequestError(BadRequest.TYPE_UNKNOWN, "no rule for this request's type")
