"""Heads: river's Bayesian linear regression, one per look ahead, learning without being upset by spikes.

Each series has its own, and all share a pooled one, which carries a series through its first day.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from river.linear_model import BayesianLinearRegression

from streams.core.forecast.features import COUNT
from streams.core.forecast.profile import Floats, Ints

NAMES = tuple(range(COUNT))
"""Names of the features for river, whose samples are dicts."""
CLIP_ERRORS = 3.0
"""A head learns on errors up to 3 times its usual one: an outlier pulls, but not with its whole weight."""
ERROR_RATE = 0.01
"""The usual error remembers 100 steps; the first 100 all weigh the same."""
MOST_RISE = 5.0
"""One error counts at most 5 times in the usual error."""
LEAST_ERROR = 0.005
"""Half a percent (errors are logs): a series that was constant can still start to learn."""
POOLED_ROWS = 8
"""Series that teach the pooled head in one step, in turn: it needs variety, not each of 4,000."""


class Heads:
    """Predict log values ahead, as differences to the level; untaught ones predict 0."""

    def __init__(self, series: int, steps: tuple[int, ...]) -> None:
        self.steps = steps
        self._own: list[list[Any]] = [[_model() for _ in range(series)] for _ in steps]
        alone = series == 1  # then the pooled head learns what its own does
        self._pooled = [models[0] if alone else _model() for models in self._own]
        self.usual = np.zeros((len(steps), series + 1))
        """Usual error of each head; that of the pooled one is last."""
        self.seen = np.zeros((len(steps), series + 1), dtype=np.int64)
        self._weights = np.zeros((len(steps), series + 1, COUNT))
        """What the models have learned; that of the pooled one is last."""
        self._turn = 0

    def predict(self, rows: Ints, samples: Floats) -> tuple[Floats, Floats]:
        """Returns float64[heads, n] twice: by each series' own head, and by the pooled one."""
        own: Floats = (self._weights[:, rows] * samples).sum(axis=-1)
        pooled: Floats = (self._weights[:, -1:] * samples).sum(axis=-1)
        return own, pooled

    def learn(
        self, head: int, rows: Ints, samples: Floats, own: Floats, pooled: Floats, seen: Floats
    ) -> None:
        """Learns from the differences seen, given the samples, float64[n, 22], and what was predicted."""
        targets = own + self._clipped(head, rows, seen - own)
        models, weights = self._own[head], self._weights[head]
        named = [dict(zip(NAMES, row, strict=True)) for row in samples.tolist()]
        for number, x, y in zip(rows.tolist(), named, targets.tolist(), strict=True):
            models[number].learn_one(x, y)
            weights[number] = _mean(models[number])
        if len(models) == 1:  # one teaches both alike
            weights[-1] = weights[0]
            return
        together = self._pooled[head]
        for place in self._in_turn(len(rows)):
            error = self._clipped_pooled(head, float(seen[place] - pooled[place]))
            together.learn_one(named[place], float(pooled[place]) + error)
        weights[-1] = _mean(together)

    def _in_turn(self, count: int) -> list[int]:
        if count <= POOLED_ROWS:
            return list(range(count))
        self._turn = (self._turn + POOLED_ROWS) % count
        return [(self._turn + more) % count for more in range(POOLED_ROWS)]

    def _clipped(self, head: int, rows: Ints, errors: Floats) -> Floats:
        """Returns the errors held within what is usual for each row, and learns what is."""
        self.seen[head, rows] += 1
        count, usual = self.seen[head, rows], self.usual[head, rows]
        size = np.abs(errors)
        size = np.where(count > 1, np.minimum(size, MOST_RISE * usual), size)
        usual = np.maximum(usual + np.maximum(ERROR_RATE, 1.0 / count) * (size - usual), LEAST_ERROR)
        self.usual[head, rows] = usual
        most = CLIP_ERRORS * usual
        held: Floats = np.minimum(np.maximum(errors, -most), most)
        return held

    def _clipped_pooled(self, head: int, error: float) -> float:
        """Returns the pooled head's error, as `_clipped` does."""
        self.seen[head, -1] += 1
        count, usual = int(self.seen[head, -1]), float(self.usual[head, -1])
        size = min(abs(error), MOST_RISE * usual) if count > 1 else abs(error)
        usual = max(usual + max(ERROR_RATE, 1.0 / count) * (size - usual), LEAST_ERROR)
        self.usual[head, -1] = usual
        return min(max(error, -CLIP_ERRORS * usual), CLIP_ERRORS * usual)

    def _models(self) -> list[Any]:
        return [*(model for models in self._own for model in models), *self._pooled]

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the whole state; river's own pickles do not outlive its versions."""
        models = self._models()
        return {
            "heads.precision": np.stack([model._ss_arr for model in models]),
            "heads.covariance": np.stack([model._ss_inv_arr for model in models]),
            "heads.natural_mean": np.stack([model._eta_arr for model in models]),
            "heads.usual": self.usual,
            "heads.seen": self.seen,
            "heads.turn": np.array([self._turn]),
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Takes the state that `to_arrays` gave."""
        for number, model in enumerate(self._models()):
            model._ss_arr = arrays["heads.precision"][number].copy()
            model._ss_inv_arr = np.asfortranarray(arrays["heads.covariance"][number])
            model._eta_arr = arrays["heads.natural_mean"][number].copy()
        means = np.stack([_mean(model) for model in self._models()])
        own, series = len(self.steps) * len(self._own[0]), len(self._own[0])
        self._weights[:, :-1] = means[:own].reshape(len(self.steps), series, COUNT)
        self._weights[:, -1] = means[own:]
        self.usual = arrays["heads.usual"].copy()
        self.seen = arrays["heads.seen"].copy()
        self._turn = int(arrays["heads.turn"][0])


def _model() -> Any:
    model = BayesianLinearRegression(alpha=1, beta=1)
    model._ensure_features(NAMES)  # also of one that has learned nothing there is a state to save
    return model


def _mean(model: Any) -> Floats:
    """Returns float64[22], the posterior mean: predictions are made with it for all series at once."""
    found: Floats = model._ss_inv_arr @ model._eta_arr
    return found
