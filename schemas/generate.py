"""JSON Schema of every topic's records, generated from `schemas/records/`.

`python -m schemas.generate` rewrites the files in `schemas/json`. What JSON Schema cannot say
(segments tile 0..256, an event ends after it starts) is said by the models alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas import topics
from schemas.records import (
    Answer,
    BalancerState,
    Cluster,
    ClusterMetrics,
    Command,
    Decision,
    Event,
    LearnedState,
    LoadHistory,
    LoadReport,
    MappingMeta,
    MappingRecord,
)

FOLDER = Path(__file__).parent / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

RECORDS: Mapping[topics.TopicSpec, Any] = {
    topics.LOAD: LoadReport | LoadHistory,
    topics.METRICS: ClusterMetrics,
    topics.EVENTS: Event,
    topics.COMMANDS: Command,
    topics.CLUSTERS: Cluster,
    topics.MAPPING: MappingRecord | MappingMeta,
    topics.DECISIONS: Decision | Answer,
    topics.STATE: BalancerState | LearnedState,
}
"""What each topic's values are. Dead letters are requests as they came: not JSON of ours."""


def json_schema(topic: topics.TopicSpec) -> dict[str, Any]:
    """Returns the JSON Schema of the values of a topic."""
    adapter: TypeAdapter[Any] = TypeAdapter(RECORDS[topic])
    schema = adapter.json_schema(by_alias=True, mode="validation")
    for part in (schema, *schema.get("$defs", {}).values()):
        if "const" in part.get("properties", {}).get("kind", {}):
            part["required"] = ["kind", *part.get("required", [])]  # it tells a topic's records apart
    head = {
        "$schema": DIALECT,
        "title": f"foreshard {topic.name}",
        "$comment": f"Topic {topic.name}: {topic.what}. Record key: {topic.key}.",
    }
    return head | {name: value for name, value in schema.items() if name != "title"}


def texts() -> dict[str, str]:
    """Returns file name -> text of all generated files."""
    return {f"{topic.name}.json": json.dumps(json_schema(topic), indent=2) + "\n" for topic in RECORDS}


def write(folder: Path = FOLDER) -> None:
    """Writes all files and removes those that are no longer generated."""
    folder.mkdir(exist_ok=True)
    current = texts()
    for old in folder.glob("*.json"):
        if old.name not in current:
            old.unlink()
    for name, text in current.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
