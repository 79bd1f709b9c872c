"""The series of one value of a type's `forecast_by`: its name, and its index in a process that counts.

A value that is missing, null, no text, integer or boolean, empty, over 64 characters long or not printable
has no series: its requests count as its type's, and are none the worse for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.errors import BadRequestError
from streams.core.key_fields import Decoded, NamedHeaders, NeededFields, scalar_bytes
from streams.core.key_rules import SERIES_MARK, KeyField, RequestType

VALUES_REPORTED = 128
"""Values of a type that a process counts apart, twice those that are forecast: each forecast one is then
reported by every router in full, unless a type has over a hundred values."""
MOST_CHARACTERS = 64
"""A name of a tenant or region fits; 128 of them are 8 KB in a report."""


def value_text(value: object) -> str | None:
    """Returns a value as its series is called, None where it has none."""
    try:
        text = (scalar_bytes(value) or b"").decode()
    except BadRequestError:
        return None
    return text if 0 < len(text) <= MOST_CHARACTERS and text.isprintable() else None


def value_series(rule: RequestType, values: Sequence[object]) -> str:
    """Returns the series of a key with these values: its type's where no key field is the `forecast_by`."""
    if rule.forecast_by is None or rule.forecast_by not in rule.key:
        return rule.name
    text = value_text(values[rule.key.index(rule.forecast_by)])
    return rule.name if text is None else rule.name + SERIES_MARK + text


class ValueSeries:
    """Finds the series of requests of one type by their `forecast_by`; new values get an index while few."""

    def __init__(
        self,
        rule: RequestType,
        own: int,
        field: KeyField,
        needed: NeededFields | None,
        register: Callable[[str, int], int],
        most: int = VALUES_REPORTED,
    ) -> None:
        """own: index of the type's series; register: gives (name, own) an index, to `most` of them."""
        self._most = most
        self._name, self._own, self._field, self._register = rule.name + SERIES_MARK, own, field, register
        self._index: dict[str, int] = {}
        self.in_value = field.kind == "json"
        self._get = needed.getter([field]) if self.in_value and needed is not None else None

    def decoded(self, decoded: Decoded, key: bytes | None, headers: NamedHeaders) -> int:
        """Returns the index for a request of which what rules need is decoded; may raise AttributeError."""
        if self._get is not None:
            return self._of(self._get(decoded))
        return self._elsewhere(key, headers)

    def parsed(self, parsed: object, key: bytes | None, headers: NamedHeaders) -> int:
        """Returns the index for a request with this parsed value."""
        if not self.in_value:
            return self._elsewhere(key, headers)
        for part in self._field.path:
            parsed = parsed.get(part) if type(parsed) is dict else None
        return self._of(parsed)

    def _elsewhere(self, key: bytes | None, headers: NamedHeaders) -> int:
        raw = key if self._field.kind == "key" else headers.get(self._field.path[0])
        try:
            return self._own if raw is None else self._of(raw.decode())
        except UnicodeDecodeError:
            return self._own

    def _of(self, value: object) -> int:
        found = self._index.get(value) if type(value) is str else None
        return self._new(value) if found is None else found

    def _new(self, value: object) -> int:
        text = value_text(value)
        if text is None:
            return self._own
        if text not in self._index:
            if len(self._index) >= self._most:
                return self._own
            self._index[text] = self._register(self._name + text, self._own)
        return self._index[text]
