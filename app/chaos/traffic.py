"""The requests of a run: who asks for what in which order, made from the seed alone.

A request's identity is `<id>.<seq>` in its header `id`. The id says what is promised for it: below
KEYS one of the ordered types, then the type without an order, then those that must end as dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

KEYS = 2000
"""Users; with ZIPF the busiest sends a sixth of everything, the last ones next to nothing."""
ZIPF = 1.1
ERAS = 6
"""Times during a run that other users are the busy ones: idle slots become hot, hot ones idle."""
ERA_STEP = 311
"""Ranks by which they shift."""
PRODUCERS = 2
VALUE_BYTES = 200

KINDS = ("update", "read", "visit", "log", "bad")
SHARES = (0.45, 0.25, 0.15, 0.148, 0.002)
LOG, BAD = KINDS.index("log"), KINDS.index("bad")
FIRST_LOG = KEYS
"""Ids from here on are of `log`, whose order is "none": same users, same slots, a sequence of their own."""
FIRST_BAD = 2 * KEYS
"""Ids from here on are no good requests: one per producer."""

IDENTITY = "id"
"""Name of the header with a request's identity."""

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Traffic:
    """All requests in the order in which they are due."""

    kind: npt.NDArray[np.uint8]
    user: npt.NDArray[np.uint32]
    """For bad ones the producer."""
    id: npt.NDArray[np.uint32]
    seq: npt.NDArray[np.uint32]
    """Number of the request among those of its id, from 0."""

    def __len__(self) -> int:
        return len(self.id)

    def of_producer(self, producer: int) -> npt.NDArray[np.intp]:
        """Returns the indices that one producer sends: all of a user go through the same."""
        return np.flatnonzero(self.user % PRODUCERS == producer)


def make_traffic(requests: int, seed: int) -> Traffic:
    """Returns the requests of a run."""
    chance = np.random.default_rng([seed, 1])
    weights = 1.0 / np.arange(1, KEYS + 1) ** ZIPF
    rank = chance.choice(KEYS, size=requests, p=weights / weights.sum())
    era = np.arange(requests) * ERAS // requests
    user = chance.permutation(KEYS)[(rank + era * ERA_STEP) % KEYS].astype(np.uint32)
    kind = chance.choice(len(KINDS), size=requests, p=SHARES).astype(np.uint8)
    bad = kind == BAD
    user[bad] = user[bad] % PRODUCERS
    ids = user.copy()
    ids[kind == LOG] += FIRST_LOG
    ids[bad] += FIRST_BAD
    return Traffic(kind, user, ids, sequence(ids))


def sequence(ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Returns for each element how many equal ones stand before it: [7, 3, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    lengths = np.diff(np.concatenate((starts, [len(ids)])))
    seq = np.empty(len(ids), dtype=np.uint32)
    seq[order] = np.arange(len(ids)) - np.repeat(starts, lengths)
    return seq


def coded(ids: npt.ArrayLike, seq: npt.ArrayLike) -> Ids:
    """Returns one number for each (id, seq)."""
    return (np.asarray(ids, dtype=np.uint64) << np.uint64(32)) | np.asarray(seq, dtype=np.uint64)


def identity(headers: Any) -> tuple[int, int]:
    """Returns (id, seq) of a record with these headers; raises ValueError where it is none of ours."""
    for name, value in headers or ():
        if name == IDENTITY:
            number, _, seq = value.partition(b".")
            return int(number), int(seq)
    raise ValueError("a record without a header `id`: something else writes to the topics of the run")


# ---------------------------------------------------------------------------- as Kafka records

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""(key, value, headers)"""


def record(traffic: Traffic, index: int) -> Record:
    """Returns one request as a Kafka record; all records of a user have the same key."""
    kind, user = int(traffic.kind[index]), int(traffic.user[index])
    seq = int(traffic.seq[index])
    identity = b"%d.%d" % (int(traffic.id[index]), seq)
    headers = [(IDENTITY, identity)]
    if kind == BAD:
        return b"bad%d" % user, _bad(seq), headers
    name, tenant = KINDS[kind].encode(), b"t%d" % (user % 50)
    key = b"u%d" % user
    if name == b"visit":
        headers += [("type", name), ("tenant", tenant), ("user", key)]
        return key, b"\x00\xff no JSON: all that matters of a visit is in its headers", headers
    head = b'{"type":"%s","tenant":"%s","user":"%s","id":"%s","body":"' % (name, tenant, key, identity)
    return key, head + b"." * (VALUE_BYTES - len(head)) + b'"}', headers


def _bad(seq: int) -> bytes:
    """Returns the value of a request that cannot be routed; there are four ways to be one."""
    return (
        b"no JSON, and no header says its type",
        orjson.dumps({"type": "update", "tenant": "t1"}),
        orjson.dumps({"type": "nobody-knows", "tenant": "t1", "user": "u1"}),
        orjson.dumps({"type": "read", "tenant": "t1", "user": ["u1"]}),
    )[seq % 4]
