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

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import mmh3
import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import BadRequest, BadRequestError
from schemas.records import MAX_SHARDS, SLOTS
from streams.core.key_rules import ANY_TYPE, FieldKind, KeyField, KeyRules, RequestType, parse_field

__all__ = [
    "ANY_TYPE",
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
]

Headers = Sequence[tuple[str, bytes | None]]
NamedHeaders = Mapping[str, bytes | None]

TABLE_BITS = 20
"""Size of the shard table: 2^20 entries of 2 bytes; enough for max/mean of 1.2 at 4,096 shards."""
INTEGERS = range(-(2**63), 2**64)
"""Integers that are keys: what JSON parsers keep exactly."""
OPEN_TYPES = 4096
"""Names of types without a rule of their own whose compiled rule is kept."""


# ---------------------------------------------------------------------------- key bytes

FieldReader = Callable[[object, bytes | None, NamedHeaders], bytes | None]
"""(parsed value, record key, headers) -> the field's bytes, or None where it is missing."""


def scalar_bytes(value: object) -> bytes | None:
    """Returns a JSON scalar's bytes in a key, None for null; BadRequestError for anything else."""
    if type(value) is str:
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise BadRequestError(BadRequest.NOT_UTF8, "a key field has a lone surrogate") from None
    if value is None:
        return None
    if type(value) is int and value in INTEGERS:
        return b"%d" % value
    if type(value) is bool:
        return b"true" if value else b"false"
    kind = "integer over 64 bits" if type(value) is int else type(value).__name__
    raise BadRequestError(BadRequest.KEY_NOT_SCALAR, f"is no text, boolean or 64-bit integer: {kind}")


def _json_reader(field: KeyField) -> FieldReader:
    *outer, last = field.path

    def read(parsed: object, _key: bytes | None, _headers: NamedHeaders) -> bytes | None:
        for part in outer:
            if type(parsed) is not dict:
                return None
            parsed = parsed.get(part)
        if type(parsed) is not dict:
            return None
        value = parsed.get(last)
        if type(value) is str:
            return value.encode()
        try:
            return scalar_bytes(value)
        except BadRequestError as error:
            raise BadRequestError(error.bad, f"{field} {error}") from None

    return read


def _header_reader(field: KeyField) -> FieldReader:
    (name,) = field.path

    def read(_parsed: object, _key: bytes | None, headers: NamedHeaders) -> bytes | None:
        value = headers.get(name)
        if value is not None and not value.isascii():
            _text(value, field)
        return value

    return read


def _key_reader(_parsed: object, key: bytes | None, _headers: NamedHeaders) -> bytes | None:
    return key


def _text(value: bytes, field: KeyField) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequestError(BadRequest.NOT_UTF8, f"{field} is not UTF-8") from None


def _reader(field: KeyField) -> FieldReader:
    if field.kind == "json":
        return _json_reader(field)
    return _header_reader(field) if field.kind == "header" else _key_reader


class _Compiled:
    """A rule for requests of one type name, with everything precomputed that can be."""

    __slots__ = ("empty", "fields", "name", "needs_value", "prefix", "readers", "series")

    def __init__(self, rule: RequestType, type_name: str, series: int) -> None:
        self.series = series
        self.name = type_name
        self.prefix = (rule.own_keyspace or type_name).encode()
        self.needs_value = any(field.kind == "json" for field in rule.key)
        self.empty = rule.missing == "empty"
        self.fields = rule.key
        self.readers = tuple(_reader(field) for field in rule.key)

    def key_bytes(self, parsed: object, key: bytes | None, headers: NamedHeaders) -> bytes:
        data = self.prefix
        for read in self.readers:
            value = read(parsed, key, headers)
            if value is None:
                value = self._missing(read)
            data += b"\0" + value
        return data

    def _missing(self, read: FieldReader) -> bytes:
        if self.empty:
            return b""
        field = self.fields[self.readers.index(read)]
        raise BadRequestError(BadRequest.KEY_MISSING, f"{field} is missing or null")


def key_bytes(
    rule: RequestType, type_name: str, parsed: object, key: bytes | None, headers: Headers | None
) -> bytes:
    """Returns the key bytes of a request with this parsed value, record key and headers."""
    return _Compiled(rule, type_name, 0).key_bytes(parsed, key, dict(headers or ()))


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
    parts = [_Compiled(rule, type_name, series).prefix, *(scalar_bytes(value) or b"" for value in values)]
    hashes = np.array([hash_key(b"\0".join(parts))], dtype=np.uint64)
    shard, slot = place(hashes, rules.shards)
    return int(shard[0]), int(slot[0])


# ---------------------------------------------------------------------------- reading requests

_UNPARSED = object()
_NO_HEADERS: dict[str, bytes | None] = {}


def parse_value(value: bytes | None) -> object:
    """Returns the parsed JSON of a request's value; BadRequestError says what is wrong with it."""
    if not value:
        raise BadRequestError(BadRequest.EMPTY_VALUE, "the value is empty")
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            bad = BadRequest.NESTED_TOO_DEEP
        elif "UTF-8: " in error.msg:
            bad = BadRequest.NOT_UTF8
        else:
            bad = BadRequest.NOT_JSON
        raise BadRequestError(bad, f"{error.msg} at character {error.pos}") from None


class KeyReader:
    """Reads type and hash of one request after the other: the hot path, made once per process."""

    def __init__(self, rules: KeyRules) -> None:
        self._type_from = tuple((field.kind, field.path, field) for field in rules.type_from)
        self._types: dict[str, _Compiled] = {}
        self._by_bytes: dict[bytes, _Compiled] = {}
        """The same by the type's bytes, as headers have it: no decoding."""
        self._any: tuple[RequestType, int] | None = None
        self.free = np.array([rule.order == "none" for rule in rules.types], dtype=np.bool_)
        """bool[series]: whether the type's requests need no order."""
        for series, rule in enumerate(rules.types):
            if rule.name == ANY_TYPE:
                self._any = rule, series
            else:
                compiled = _Compiled(rule, rule.name, series)
                self._types[rule.name] = self._by_bytes[rule.name.encode()] = compiled
        self._room = OPEN_TYPES

    def read(self, value: bytes | None, key: bytes | None, headers: Headers | None) -> tuple[int, int, str]:
        """Returns (series index, 64-bit hash, type name); raises BadRequestError.

        The value is parsed only where the type or a key field is in it.
        """
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
                    rule = self._other_type(_text(raw, field), field)
            break
        else:
            raise BadRequestError(BadRequest.TYPE_MISSING, f"none of {self._type_places()} is there")
        if rule.needs_value and parsed is _UNPARSED:
            parsed = parse_value(value)
        digest = mmh3.mmh3_x64_128_utupledigest(rule.key_bytes(parsed, key, named))
        return rule.series, digest[0], rule.name

    def _other_type(self, name: object, field: KeyField) -> _Compiled:
        """Returns the rule of a type that has none of its own: that of `*`."""
        if type(name) is not str:
            raise BadRequestError(BadRequest.TYPE_NOT_TEXT, f"{field} is {type(name).__name__}, not text")
        if self._any is None:
            raise BadRequestError(BadRequest.TYPE_UNKNOWN, f"{field} names a type without a rule")
        rule, series = self._any
        compiled = _Compiled(rule, name, series)
        if self._room > 0:
            self._room -= 1
            self._types[name] = self._by_bytes[name.encode()] = compiled
        return compiled

    def _type_places(self) -> str:
        return ", ".join(str(field) for _, _, field in self._type_from)
