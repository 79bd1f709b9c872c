"""Reading the series of a request: the fast and the exact way, and what routers report of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.errors import BadRequestError
from streams.core.keys import KeyReader, KeyRules, RequestType, parse_field
from streams.core.routing import Routed, Sent, Taken
from streams.core.tally import Tally
from streams.core.value_series import MOST_CHARACTERS, VALUES_REPORTED, value_text
from tests.core.test_routing import NUMBERS

BY_JSON = RequestType("update", (parse_field("json:user.id"),), forecast_by=parse_field("json:user.tenant"))
BY_KEY_FIELD = RequestType("keyed", (parse_field("json:tenant"),), forecast_by=parse_field("json:tenant"))
BY_HEADER = RequestType("head", (parse_field("json:tenant"),), forecast_by=parse_field("header:region"))
BY_KEY = RequestType("record", (parse_field("header:region"),), forecast_by=parse_field("key"))
UNPARSED = RequestType(
    "unparsed", (parse_field("key"),), order="none", forecast_by=parse_field("json:tenant")
)
PLAIN = RequestType("plain", (parse_field("json:user.id"),))
ANY = RequestType("*", (parse_field("json:tenant"),), forecast_by=parse_field("json:user.tenant"))
RULES = KeyRules(
    16,
    (parse_field("header:type"), parse_field("json:type")),
    (BY_JSON, BY_KEY_FIELD, BY_HEADER, BY_KEY, UNPARSED, PLAIN, ANY),
)
WITHOUT = replace(RULES, types=tuple(replace(rule, forecast_by=None) for rule in RULES.types))


def named(reader: KeyReader, read: Any, *request: Any) -> Any:
    """The series' name, hash and type that a reader says, or the code of its refusal."""
    try:
        series, digest, type_name = read(*request)
    except BadRequestError as error:
        return error.bad
    return reader.series[series], digest, type_name


def series_of(value: object, rule: RequestType = BY_JSON) -> str:
    """The name of the series of an update whose tenant is this."""
    reader = KeyReader(replace(RULES, types=(rule,)))
    data = json.dumps({"type": "update", "user": {"id": 1, "tenant": value}}).encode()
    return str(named(reader, reader.read, data, None, None)[0])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("acme", "update/acme"),
        ("a/b c", "update/a/b c"),
        ("äöü", "update/äöü"),
        (7, "update/7"),
        ("7", "update/7"),
        (-(2**63), f"update/{-(2**63)}"),
        (True, "update/true"),
        (1, "update/1"),
        ("x" * MOST_CHARACTERS, "update/" + "x" * MOST_CHARACTERS),
        ("x" * (MOST_CHARACTERS + 1), "update"),
        ("", "update"),
        ("a\nb", "update"),
        ("\x1b[31m", "update"),
        (None, "update"),
        (1.5, "update"),
        (2**64, "update"),
        (["acme"], "update"),
        ({"a": 1}, "update"),
    ],
)
def test_the_series_of_a_value(value: object, name: str) -> None:
    """Texts, integers and booleans as in key fields; whatever else counts as the type's, and is routed."""
    assert series_of(value) == name


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.sampled_from([rule.name for rule in RULES.types] + ["other", "acme", "x" * 65, "\0"])
)
members = st.sampled_from(["type", "tenant", "user", "id", "else"])
documents = st.dictionaries(
    members, leaves | st.dictionaries(members, leaves, max_size=3) | st.lists(leaves, max_size=2), max_size=5
)
raw = st.none() | st.sampled_from(
    [b"eu", b"\xff", b"", b"x" * 65, b"update", b"keyed", b"unparsed", b"record"]
)
FAST, EXACT, WITHOUT_IT = KeyReader(RULES), KeyReader(RULES), KeyReader(WITHOUT)


@settings(max_examples=600)
@given(documents, st.booleans(), raw, raw, raw, st.just(0) | st.integers(1, 200), st.binary(max_size=1))
@example({"type": "plain", "user": {"id": 1}}, False, None, None, None, 0, b"")
def test_fast_and_exact_say_the_same_and_no_value_costs_a_request(
    document: dict[str, Any],
    escaped: bool,
    kind: bytes | None,
    region: bytes | None,
    key: bytes | None,
    where: int,
    put: bytes,
) -> None:
    """Any object, damaged or not: the series is one of the type's, key and refusal as without forecast_by."""
    value = json.dumps(document, ensure_ascii=escaped).encode()
    if where:
        value = value[: where % len(value)] + put + value[where % len(value) + 1 :]
    headers = [("type", kind)] if kind is not None else []
    headers += [("region", region)] if region is not None else []
    request = value, key, headers or None
    fast, plain = named(FAST, FAST.read, *request), named(WITHOUT_IT, WITHOUT_IT.read, *request)
    if not where:
        assert fast == named(EXACT, EXACT._slow, *request)
    assert isinstance(fast, tuple) == isinstance(plain, tuple)
    if isinstance(fast, tuple):
        assert fast[1:] == plain[1:]
        assert fast[0] == plain[0] or value_text(fast[0].removeprefix(plain[0] + "/")) is not None
    else:
        assert fast is plain


def test_the_value_is_read_from_json_header_and_record_key() -> None:
    """Also where nothing else of the request is in its value."""
    requests = {
        "keyed/acme": (b'{"type": "keyed", "tenant": "acme"}', None, None),
        "head/eu": (b'{"tenant": 3}', None, [("type", b"head"), ("region", b"eu")]),
        "head": (b'{"type": "head", "tenant": 3}', None, None),
        "record/k": (None, b"k", [("type", b"record"), ("region", b"eu")]),
        "unparsed/acme": (b'{"tenant": "acme"}', b"k", [("type", b"unparsed")]),
        "unparsed": (b"no JSON", b"k", [("type", b"unparsed")]),
        "*/eu": (b'{"type": "new", "tenant": 1, "user": {"tenant": "eu"}}', None, None),
    }
    reader = KeyReader(RULES)
    assert {name: named(reader, reader.read, *request)[0] for name, request in requests.items()} == {
        name: name for name in requests
    }


def test_bytes_that_are_no_utf_8_in_the_value_count_as_the_types() -> None:
    """The field is no key field: what is wrong in it is wrong in nothing that the request needs."""
    value = b'{"type": "update", "user": {"id": 1, "tenant": "\xff"}}'
    assert named(FAST, FAST.read, value, None, None)[0] == "update"


def test_values_have_indexes_while_they_are_few() -> None:
    """The first 128 of a type; later ones are the type's. Whether order is needed is known of all."""
    rules = replace(RULES, types=(replace(BY_JSON, order="none"), PLAIN))
    reader = KeyReader(rules)
    for number in range(VALUES_REPORTED + 20):
        data = json.dumps({"type": "update", "user": {"id": 1, "tenant": f"t{number}"}}).encode()
        series, _, _ = reader.read(data, None, None)
        assert series == (number + 2 if number < VALUES_REPORTED else 0)
    assert len(reader.series) == 2 + VALUES_REPORTED
    assert reader.free.tolist() == [True, False, *VALUES_REPORTED * [True]]


# ---------------------------------------------------------------------------- what is reported

SHARDS = 4


def routed_of(series: list[int]) -> Routed:
    """A batch of requests of these series in partition 0, each in the slot of its series."""
    n = len(series)
    ints = np.zeros(n, dtype=np.int64)
    index = np.array(series, dtype=np.int64)
    taken = Taken(ints, index, index % SHARDS * 256, ints.astype(np.uint64), ints, ints)
    sent = Sent(ints[:0], ints[:0], ints[:0], ints[:0], np.zeros(0, dtype=np.bool_))
    return Routed(n, [], [], {0: n}, {}, [], taken, sent, 0)


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=6))
def test_reports_name_the_series_of_their_counts(batches: list[list[int]]) -> None:
    """While names come: reports and histories count every request under its own, each once."""
    names = ["update", "plain"]
    tally = Tally("r", names, SHARDS, 30.0)
    tally.begin(0, 0)
    told: dict[str, int] = {}
    stored: dict[str, int] = {}
    for number, batch in enumerate(batches):
        while len(names) <= max(batch, default=0):
            names.append(f"update/{len(names)}")
        tally.add(routed_of(batch), {0: number}, NUMBERS, np.full(len(batch), 1_000.0))
        report = tally.report((number * 5.0, number * 5.0 + 5.0), (1, 1), lambda _p, _o: 0)
        for part in report.partitions:
            for index, count in zip(part.forwarded.series, part.forwarded.count, strict=True):
                told[report.series[index]] = told.get(report.series[index], 0) + count
    for record in tally.history(33):
        for index, shard, count in zip(
            record.arrivals.series, record.arrivals.shard, record.arrivals.count, strict=True
        ):
            assert shard == index % SHARDS
            stored[record.series[index]] = stored.get(record.series[index], 0) + count
    wanted: dict[str, int] = {}
    for index in [index for batch in batches for index in batch]:
        wanted[names[index]] = wanted.get(names[index], 0) + 1
    assert told == stored == wanted


def test_a_report_is_not_changed_by_names_that_come_later() -> None:
    """It was built of the names of its time."""
    names = ["update"]
    tally = Tally("r", names, SHARDS, 30.0)
    report = tally.report((0.0, 5.0), (1, 1), lambda _p, _o: 0)
    names.append("update/acme")
    assert report.series == ["update"]
