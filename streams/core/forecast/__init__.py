"""Forecasts of request series; the only place that uses river."""

from streams.core.forecast.evaluate import Evaluation, evaluate
from streams.core.forecast.series import SeriesForecaster
from streams.core.forecast.skill import Errors, Skill

__all__ = ["Errors", "Evaluation", "SeriesForecaster", "Skill", "evaluate"]
