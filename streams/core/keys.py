"""From a request to its place: type, key bytes, hash, shard, slot.

Key bytes are the keyspace and then each key field, UTF-8, joined by NUL. Two different keys whose
fields contain NUL themselves can therefore have the same bytes ("a\\0b" alone, and "a" with "b").
They are then one key to foreshard: they share a slot, which keeps their order and costs nothing
but a shared place; only a count of distinct keys would see it.

What is taken as it is: strings (JSON text with a lone surrogate is not JSON to the parser), the
bytes of a record key (valid UTF-8 or not: nothing of it is parsed). A header that is a type or a
key field must be UTF-8. Where a header occurs twice, the last one counts; so does the last of two
members of one name in a JSON object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt

from schemas.errors import BadRequest, BadRequestError
from schemas.records import MAX_SHARDS, SLOTS
from streams.core.key_fields import (
    UNUSUAL,
    CompiledRule,
    Headers,
    NamedHeaders,
    NeededFields,
    needed_fields,
    parse_value,
    scalar_bytes,
    text_of,
    utf8_text,
)
from streams.core.key_rules import (
    ANY_TYPE,
    SERIES_MARK,
    FieldKind,
    KeyField,
    KeyRules,
    RequestType,
    parse_field,
)
from streams.core.value_series import VALUES_REPORTED, ValueSeries, value_series

__all__ = [
    "ANY_TYPE",
    "SERIES_MARK",
    "FieldKind",
    "KeyField",
    "KeyReader",
    "KeyRules",
    "RequestType",
    "hash_key",
    "key_bytes",
    "locate",
    "parse_field",
    "parse_value",
    "place",
    "scalar_bytes",
    "shard_table",
    "value_series",
]

TABLE_BITS = 20
"""Size of the shard table: 2^20 entries of 2 bytes; enough for max/mean of 1.2 at 4,096 shards."""
OPEN_TYPES = 4096
"""Names of types without a rule of their own whose compiled rule is kept."""


def key_bytes(
    rule: RequestType, type_name: str, parsed: object, key: bytes | None, headers: Headers | None
) -> bytes:
    """Returns the key bytes of a request with this parsed value, record key and headers."""
    return CompiledRule(rule, type_name, 0).key_bytes(parsed, key, dict(headers or ()))


# ---------------------------------------------------------------------------- hash, shard, slot


def hash_key(data: bytes) -> int:
    """Returns the 64-bit hash of key bytes: the first half of MurmurHash3 x64 128, seed 0."""
    return mmh3.mmh3_x64_128_utupledigest(data)[0]


@lru_cache(maxsize=8)
def shard_table(shards: int) -> npt.NDArray[np.uint16]:
    """Returns uint16[2^20]: the jump consistent hash of each index into 0..shards-1, read-only.

    Lamping and Veach, "A fast, minimal memory, consistent hash algorithm" (2014), on all indices at
    once: an index leaves the loop when its next jump is past the last shard.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"shards = {shards} is not in 1..{MAX_SHARDS}")
    table = np.zeros(1 << TABLE_BITS, dtype=np.uint16)
    index = np.arange(1 << TABLE_BITS)
    key = index.astype(np.uint64)
    shard = np.zeros(len(index), dtype=np.int64)
    while len(index):
        key = key * np.uint64(2862933555777941757) + np.uint64(1)
        jump = (shard + 1) * (float(1 << 31) / ((key >> np.uint64(33)) + np.uint64(1)).astype(np.float64))
        landed = jump.astype(np.int64)
        done = landed >= shards
        table[index[done]] = shard[done]
        index, key, shard = index[~done], key[~done], landed[~done]
    table.flags.writeable = False
    return table


def place(hashes: npt.NDArray[np.uint64], shards: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (shard int64[n], global slot int64[n]) of n hashes; global slot = shard * 256 + slot."""
    shard = shard_table(shards)[hashes >> np.uint64(64 - TABLE_BITS)].astype(np.int64)
    return shard, shard * SLOTS + (hashes & np.uint64(SLOTS - 1)).astype(np.int64)


def locate(rules: KeyRules, type_name: str, values: Sequence[str | int | bool]) -> tuple[int, int]:
    """Returns (shard, global slot) of the key with these values, in the order of the type's rule.

    Raises BadRequestError where the type has no rule or the values do not fit it.
    """
    series, rule = rules.rule(type_name)
    if len(values) != len(rule.key):
        wanted = ", ".join(str(field) for field in rule.key)
        reason = f"type {type_name} has {len(rule.key)} key fields ({wanted}), not {len(values)}"
        raise BadRequestError(BadRequest.KEY_MISSING, reason)
    parts = [CompiledRule(rule, type_name, series).prefix, *(scalar_bytes(value) or b"" for value in values)]
    hashes = np.array([hash_key(b"\0".join(parts))], dtype=np.uint64)
    shard, slot = place(hashes, rules.shards)
    return int(shard[0]), int(slot[0])


# ---------------------------------------------------------------------------- reading requests

Reading = tuple[int, int, str]
"""(series index, hash, type name)."""
Read = Callable[[bytes | None, bytes | None, Headers | None], Reading]

_UNPARSED = object()
_NO_HEADERS: dict[str, bytes | None] = {}


class KeyReader:
    """Reads type and hash of one request after the other: the hot path, made once per process.

    `read(value, record key, headers)` returns (series index, 64-bit hash, type name) or raises
    BadRequestError. The value is decoded only where a field that a rule names is in it, and only so far.
    """

    def __init__(self, rules: KeyRules, most_values: int = VALUES_REPORTED) -> None:
        """most_values: of a type's `forecast_by`, which get a series index of their own."""
        self._most_values = most_values
        self._type_from = tuple((field.kind, field.path, field) for field in rules.type_from)
        self._needed = needed_fields(rules)
        self._types: dict[str, CompiledRule] = {}
        self._by_bytes: dict[bytes, CompiledRule] = {}
        """The same by the type's bytes, as headers have it: no decoding."""
        self._any: tuple[RequestType, int] | None = None
        self.free = np.array([rule.order == "none" for rule in rules.types], dtype=np.bool_)
        """bool[series]: whether the type's requests need no order."""
        self.series = list(rules.series)
        """Names of series by index: the types, then values of their `forecast_by` as they come."""
        self._plain: KeyReader | None = None
        """Reads what a `forecast_by` stands in the way of."""
        self._finders = self._make_finders(rules)
        for series, rule in enumerate(rules.types):
            if rule.name == ANY_TYPE:
                self._any = rule, series
            else:
                compiled = self._compiled(rule, rule.name, series)
                self._types[rule.name] = self._by_bytes[rule.name.encode()] = compiled
        self._room = OPEN_TYPES
        self.read: Read = self._slow if self._needed is None else self._fast(self._needed)

    def _make_finders(self, rules: KeyRules) -> list[ValueSeries | None]:
        """Returns per rule what finds its values' series."""
        split = [rule.forecast_by for rule in rules.types]
        if any(split):
            plain = tuple(replace(rule, forecast_by=None) for rule in rules.types)
            self._plain = KeyReader(replace(rules, types=plain))
        return [
            None
            if field is None
            else ValueSeries(rule, series, field, self._needed, self._register, self._most_values)
            for series, (rule, field) in enumerate(zip(rules.types, split, strict=True))
        ]

    def _register(self, name: str, own: int) -> int:
        """Returns the index of a new series of the type whose index is `own`."""
        self.free = np.append(self.free, self.free[own])
        self.series.append(name)
        return len(self.series) - 1

    def _compiled(self, rule: RequestType, type_name: str, series: int) -> CompiledRule:
        compiled = CompiledRule(rule, type_name, series, self._needed)
        compiled.by = self._finders[series]
        return compiled

    def _fast(self, needed: NeededFields) -> Read:
        """Returns what reads the usual request fast, and any other the exact way.

        Usual is: no headers, a type in the value, all key fields in the value and texts or integers.
        """
        slow, with_headers = self._slow, self._with_headers
        types, decode, digest, join = self._types, needed.decode, mmh3.mmh3_x64_128_utupledigest, "\0".join
        kinds = [kind for kind, _, _ in self._type_from if kind != "header"]
        if kinds[:1] != ["json"]:
            return with_headers
        type_of = needed.getter([field for kind, _, field in self._type_from if kind == "json"][:1])

        def read(value: bytes | None, key: bytes | None, headers: Headers | None) -> Reading:
            if headers:
                return with_headers(value, key, headers)
            try:
                decoded = decode(value)  # type: ignore[arg-type]  # None is unusual
                rule = types[type_of(decoded)]
                fields = rule.get(decoded)  # type: ignore[misc]  # so is a key from elsewhere
                try:
                    text = rule.head + join(fields)
                except TypeError:
                    text = rule.head + join([text_of(field) for field in fields])
                series = rule.series if rule.by is None else rule.by.decoded(decoded, key, _NO_HEADERS)
            except UNUSUAL:
                return slow(value, key, headers)
            return series, digest(text.encode())[0], rule.name

        return read

    def _with_headers(self, value: bytes | None, key: bytes | None, headers: Headers | None) -> Reading:
        """Reads a request whose type or key may be in its headers or its record key."""
        needed = self._needed
        named = dict(headers) if headers else _NO_HEADERS
        try:
            rule, decoded = self._type(value, key, named)
            by = rule.by
            if needed is not None and decoded is None and (rule.get or (by is not None and by.in_value)):
                decoded = needed.decode(value)  # type: ignore[arg-type]  # None is unusual
            if rule.get is not None and needed is not None:
                fields = rule.get(decoded)
                data = (rule.head + "\0".join([text_of(field) for field in fields])).encode()
            elif rule.needs_value:
                return self._slow(value, key, headers)
            else:
                data = rule.key_bytes(None, key, named)
            series = rule.series if by is None else by.decoded(decoded, key, named)
        except UNUSUAL:
            return self._slow(value, key, headers)
        return series, mmh3.mmh3_x64_128_utupledigest(data)[0], rule.name

    def _type(self, value: bytes | None, key: bytes | None, named: NamedHeaders) -> tuple[CompiledRule, Any]:
        """Returns the rule of a request and what was decoded of its value; raises one of UNUSUAL."""
        decoded = None
        for kind, path, field in self._type_from:
            if kind == "json":
                if self._needed is None or value is None:
                    raise TypeError
                decoded = self._needed.decode(value)
                name = self._needed.getter([field])(decoded)
                if name is not None:
                    return self._types[name], decoded
            else:
                raw = named.get(path[0]) if kind == "header" else key
                if raw is not None:
                    return self._by_bytes[raw], decoded
        raise KeyError

    def _slow(self, value: bytes | None, key: bytes | None, headers: Headers | None) -> Reading:
        """Reads a request the exact way; what fails so is read as if nothing were forecast by value."""
        try:
            return self._exact(value, key, headers)
        except BadRequestError:
            if self._plain is None:
                raise
        return self._plain.read(value, key, headers)

    def _exact(self, value: bytes | None, key: bytes | None, headers: Headers | None) -> Reading:
        """Reads a request by parsing its whole value; says what is wrong with it."""
        named = dict(headers) if headers else _NO_HEADERS
        parsed = _UNPARSED
        for kind, path, field in self._type_from:
            if kind == "json":
                if parsed is _UNPARSED:
                    parsed = parse_value(value)
                found = parsed
                for part in path:
                    found = found.get(part) if type(found) is dict else None
                if found is None:
                    continue
                rule = self._types.get(found) if type(found) is str else None
                if rule is None:
                    rule = self._other_type(found, field)
            else:
                raw = named.get(path[0]) if kind == "header" else key
                if raw is None:
                    continue
                rule = self._by_bytes.get(raw)
                if rule is None:
                    rule = self._other_type(utf8_text(raw, field), field)
            break
        else:
            raise BadRequestError(BadRequest.TYPE_MISSING, f"none of {self._type_places()} is there")
        by = rule.by
        if parsed is _UNPARSED and (rule.needs_value or (by is not None and by.in_value)):
            parsed = parse_value(value)
        digest = mmh3.mmh3_x64_128_utupledigest(rule.key_bytes(parsed, key, named))
        series = rule.series if by is None else by.parsed(parsed, key, named)
        return series, digest[0], rule.name

    def _other_type(self, name: object, field: KeyField) -> CompiledRule:
        """Returns the rule of a type that has none of its own: that of `*`."""
        if type(name) is not str:
            raise BadRequestError(BadRequest.TYPE_NOT_TEXT, f"{field} is {type(name).__name__}, not text")
        if self._any is None:
            raise BadRequestError(BadRequest.TYPE_UNKNOWN, f"{field} names a type without a rule")
        rule, series = self._any
        compiled = self._compiled(rule, name, series)
        if self._room > 0:
            self._room -= 1
            self._types[name] = self._by_bytes[name.encode()] = compiled
        return compiled

    def _type_places(self) -> str:
        return ", ".join(str(field) for _, _, field in self._type_from)
