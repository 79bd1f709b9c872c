"""Makes schemas/vectors/keys.json, the vectors that every implementation of the key rules must meet.

`python -m tests.core.key_vectors` rewrites the file; test_keys.py checks it against a second
implementation of hash and table, written here in plain Python.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streams.core.keys import KeyField, KeyReader, KeyRules, RequestType, key_bytes, parse_field, parse_value

PATH = Path(__file__).resolve().parents[2] / "schemas/vectors/keys.json"
ABOUT = (
    "Key bytes = keyspace, NUL, then the key fields joined by NUL, UTF-8. Hash = first 64 bits of "
    "MurmurHash3 x64 128, seed 0. Shard = jump consistent hash of the hash's bits 63..44; slot = bits 7..0; "
    "global slot = shard * 256 + slot. An empty keyspace means the name of the request's type."
)
MASK = 2**64 - 1


def jump_hash(key: int, buckets: int) -> int:
    """Returns the jump consistent hash, word for word as published (Lamping and Veach, 2014)."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = (key * 2862933555777941757 + 1) & MASK
        following = int((bucket + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return bucket


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & MASK


def _mix(value: int) -> int:
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return value ^ (value >> 33)


def murmur3(data: bytes) -> int:
    """Returns the first half of MurmurHash3 x64 128 with seed 0, as published by Appleby."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    h1 = h2 = 0
    whole = len(data) // 16 * 16
    for start in range(0, whole, 16):
        k1 = int.from_bytes(data[start : start + 8], "little")
        k2 = int.from_bytes(data[start + 8 : start + 16], "little")
        h1 ^= (_rotate((k1 * c1) & MASK, 31) * c2) & MASK
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DCE729) & MASK
        h2 ^= (_rotate((k2 * c2) & MASK, 33) * c1) & MASK
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x38495AB5) & MASK
    k1 = int.from_bytes(data[whole : whole + 8], "little")
    k2 = int.from_bytes(data[whole + 8 :], "little")
    h2 ^= (_rotate((k2 * c2) & MASK, 33) * c1) & MASK
    h1 ^= (_rotate((k1 * c1) & MASK, 31) * c2) & MASK
    h1, h2 = h1 ^ len(data), h2 ^ len(data)
    h1 = (h1 + h2) & MASK
    h2 = (h2 + h1) & MASK
    return (_mix(h1) + _mix(h2)) & MASK


CASES: list[dict[str, Any]] = [
    {"name": "text", "fields": ["json:k"], "value": '{"k":"alice"}'},
    {"name": "empty text", "fields": ["json:k"], "value": '{"k":""}'},
    {"name": "space and punctuation", "fields": ["json:k"], "value": '{"k":" a/b?c=1 "}'},
    {"name": "escaped text is the same key", "fields": ["json:k"], "value": '{"k":"\\u0061lice"}'},
    {"name": "umlauts", "fields": ["json:k"], "value": '{"k":"Zürich"}'},
    {"name": "two forms of one letter are two keys", "fields": ["json:k"], "value": '{"k":"Zu\\u0308rich"}'},
    {"name": "chinese", "fields": ["json:k"], "value": '{"k":"北京"}'},
    {"name": "emoji by surrogate pair", "fields": ["json:k"], "value": '{"k":"\\ud83d\\ude80"}'},
    {"name": "nul inside", "fields": ["json:k"], "value": '{"k":"a\\u0000b"}'},
    {"name": "zero", "fields": ["json:k"], "value": '{"k":0}'},
    {"name": "minus zero", "fields": ["json:k"], "value": '{"k":-0}'},
    {"name": "one", "fields": ["json:k"], "value": '{"k":1}'},
    {"name": "the text 1 is the key 1", "fields": ["json:k"], "value": '{"k":"1"}'},
    {"name": "negative", "fields": ["json:k"], "value": '{"k":-42}'},
    {"name": "least integer", "fields": ["json:k"], "value": '{"k":-9223372036854775808}'},
    {"name": "greatest integer", "fields": ["json:k"], "value": '{"k":18446744073709551615}'},
    {"name": "true", "fields": ["json:k"], "value": '{"k":true}'},
    {"name": "false", "fields": ["json:k"], "value": '{"k":false}'},
    {"name": "last of two members", "fields": ["json:k"], "value": '{"k":"first","k":"last"}'},
    {"name": "nested path", "fields": ["json:user.id"], "value": '{"user":{"id":17}}'},
    {"name": "two fields", "fields": ["json:tenant", "json:user.id"],
     "value": '{"tenant":"t","user":{"id":"u"}}'},
    {"name": "two fields, nul", "fields": ["json:a", "json:b"], "value": '{"a":"","b":"x"}'},
    {"name": "missing as empty", "fields": ["json:a", "json:b"], "value": '{"b":"x"}', "missing": "empty"},
    {"name": "null as empty", "fields": ["json:a", "json:b"], "missing": "empty",
     "value": '{"a":null,"b":"x"}'},
    {"name": "header", "fields": ["header:customer"], "headers": [["customer", b"c-9"]]},
    {"name": "last of two headers", "fields": ["header:c"], "headers": [["c", b"first"], ["c", b"last"]]},
    {"name": "record key", "fields": ["key"], "key": b"order-1"},
    {"name": "record key, not UTF-8", "fields": ["key"], "key": b"\xff\x00\x80"},
    {"name": "empty record key", "fields": ["key"], "key": b""},
    {"name": "all three", "fields": ["key", "header:h", "json:j"], "key": b"k", "headers": [["h", b"h"]],
     "value": '{"j":3}'},
    {"name": "shared keyspace", "fields": ["json:k"], "value": '{"k":"alice"}', "keyspace": "user"},
    {"name": "unicode keyspace", "fields": ["json:k"], "value": '{"k":"alice"}', "keyspace": "Größe"},
    {"name": "any type, own name", "rule": "*", "type": "login", "fields": ["json:k"],
     "value": '{"k":"alice"}'},
    {"name": "any type, keyspace", "rule": "*", "type": "login", "fields": ["json:k"], "keyspace": "user",
     "value": '{"k":"alice"}'},
    {"name": "40 bytes", "fields": ["json:k"], "value": '{"k":"0123456789abcdef0123456789abcdef01234567"}'},
]  # fmt: skip
SHARDS = (1, 7, 256, 4096)


def vector(case: dict[str, Any]) -> dict[str, Any]:
    """Returns one entry of the file: the case, and what the key rules make of it."""
    fields: tuple[KeyField, ...] = tuple(parse_field(text) for text in case["fields"])
    name = case.get("rule", "t")
    rule = RequestType(name, fields, case.get("keyspace", ""), missing=case.get("missing", "dead-letter"))
    type_name = case.get("type", "t")
    value = case.get("value")
    headers = [(header, data) for header, data in case.get("headers", [])]
    parsed = parse_value(value.encode()) if value is not None else None
    data = key_bytes(rule, type_name, parsed, case.get("key"), headers)
    return {
        "name": case["name"],
        "rule": {"name": name, "key": case["fields"], "keyspace": rule.keyspace, "missing": rule.missing},
        "type": type_name,
        "value": value,
        "key": case["key"].hex() if "key" in case else None,
        "headers": [[header, data.hex()] for header, data in headers],
        "key_bytes": data.hex(),
        "hash": f"{murmur3(data):016x}",
        "places": [_place(murmur3(data), shards) for shards in SHARDS],
    }


def _place(hashed: int, shards: int) -> dict[str, int]:
    shard, slot = jump_hash(hashed >> 44, shards), hashed & 255
    return {"shards": shards, "shard": shard, "slot": slot, "global_slot": shard * 256 + slot}


def reader_of(entry: dict[str, Any], shards: int) -> KeyReader:
    """Returns a reader with the vector's rule alone; the type comes from the header `type`."""
    rule = entry["rule"]
    fields = tuple(parse_field(text) for text in rule["key"])
    types = (RequestType(rule["name"], fields, rule["keyspace"], missing=rule["missing"]),)
    return KeyReader(KeyRules(shards, (parse_field("header:type"),), types))


def text() -> str:
    """Returns the file's text."""
    rows = ",\n  ".join(json.dumps(vector(case), ensure_ascii=True) for case in CASES)
    return f'{{"about": {json.dumps(ABOUT)},\n "vectors": [\n  {rows}\n ]\n}}\n'


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())
