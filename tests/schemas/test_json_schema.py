"""The generated JSON Schema: current, valid, and of one mind with the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from schemas import generate
from schemas.topics import DEAD_LETTER, OWN_TOPICS
from tests.schemas.samples import SAMPLES

TOPICS = {topic.name: topic for topic in generate.RECORDS}
GOOD = [(topic, record) for topic, records in SAMPLES.items() for record in records]
BAD: list[tuple[str, int, dict[str, Any]]] = [
    ("load", 0, {"surprise": 1}),
    ("load", 0, {"schema": 2}),
    ("load", 1, {"step_s": 0.0}),
    ("load", 1, {"router": "no spaces here"}),
    ("metrics", 1, {"capacity_cps": -1.0}),
    ("metrics", 1, {"memory": 1.01}),
    ("metrics", 1, {"cpu": "much"}),
    ("events", 0, {"uplift": 0.0}),
    ("events", 0, {"start": None}),
    ("commands", 0, {"kind": "cluster-remove"}),
    ("commands", 1, {"mode": "manual"}),
    ("commands", 4, {"state": "gone"}),
    ("commands", 6, {"shards": 0}),
    ("clusters", 0, {"partitions": 0}),
    ("mapping", 0, {"shard": 4096}),
    ("mapping", 0, {"segments": [[0, 256]]}),
    ("mapping", 1, {"shards": 0}),
    ("decisions", 0, {"mode": "x"}),
    ("state", 1, {"share": [1.5]}),
]


def validator(topic: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((generate.FOLDER / f"{topic}.json").read_text()))


def accepted(topic: str, record: dict[str, Any]) -> bool:
    """Returns whether the model takes the record."""
    try:
        TypeAdapter(generate.RECORDS[TOPICS[topic]]).validate_json(json.dumps(record))
    except ValidationError:
        return False
    return True


def test_files_are_what_the_models_say() -> None:
    """No drift: if this fails, run `python -m schemas.generate` and look at the difference."""
    assert {path.name: path.read_text() for path in generate.FOLDER.glob("*.json")} == generate.texts()


def test_every_topic_of_ours_has_a_schema() -> None:
    """All topics but the dead letters, which are requests as they came."""
    assert set(generate.RECORDS) == set(OWN_TOPICS) - {DEAD_LETTER}


def test_writing_removes_what_is_no_longer_generated(tmp_path: Path) -> None:
    """A folder that held an older set holds the current one afterwards."""
    (tmp_path / "old.json").write_text("{}")
    generate.write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.glob("*")} == generate.texts()


@pytest.mark.parametrize("topic", TOPICS)
def test_schema_is_valid_and_says_its_topic(topic: str) -> None:
    """Each file is JSON Schema 2020-12 and names its topic."""
    schema = json.loads((generate.FOLDER / f"{topic}.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"foreshard {topic}"


@pytest.mark.parametrize(("topic", "record"), GOOD)
def test_good_record_is_good_for_both(topic: str, record: dict[str, Any]) -> None:
    """Schema and model take the same good records, and the schema takes what the model writes."""
    validator(topic).validate(record)
    assert accepted(topic, record)
    read = TypeAdapter(generate.RECORDS[TOPICS[topic]]).validate_json(json.dumps(record))
    validator(topic).validate(json.loads(read.to_json()))


@pytest.mark.parametrize(("topic", "number", "changes"), BAD)
def test_bad_record_is_bad_for_both(topic: str, number: int, changes: dict[str, Any]) -> None:
    """Schema and model refuse the same bad records."""
    record = SAMPLES[topic][number] | changes
    assert not validator(topic).is_valid(record)
    assert not accepted(topic, record)


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if len(SAMPLES[topic]) > 1])
def test_kind_tells_records_of_a_topic_apart(topic: str) -> None:
    """Where a topic has several records, one without its kind is refused by the schema too."""
    for record in SAMPLES[topic]:
        if "kind" in record:
            assert not validator(topic).is_valid({k: v for k, v in record.items() if k != "kind"})
