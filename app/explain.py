"""What the request types of a configuration make of sample requests, before anything is deployed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from schemas.errors import BadRequest, BadRequestError, InvalidRecordError
from streams.core.key_fields import Headers
from streams.core.keys import KeyReader, KeyRules, place
from streams.core.series import VALUES_KEPT

MOST_VALUES = 100_000
"""Values of a type that are told apart: a field with more is not what requests are forecast by."""
Sample = tuple[bytes | None, bytes | None, Headers | None]
"""(value, record key, headers)"""


@dataclass
class TypeSample:
    """What the sample has of one request type."""

    name: str
    forecast_by: str
    """Empty where the type is forecast as one."""
    requests: int = 0
    keys: Counter[int] = field(default_factory=Counter)
    """Requests by hash of the key."""
    values: Counter[str] = field(default_factory=Counter)
    """Requests by series of a value of `forecast_by`."""

    @property
    def hottest(self) -> float:
        """Returns the part of the requests that the hottest key has."""
        return max(self.keys.values(), default=0) / max(self.requests, 1)

    def spread(self, shards: int) -> float:
        """Returns requests of the fullest shard / mean of all shards; 0 without any."""
        if not self.keys:
            return 0.0
        where, _ = place(np.array(list(self.keys), dtype=np.uint64), shards)
        load = np.bincount(where, list(self.keys.values()), shards)
        return float(load.max() / load.mean())

    @property
    def kept(self) -> float:
        """Returns the part of the requests whose series are the largest that are forecast by themselves."""
        return sum(count for _, count in self.values.most_common(VALUES_KEPT)) / max(self.requests, 1)


@dataclass
class Explained:
    """What the sample has of every type, and what cannot be routed."""

    types: list[TypeSample]
    refused: Counter[BadRequest] = field(default_factory=Counter)
    reasons: dict[BadRequest, str] = field(default_factory=dict)
    """Of the first request that is refused so, with its line."""


def explain(rules: KeyRules, samples: Iterable[tuple[int, Sample]]) -> Explained:
    """Returns what these (line number, request) are under the rules."""
    reader = KeyReader(rules, MOST_VALUES)
    types = [TypeSample(rule.name, str(rule.forecast_by or "")) for rule in rules.types]
    found = Explained(types)
    for line, sample in samples:
        try:
            series, digest, type_name = reader.read(*sample)
        except BadRequestError as error:
            found.refused[error.bad] += 1
            found.reasons.setdefault(error.bad, f"line {line}: {error}")
            continue
        index, _ = rules.rule(type_name)
        kind = types[index]
        kind.requests += 1
        kind.keys[digest] += 1
        if series != index:
            kind.values[reader.series[series]] += 1
    return found


def values_of(lines: Iterable[bytes]) -> Iterable[tuple[int, Sample]]:
    """Yields (line number, request) of lines that are requests' values; empty lines are left out."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, (line.rstrip(b"\r\n"), None, None)


def records_of(lines: Iterable[bytes]) -> Iterable[tuple[int, Sample]]:
    """Yields the same of lines {"value": ..., "key": "text", "headers": {"name": "text"}}, all optional.

    Raises InvalidRecordError with the line where one is something else.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, _record(orjson.loads(line))
            except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
                what = f'line {number} is no {{"value": ..., "key": "...", "headers": {{...}}}}'
                raise InvalidRecordError(f"{what}: {error}") from None


def _record(record: dict[str, Any]) -> Sample:
    unknown = sorted(set(record) - {"value", "key", "headers"})
    if unknown:
        raise TypeError(f"there is {', '.join(unknown)} in it")
    value, key = record.get("value"), record.get("key")
    headers = [(name, text.encode()) for name, text in (record.get("headers") or {}).items()]
    return (
        None if value is None else orjson.dumps(value),
        None if key is None else key.encode(),
        headers or None,
    )
