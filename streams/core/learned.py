"""What was learned of the load, as records: a successor goes on from them instead of learning anew.

Forecasts, shards' parts, costs and trust in events are one state, of one step: they were learned together,
and only together they fit. It is a line of JSON (series of each row, what types are forecast by, trust,
name, type and shape of every array), then the arrays' bytes one after the other; compressed, and cut into
parts of one record each.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from schemas.records import LearnedState
from streams.core.keys import SERIES_MARK
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
    data = zlib.compress(_packed(outlook, trust), FAST)
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
        data = b"".join(b64decode(parts[number].data, validate=True) for number in range(count))
        series, split, trust, arrays = _unpacked(zlib.decompress(data))
    except (zlib.error, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"what was learned up to step {newest} cannot be read: {error}") from None
    ours = outlook.series
    own = series[: len(ours.types)]
    if split != ours.split or len(series) != len(ours.names) or own != list(ours.types):
        made = tuple(name + SERIES_MARK for name in split)  # values are nothing for a log
        names = ", ".join(name for name in series if name and not name.startswith(made))
        names += "".join(f", {name} by {by}" for name, by in split.items())
        raise ValueError(f"what was learned up to step {newest} is of the series {names}")
    outlook.restore(arrays)
    ours.take(series)
    return Trust.from_json(trust)


def _packed(outlook: Outlook, trust: Trust) -> bytes:
    arrays = {name: np.ascontiguousarray(value) for name, value in outlook.to_arrays().items()}
    shapes = [(name, value.dtype.str, value.shape) for name, value in arrays.items()]
    head = orjson.dumps([outlook.series.names, outlook.series.split, trust.to_json(), shapes])
    return b"".join([head, b"\n", *(value.tobytes() for value in arrays.values())])


def _unpacked(
    data: bytes,
) -> tuple[list[str], dict[str, str], dict[str, Any], Mapping[str, np.ndarray[Any, Any]]]:
    head, _, rest = data.partition(b"\n")
    series, split, trust, shapes = orjson.loads(head)
    arrays, start = {}, 0
    for name, kind, shape in shapes:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(rest, np.dtype(kind), count, start).reshape(shape).copy()
        start += arrays[name].nbytes
    return series, split, trust, arrays
