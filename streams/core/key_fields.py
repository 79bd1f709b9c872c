"""Reading key fields: exactly, from a parsed value; and fast, decoding nothing but what rules need.

The fast way gives a request's key or nothing at all: whatever is unusual (a field missing, of another
kind than text, no JSON) is left to the exact way, which also says what is wrong. What no rule asks
for is only skipped: its structure is checked, not its numbers and not the UTF-8 of its strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

import msgspec
import orjson

from schemas.errors import BadRequest, BadRequestError
from streams.core.key_rules import KeyField, KeyRules, RequestType

Headers = Sequence[tuple[str, bytes | None]]
NamedHeaders = Mapping[str, bytes | None]

INTEGERS = range(-(2**63), 2**64)
"""Integers that are keys: what JSON parsers keep exactly."""

Decoded = Any
"""What `NeededFields.decode` returns; `NeededFields.getter` reads it."""

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
            utf8_text(value, field)
        return value

    return read


def _key_reader(_parsed: object, key: bytes | None, _headers: NamedHeaders) -> bytes | None:
    return key


def utf8_text(value: bytes, field: KeyField) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequestError(BadRequest.NOT_UTF8, f"{field} is not UTF-8") from None


def _reader(field: KeyField) -> FieldReader:
    if field.kind == "json":
        return _json_reader(field)
    return _header_reader(field) if field.kind == "header" else _key_reader


class SeriesFinder(Protocol):
    """Gives the index of a request's series, by what was decoded of it or its parsed value."""

    in_value: bool

    def decoded(self, decoded: Decoded, key: bytes | None, headers: NamedHeaders, /) -> int: ...
    def parsed(self, parsed: object, key: bytes | None, headers: NamedHeaders, /) -> int: ...


class CompiledRule:
    """A rule for requests of one type name, with everything precomputed that can be."""

    __slots__ = ("by", "empty", "fields", "get", "head", "name", "needs_value", "prefix", "readers", "series")

    def __init__(
        self, rule: RequestType, type_name: str, series: int, needed: NeededFields | None = None
    ) -> None:
        self.series = series
        self.by: SeriesFinder | None = None
        """Finds the series of a request's value, where the rule has `forecast_by`."""
        self.name = type_name
        self.prefix = (rule.own_keyspace or type_name).encode()
        self.head = (rule.own_keyspace or type_name) + "\0"
        self.get: Callable[[Any], Sequence[Any]] | None = None
        """Gets the key fields' values of a decoded request; None where they are not all in its value."""
        if needed is not None and all(field.kind == "json" for field in rule.key):
            get = needed.getter(rule.key)
            self.get = get if len(rule.key) > 1 else lambda decoded: (get(decoded),)
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


# ---------------------------------------------------------------------------- decoding what is needed

Leaf = str | int | bool | None
Tree = dict[str, Any]
"""JSON member -> the same for its members, or an empty dict for a field."""

UNUSUAL = (
    msgspec.MsgspecError,
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    UnicodeError,
)
"""What the fast way raises where the exact way is to look."""


def text_of(value: object) -> str:
    """Returns a decoded text or integer as its key has it; raises KeyError for anything else."""
    if type(value) is str:
        return value
    if type(value) is int and value in INTEGERS:
        return str(value)
    raise KeyError


class NeededFields:
    """A decoder of the JSON fields that some rules name, and of nothing else."""

    def __init__(self, fields: Iterable[KeyField]) -> None:
        """Raises ValueError where one field lies within another: {"a": ...} and {"a": {"b": ...}}."""
        self._names: dict[tuple[str, ...], str] = {}
        tree: Tree = {}
        paths = sorted({field.path for field in fields if field.kind == "json"})
        for path in paths:
            inner = tree
            for part in path:
                inner = inner.setdefault(part, {})
        for path in paths:
            if any(other[: len(path)] == path for other in paths if other != path):
                raise ValueError(f"json:{'.'.join(path)} is a field, and has one within it")
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._struct(tree, ())).decode

    def _struct(self, tree: Tree, before: tuple[str, ...]) -> type[msgspec.Struct]:
        members: list[tuple[str, Any, None]] = []
        names = {}
        for number, (part, inner) in enumerate(tree.items()):
            name = f"f{number}"
            names[name] = part
            path = (*before, part)
            self._names[path] = ".".join(filter(None, (self._names.get(before, ""), name)))
            members.append((name, (self._struct(inner, path) | None) if inner else Leaf, None))
        return msgspec.defstruct("Needed", members, rename=names, gc=False)

    def getter(self, fields: Sequence[KeyField]) -> Callable[[Any], Any]:
        """Returns what gets these fields' values of a decoded request: a tuple, one alone as it is."""
        return attrgetter(*(self._names[field.path] for field in fields))


def needed_fields(rules: KeyRules) -> NeededFields | None:
    """Returns the decoder for some rules; None where it could not read them all."""
    fields = [*rules.type_from, *(field for rule in rules.types for field in rule.key)]
    fields += [rule.forecast_by for rule in rules.types if rule.forecast_by is not None]
    try:
        return NeededFields(fields)
    except ValueError:
        return None
