"""Heads: river's Bayesian linear regression, one per look ahead, learning without being upset by spikes."""

from __future__ import annotations

from typing import Any

from river.linear_model import BayesianLinearRegression

Sample = dict[int, float]

CLIP_ERRORS = 3.0
"""A head learns on errors up to 3 times its usual one: an outlier pulls, but not with its whole weight."""
ERROR_RATE = 0.01
"""The usual error remembers 100 steps; the first 100 all weigh the same."""
MOST_RISE = 5.0
"""One error counts at most 5 times in the usual error."""
LEAST_ERROR = 0.005
"""Half a percent (errors are logs): a series that was constant can still start to learn."""


class Head:
    """Predicts the log value `steps` ahead, as a difference to the level; untaught it predicts 0."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._model: Any = BayesianLinearRegression(alpha=1, beta=1)
        self._usual = 0.0
        self._seen = 0

    def predict(self, sample: Sample) -> float:
        """Returns the predicted difference to the level."""
        return float(self._model.predict_one(sample))

    def learn(self, sample: Sample, predicted: float, observed: float) -> None:
        """Learns from the difference observed, given what was predicted from the sample at the time."""
        error = observed - predicted
        self._seen += 1
        size = min(abs(error), MOST_RISE * self._usual) if self._seen > 1 else abs(error)
        self._usual += max(ERROR_RATE, 1.0 / self._seen) * (size - self._usual)
        self._usual = max(self._usual, LEAST_ERROR)
        most = CLIP_ERRORS * self._usual
        self._model.learn_one(sample, predicted + min(max(error, -most), most))
