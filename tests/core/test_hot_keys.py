"""The busiest keys of a window: none that matters is missed, none is invented."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.core.hot_keys import HotKeys

streams = st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=12)


@given(streams, st.integers(1, 12))
def test_counts_are_never_too_low_and_too_high_by_the_error_at_most(batches: list[list[int]], k: int) -> None:
    """Where every request is looked at: the bounds of the algorithm, for any stream."""
    sketch, true = HotKeys(counters=k, sample=10**9), Counter[int]()
    for batch in batches:
        sketch.add(np.array(batch, dtype=np.uint64))
        true.update(batch)
    for one in sketch.take(k):
        assert one.requests - one.error <= true[one.hash] <= one.requests


@given(st.integers(0, 2**63), st.integers(2, 400))
def test_a_hot_key_is_found_in_a_sample_of_large_batches(seed: int, others: int) -> None:
    """A key with a fifth of the requests is the first of the report, its count within a third."""
    chance = np.random.default_rng(seed)
    sketch = HotKeys()
    for _ in range(40):
        batch = chance.integers(1, 10_000 * others, 2_000).astype(np.uint64)
        batch[chance.random(2_000) < 0.2] = 0
        sketch.add(batch)
    first = sketch.take(3)[0]
    assert first.hash == 0
    assert 0.66 <= first.requests / (40 * 2_000 * 0.2) <= 1.33


def test_a_window_starts_from_nothing() -> None:
    """What was taken is not told again."""
    sketch = HotKeys()
    sketch.add(np.array([7, 7, 7], dtype=np.uint64))
    assert [(one.hash, one.requests) for one in sketch.take(5)] == [(7, 3)]
    assert sketch.take(5) == []
