"""The router's work on one request, for the peers in Python: the same steps as in streams/core, plainly.

Parse the value with orjson, read the type and its key fields, join keyspace and fields with NUL, hash
(MurmurHash3 x64 128, first half), shard table, slot, owner, three headers.
"""

from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path
from typing import Any

import mmh3
import orjson

Placed = tuple[int, int, list[tuple[str, bytes]]]
"""(cluster's number, partition, headers to add)"""


class Routing:
    """What the bench gives to every peer, and the way from a request's value to its place."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.topics: list[str] = given["topics"]
        self._type_field = given["type_field"]
        self._types = {
            name: (
                name.encode(),
                rule["keyspace"].encode(),
                [path.split(".") for path in rule["key"]],
            )
            for name, rule in given["types"].items()
        }
        self._shards = _shorts(given["shard_table"])
        self._owners = _shorts(given["owners"])
        self._partitions = given["partitions"]
        self._mapping = ("foreshard-mapping", given["mapping"].encode())
        self._headers: dict[tuple[bytes, int], list[tuple[str, bytes]]] = {}

    def place(self, value: bytes) -> Placed:
        """Returns where a request goes and the headers that it gets."""
        parsed = orjson.loads(value)
        name, data, paths = self._types[parsed[self._type_field]]
        for path in paths:
            found = parsed
            for part in path:
                found = found[part]
            data += b"\0" + (found.encode() if type(found) is str else scalar(found))
        hashed = mmh3.mmh3_x64_128_utupledigest(data)[0]
        shard = self._shards[hashed >> 44]
        slot = shard * 256 + (hashed & 255)
        headers = self._headers.get((name, shard))
        if headers is None:
            headers = [("foreshard-shard", b"%d" % shard), ("foreshard-type", name), self._mapping]
            self._headers[name, shard] = headers
        return self._owners[slot], slot % self._partitions, headers


def scalar(value: object) -> bytes:
    """Returns the bytes in a key of an integer or a boolean."""
    if type(value) is bool:
        return b"true" if value else b"false"
    if type(value) is int:
        return b"%d" % value
    raise ValueError(f"a key field is neither text, integer nor boolean: {value!r}")


def _shorts(path: str) -> list[int]:
    numbers = array("H", Path(path).read_bytes())
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def routing() -> Routing:
    """Returns the routing of the file that the command line names."""
    return Routing(json.loads(Path(sys.argv[1]).read_text()))
