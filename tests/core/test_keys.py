"""Keys: what is read from a request, and where it lands."""

from __future__ import annotations

import json
from typing import Any

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import BadRequest, BadRequestError
from streams.core.keys import (
    KeyReader,
    KeyRules,
    RequestType,
    hash_key,
    key_bytes,
    locate,
    parse_field,
    parse_value,
    place,
    shard_table,
)
from tests.core import key_vectors
from tests.core.key_vectors import jump_hash, murmur3

VECTORS: list[dict[str, Any]] = json.loads(key_vectors.PATH.read_text())["vectors"]
MOST_OVER_MEAN = {1: 1.0, 7: 1.005, 256: 1.05, 4096: 1.25}
"""The stated bound of max/mean of table entries per shard."""

UPDATE = RequestType("update", (parse_field("json:tenant"), parse_field("json:user.id")))
BY_HEADER = RequestType("by-header", (parse_field("header:customer"),))
BY_KEY = RequestType("by-key", (parse_field("key"),), keyspace="update")
LENIENT = RequestType("lenient", (parse_field("json:a"), parse_field("json:b")), missing="empty")
ANY = RequestType("*", (parse_field("json:id"),))
RULES = KeyRules(
    256, (parse_field("header:type"), parse_field("json:type")), (UPDATE, BY_HEADER, BY_KEY, LENIENT, ANY)
)
NO_ANY = KeyRules(256, RULES.type_from, (UPDATE, BY_HEADER))


def refusal(
    value: bytes | None,
    key: bytes | None = None,
    headers: list[tuple[str, bytes | None]] | None = None,
    rules: KeyRules = RULES,
) -> BadRequest:
    """Returns why the request is refused."""
    with pytest.raises(BadRequestError) as caught:
        KeyReader(rules).read(value, key, headers)
    return caught.value.bad


# ---------------------------------------------------------------------------- spread and growth


@pytest.mark.parametrize("shards", MOST_OVER_MEAN)
def test_table_spreads_evenly(shards: int) -> None:
    """The fullest shard has no more of the table than the stated bound allows."""
    counts = np.bincount(shard_table(shards), minlength=shards)
    assert len(counts) == shards
    assert counts.max() / counts.mean() <= MOST_OVER_MEAN[shards]


@pytest.mark.parametrize("shards", [7, 256, 4096])
def test_real_keys_spread_as_the_table_does(shards: int) -> None:
    """400,000 real keys: each shard's count is what its part of the table predicts, chance allowed for."""
    hashes = np.array([hash_key(b"user\0%d" % number) for number in range(400_000)], dtype=np.uint64)
    counts = np.bincount(place(hashes, shards)[0], minlength=shards)
    expected = np.bincount(shard_table(shards), minlength=shards) / 2**20 * len(hashes)
    assert np.abs((counts - expected) / np.sqrt(expected)).max() < 5.5
    if shards <= 256:
        assert counts.max() / counts.mean() <= 1.12


@settings(max_examples=25)
@given(st.integers(1, 4096), st.integers(1, 4096))
def test_growth_moves_only_what_the_new_shards_take(one: int, other: int) -> None:
    """From N to N' shards (N' - N)/N' of the keys move, and all of them to new shards."""
    few, many = sorted((one, other))
    before, after = shard_table(few), shard_table(many)
    moved = before != after
    assert (after[moved] >= few).all()
    share = (many - few) / many
    assert moved.mean() == pytest.approx(share, abs=0.005)


def test_slots_spread_evenly_and_apart_from_shards() -> None:
    """Each of the 256 slots of a shard gets its part of the keys."""
    hashes = np.array([hash_key(b"k\0%d" % number) for number in range(256_000)], dtype=np.uint64)
    shard, global_slot = place(hashes, 4)
    counts = np.bincount(global_slot, minlength=4 * 256)
    assert (global_slot // 256 == shard).all()
    assert len(counts) == 4 * 256
    assert counts.min() > 250 - 5.5 * 250**0.5
    assert counts.max() < 250 + 5.5 * 250**0.5


def test_table_is_the_published_jump_hash() -> None:
    """The vectorised table is the published loop's result, index by index."""
    for shards in (1, 2, 7, 256, 1000, 4096):
        table = shard_table(shards)
        assert all(table[index] == jump_hash(index, shards) for index in range(0, 2**20, 3989))


def test_shard_counts_out_of_range_are_refused() -> None:
    """0 and 4097 shards do not make a table."""
    for shards in (0, 4097):
        with pytest.raises(ValueError, match=str(shards)):
            shard_table(shards)


@given(st.binary(max_size=80))
def test_hash_is_murmur3(data: bytes) -> None:
    """The hash is the contract's mmh3 call, and the plain-Python Murmur of the vectors agrees."""
    assert hash_key(data) == mmh3.hash64(data, 0, signed=False)[0] == murmur3(data)


# ---------------------------------------------------------------------------- vectors


def test_vectors_are_many_and_current() -> None:
    """The file is what `python -m tests.core.key_vectors` writes."""
    assert len(VECTORS) >= 30
    assert key_vectors.PATH.read_text() == key_vectors.text()


@pytest.mark.parametrize("entry", VECTORS, ids=lambda entry: entry["name"])
def test_vector_holds(entry: dict[str, Any]) -> None:
    """Reading the vector's request gives its bytes, hash, shard and slot, at every N."""
    value = entry["value"].encode() if entry["value"] is not None else None
    key = bytes.fromhex(entry["key"]) if entry["key"] is not None else None
    headers = [("type", entry["type"].encode())]
    headers += [(name, bytes.fromhex(data)) for name, data in entry["headers"]]
    for spot in entry["places"]:
        series, hashed, type_name = key_vectors.reader_of(entry, spot["shards"]).read(value, key, headers)
        assert (series, type_name, f"{hashed:016x}") == (0, entry["type"], entry["hash"])
        shard, global_slot = place(np.array([hashed], dtype=np.uint64), spot["shards"])
        assert (shard[0], global_slot[0]) == (spot["shard"], spot["global_slot"])
    assert f"{murmur3(bytes.fromhex(entry['key_bytes'])):016x}" == entry["hash"]


# ---------------------------------------------------------------------------- key bytes

SCALARS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.integers(-(2**63), 2**64 - 1)
)


def shuffled(document: dict[str, Any], order: list[str]) -> bytes:
    return json.dumps({name: document[name] for name in order}).encode()


@given(SCALARS, SCALARS, st.permutations(["type", "tenant", "user", "note"]))
def test_member_order_does_not_matter(tenant: Any, user: Any, order: list[str]) -> None:
    """The same members in any order are the same key."""
    document = {"type": "update", "tenant": tenant, "user": {"x": 1, "id": user}, "note": "n"}
    reader = KeyReader(RULES)
    assert reader.read(shuffled(document, sorted(document)), None, None) == reader.read(
        shuffled(document, order), None, None
    )


@given(SCALARS, SCALARS)
def test_read_and_locate_agree(tenant: Any, user: Any) -> None:
    """A key named by its values is found where the router sends its requests."""
    value = json.dumps({"type": "update", "tenant": tenant, "user": {"id": user}}).encode()
    _, hashed, _ = KeyReader(RULES).read(value, None, None)
    shard, global_slot = place(np.array([hashed], dtype=np.uint64), RULES.shards)
    assert locate(RULES, "update", [tenant, user]) == (shard[0], global_slot[0])


def test_numbers_and_their_text_are_one_key() -> None:
    """1 and "1", true and "true" are the same key; 0 and -0 too."""
    for one, other in ((1, "1"), (True, "true"), (False, "false"), (0, "-0")):
        same = key_bytes(ANY, "x", {"id": one}, None, None) == key_bytes(ANY, "x", {"id": other}, None, None)
        assert same == (other != "-0")
    assert parse_value(b'{"id":-0}') == parse_value(b'{"id":0}')


def test_nul_inside_a_field_is_kept_and_may_coincide() -> None:
    """Bytes stay as the contract says; two keys that differ only in where NUL stands share a place."""
    two = RequestType("t", (parse_field("json:a"), parse_field("json:b")))
    one = key_bytes(two, "t", {"a": "x\0y", "b": "z"}, None, None)
    assert one == b"t\0x\0y\0z" == key_bytes(two, "t", {"a": "x", "b": "y\0z"}, None, None)


def test_keyspace_is_shared_or_the_types_own() -> None:
    """Types with one keyspace and equal values have one key; for * the keyspace is each type's own."""
    assert key_bytes(BY_KEY, "by-key", None, b"7", None) == b"update\x007"
    assert key_bytes(ANY, "login", {"id": 7}, None, None) == b"login\x007"
    assert key_bytes(ANY, "logout", {"id": 7}, None, None) == b"logout\x007"


def test_missing_fields_are_empty_where_the_rule_says_so() -> None:
    """Missing and null become empty text with missing = "empty"."""
    for document in ({"b": 1}, {"a": None, "b": 1}, {"a": "", "b": 1}):
        assert key_bytes(LENIENT, "lenient", document, None, None) == b"lenient\0\x001"
    assert key_bytes(LENIENT, "lenient", [1], None, None) == b"lenient\0\0"


# ---------------------------------------------------------------------------- reading


def test_value_is_not_parsed_when_nothing_is_in_it() -> None:
    """Type and key from headers or record key: the value may be anything, or nothing."""
    reader = KeyReader(RULES)
    for value in (None, b"", b"\xff{", b"["):
        assert reader.read(value, None, [("type", b"by-header"), ("customer", b"9")])[0] == 1
        assert reader.read(value, b"9", [("type", b"by-key")])[0] == 2


def test_first_place_with_a_type_wins() -> None:
    """The header's type goes before the JSON's; a header without a value counts as absent."""
    reader = KeyReader(RULES)
    value = b'{"type":"update","tenant":"t","user":{"id":1},"id":5}'
    assert reader.read(value, None, [("type", b"login")])[2] == "login"
    assert reader.read(value, None, [("type", None)])[2] == "update"
    assert reader.read(value, None, [("type", b"login"), ("type", b"update")])[2] == "update"


def test_types_without_a_rule_take_the_open_one() -> None:
    """A type only * covers has its series, its own name and its own keyspace; also the second time."""
    reader = KeyReader(RULES)
    for _ in range(2):
        series, hashed, name = reader.read(b'{"type":"login","id":5}', None, None)
        assert (series, hashed, name) == (4, hash_key(b"login\x005"), "login")


def test_more_types_than_are_kept_are_still_read() -> None:
    """Beyond the number of open types that are kept, each is read just the same."""
    reader = KeyReader(RULES)
    for number in range(5000):
        name = f"t{number}"
        assert reader.read(b'{"id":5}', None, [("type", name.encode())])[1:] == (
            hash_key(name.encode() + b"\x005"),
            name,
        )


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        (None, BadRequest.EMPTY_VALUE),
        (b"", BadRequest.EMPTY_VALUE),
        (b"  ", BadRequest.NOT_JSON),
        (b"{", BadRequest.NOT_JSON),
        (b"\xef\xbb\xbf{}", BadRequest.NOT_JSON),
        (b'{"type":"\\ud800"}', BadRequest.NOT_JSON),
        (b'{"type":NaN}', BadRequest.NOT_JSON),
        (b'{"type":"\xff"}', BadRequest.NOT_UTF8),
        (b'{"type":"login","id":"\xc3("}', BadRequest.NOT_UTF8),
        (b"[" * 1025 + b"]" * 1025, BadRequest.NESTED_TOO_DEEP),
        (b'{"a":' * 200_000, BadRequest.NESTED_TOO_DEEP),
        (b"{}", BadRequest.TYPE_MISSING),
        (b"[]", BadRequest.TYPE_MISSING),
        (b"7", BadRequest.TYPE_MISSING),
        (b'{"type":null}', BadRequest.TYPE_MISSING),
        (b'{"type":7}', BadRequest.TYPE_NOT_TEXT),
        (b'{"type":["update"]}', BadRequest.TYPE_NOT_TEXT),
        (b'{"type":"login"}', BadRequest.KEY_MISSING),
        (b'{"type":"login","id":null}', BadRequest.KEY_MISSING),
        (b'{"type":"update","tenant":"t","user":5}', BadRequest.KEY_MISSING),
        (b'{"type":"update","tenant":"t","user":{}}', BadRequest.KEY_MISSING),
        (b'{"type":"by-key"}', BadRequest.KEY_MISSING),
        (b'{"type":"by-header"}', BadRequest.KEY_MISSING),
        (b'{"type":"login","id":1e2}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"login","id":1.0}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"login","id":18446744073709551616}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"login","id":-9223372036854775809}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"login","id":[]}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"login","id":{}}', BadRequest.KEY_NOT_SCALAR),
        (b'{"type":"lenient","a":[],"b":1}', BadRequest.KEY_NOT_SCALAR),
    ],
)  # fmt: skip
def test_bad_value_is_refused_with_its_code(value: bytes | None, bad: BadRequest) -> None:
    """Each kind of bad value has its code."""
    assert refusal(value) is bad


def test_depth_1024_is_still_read() -> None:
    """The deepest nesting the parser takes is a request like any other."""
    deep = b'{"type":"login","id":7,"x":' + b"[" * 1023 + b"]" * 1023 + b"}"
    assert KeyReader(RULES).read(deep, None, None)[2] == "login"


def test_bad_headers_are_refused_with_their_code() -> None:
    """Headers that are not UTF-8 as type or key field, and types without a rule."""
    assert refusal(b"{}", None, [("type", b"\xff")]) is BadRequest.NOT_UTF8
    assert refusal(b"{}", None, [("type", b"by-header"), ("customer", b"\xff")]) is BadRequest.NOT_UTF8
    assert refusal(b"{}", None, [("type", b"by-header"), ("customer", None)]) is BadRequest.KEY_MISSING
    assert refusal(b"{}", None, [("type", b"login")], NO_ANY) is BadRequest.TYPE_UNKNOWN
    assert refusal(b'{"type":"login"}', None, [], NO_ANY) is BadRequest.TYPE_UNKNOWN
    assert refusal(b"", None, [], NO_ANY) is BadRequest.EMPTY_VALUE


def test_refusals_say_where_but_never_the_value() -> None:
    """The reason names the field; the key's value, which may be personal, is not in it."""
    for value in (b'{"type":"login","id":12345.5}', b'{"type":"secret-type","tenant":12345.5}'):
        with pytest.raises(BadRequestError) as caught:
            KeyReader(NO_ANY if b"secret" in value else RULES).read(value, None, None)
        assert "json:" in str(caught.value)
        assert "12345" not in str(caught.value)
        assert "secret" not in str(caught.value)


@given(st.binary(max_size=60), st.none() | st.binary(max_size=5), st.binary(max_size=8))
def test_any_bytes_are_read_or_refused_with_a_code(value: bytes, key: bytes | None, kind: bytes) -> None:
    """No request, however broken, raises anything but a BadRequestError."""
    for headers in (None, [("type", kind)], [("type", b"by-header"), ("customer", kind)]):
        try:
            series, hashed, _ = KeyReader(RULES).read(value, key, headers)
        except BadRequestError as error:
            code = error.code
        else:
            code = None
            assert 0 <= series < 5
            assert 0 <= hashed < 2**64
        assert code is None or code in set(BadRequest)


# ---------------------------------------------------------------------------- rules


@pytest.mark.parametrize("text", ["json:user.id", "json:type", "header:x-Type:1", "key"])
def test_field_reads_back_as_written(text: str) -> None:
    """A field's text is its own."""
    assert str(parse_field(text)) == text


@pytest.mark.parametrize("text", ["", "json:", "json:a..b", "json:.a", "header:", "key:x", "body:a", "Key"])
def test_bad_field_is_refused_by_name(text: str) -> None:
    """What is no field is refused with the text in the message."""
    with pytest.raises(ValueError, match="is no field") as caught:
        parse_field(text)
    assert repr(text) in str(caught.value)


def test_bad_rules_are_refused_at_construction() -> None:
    """Rules that could not work are refused with the wrong value in the message."""
    with pytest.raises(ValueError, match="shards = 0"):
        KeyRules(0, RULES.type_from, RULES.types)
    with pytest.raises(ValueError, match="update"):
        KeyRules(256, RULES.type_from, (UPDATE, UPDATE))
    with pytest.raises(ValueError, match="type_from"):
        KeyRules(256, (), RULES.types)
    with pytest.raises(ValueError, match="no request types"):
        KeyRules(256, RULES.type_from, ())
    with pytest.raises(ValueError, match="'t' has no key"):
        RequestType("t", ())
    with pytest.raises(ValueError, match="cost -1"):
        RequestType("t", (parse_field("key"),), cost=-1)
    with pytest.raises(ValueError, match="NUL"):
        RequestType("t", (parse_field("key"),), keyspace="a\0b")


def test_rules_hash_covers_what_decides_the_key_and_no_more() -> None:
    """N, type places, names, fields, keyspace, missing count; cost, order and the types' order do not."""

    def with_update(**changes: Any) -> str:
        given_fields = {"name": "update", "key": UPDATE.key} | changes
        return KeyRules(256, RULES.type_from, (RequestType(**given_fields), BY_HEADER)).rules_hash()

    same = with_update()
    assert len(same) == 64
    assert with_update(cost=3.0, order="none") == with_update(keyspace="update") == same
    assert KeyRules(256, RULES.type_from, (BY_HEADER, UPDATE)).rules_hash() == same
    other = {
        KeyRules(255, RULES.type_from, (UPDATE, BY_HEADER)).rules_hash(),
        KeyRules(256, RULES.type_from[::-1], (UPDATE, BY_HEADER)).rules_hash(),
        with_update(name="change"),
        with_update(key=UPDATE.key[::-1]),
        with_update(keyspace="user"),
        with_update(missing="empty"),
        same,
    }
    assert len(other) == 7


def test_series_and_costs_follow_the_types() -> None:
    """A type's place is its series; costs come in the same order."""
    rules = KeyRules(8, RULES.type_from, (UPDATE, RequestType("*", (parse_field("key"),), cost=2.5)))
    assert rules.series == ("update", "*")
    assert rules.costs().tolist() == [1.0, 2.5]


def test_keys_that_do_not_fit_their_type_are_not_located() -> None:
    """Too few or many values, an unknown type, a lone surrogate, an integer over 64 bits."""
    wrong: list[tuple[str, list[Any], BadRequest]] = [
        ("update", ["t"], BadRequest.KEY_MISSING),
        ("update", ["t", "u", "v"], BadRequest.KEY_MISSING),
        ("by-header", ["\ud800"], BadRequest.NOT_UTF8),
        ("by-header", [2**64], BadRequest.KEY_NOT_SCALAR),
        ("login", ["x"], BadRequest.TYPE_UNKNOWN),
    ]
    for type_name, values, bad in wrong:
        with pytest.raises(BadRequestError) as caught:
            locate(NO_ANY, type_name, values)
        assert caught.value.bad is bad


# ---------------------------------------------------------------------------- the fast way and the exact way

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["update", "by-header", "by-key", "lenient", "other", "\0", "\u00e4\U0001f600"])
)
members = st.sampled_from(["type", "tenant", "user", "id", "a", "b", "else"])
documents = st.dictionaries(
    members, leaves | st.dictionaries(members, leaves, max_size=3) | st.lists(leaves, max_size=2), max_size=6
)
FAST, EXACT = KeyReader(RULES), KeyReader(RULES)


def outcome(read: Any, *request: Any) -> Any:
    """What a reader says of a request: its reading, or the code of its refusal."""
    try:
        return read(*request)
    except BadRequestError as error:
        return error.bad


@settings(max_examples=400)
@given(
    documents,
    st.booleans(),
    st.none() | st.sampled_from([b"update", b"by-header", b"by-key", b"lenient", b"x", b"\xff"]),
    st.none() | st.binary(max_size=4),
)
def test_fast_reading_says_what_exact_reading_says(
    document: dict[str, Any], escaped: bool, kind: bytes | None, customer: bytes | None
) -> None:
    """For any JSON object, with and without headers: the same series, hash and type, or the same refusal."""
    value = json.dumps(document, ensure_ascii=escaped).encode()
    headers = [] if kind is None else [("type", kind)]
    headers += [] if customer is None else [("customer", customer)]
    request = value, b"key", headers or None
    assert outcome(FAST.read, *request) == outcome(EXACT._exact, *request)


@settings(max_examples=400)
@given(documents, st.integers(0, 10_000), st.binary(max_size=2))
def test_a_damaged_value_is_never_read_as_another_key(
    document: dict[str, Any], where: int, put: bytes
) -> None:
    """What the fast way reads of damaged JSON is what exact reading reads, where that can read it."""
    value = json.dumps(document).encode()
    where %= len(value)
    value = value[:where] + put + value[where + 1 :]
    fast, exact = outcome(FAST.read, value, None, None), outcome(EXACT._exact, value, None, None)
    unread = (BadRequest.NOT_JSON, BadRequest.NOT_UTF8)
    assert fast == exact or (exact in unread and isinstance(fast, tuple))


def test_what_no_rule_needs_is_skipped() -> None:
    """A number out of range, or bytes that are no UTF-8, elsewhere in the value cost the request nothing."""
    good = FAST.read(b'{"type": "update", "tenant": "t", "user": {"id": 7}}', None, None)
    for rest in (b'"x": 1e999', b'"x": "\xff"'):
        value = b'{"type": "update", "tenant": "t", "user": {"id": 7}, ' + rest + b"}"
        assert FAST.read(value, None, None) == good


def test_rules_with_a_field_inside_another_are_read_exactly() -> None:
    """One type's key is the object in which another type's key lies: no single decoder reads both."""
    rules = KeyRules(
        8,
        (parse_field("json:type"),),
        (RequestType("a", (parse_field("json:user"),)), RequestType("b", (parse_field("json:user.id"),))),
    )
    reader = KeyReader(rules)
    assert reader.read(b'{"type": "a", "user": "u"}', None, None)[1] == hash_key(b"a\0u")
    assert reader.read(b'{"type": "b", "user": {"id": 5}}', None, None)[1] == hash_key(b"b\x005")
