"""Forecasts of request series; the only place that uses river."""

from streams.core.forecast.evaluate import Evaluation, evaluate
from streams.core.forecast.forecaster import Forecaster
from streams.core.forecast.skill import Skill

__all__ = ["Evaluation", "Forecaster", "Skill", "evaluate"]
