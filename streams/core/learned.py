"""What was learned of the load, as records: a successor goes on from them instead of learning anew.

Forecasts, shards' parts and trust in events are one state, of one step: they were learned together, and
only together they fit. It is an archive of arrays (numpy's npz), compressed, cut into parts of one record.
"""

from __future__ import annotations

import io
import zlib
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import orjson

from schemas.records import LearnedState
from streams.core.outlook import Outlook
from streams.core.trust import Trust

PART_BYTES = 500_000
"""Of one record before base64: 670 KB after it, within the 1 MB that brokers take by default."""
SAVE_STEPS = 10
"""Saved every 5 min: a successor learns at most the 10 steps since then, within 50 ms with four series."""
FAST = 1
"""zlib's level: arrays of floats become little smaller with more."""


def save(outlook: Outlook, trust: Trust) -> list[LearnedState]:
    """Returns everything learned so far, in parts that belong together; none before the first step."""
    if outlook.newest_step is None:
        return []
    names = orjson.dumps([outlook.rules.series, trust.to_json()])
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, names=np.frombuffer(names, dtype=np.uint8), **outlook.to_arrays())
    data = zlib.compress(archive.getvalue(), FAST)
    starts = range(0, len(data), PART_BYTES)
    return [
        LearnedState(
            step=outlook.newest_step,
            part=number,
            parts=len(starts),
            data=b64encode(data[start : start + PART_BYTES]).decode(),
        )
        for number, start in enumerate(starts)
    ]


def restore(records: Sequence[LearnedState], outlook: Outlook) -> Trust:
    """Gives the newest whole state among the records to an untaught outlook; returns the trust in events.

    Raises ValueError with the reason where there is none, or it is that of other series or shards.
    """
    newest = max(record.step for record in records)
    parts = {record.part: record for record in records if record.step == newest}
    count = next(iter(parts.values())).parts
    if sorted(parts) != list(range(count)):
        raise ValueError(f"of the {count} parts of step {newest} only {sorted(parts)} are there")
    try:
        data = zlib.decompress(b"".join(b64decode(parts[number].data) for number in range(count)))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays: Mapping[str, np.ndarray[Any, Any]] = dict(archive)
        series, trust = orjson.loads(arrays["names"].tobytes())
    except (NotBase64, zlib.error, BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"what was learned up to step {newest} cannot be read: {error}") from None
    if series != list(outlook.rules.series):
        raise ValueError(f"what was learned up to step {newest} is of the series {', '.join(series)}")
    outlook.restore(arrays)
    return Trust.from_json(trust)
