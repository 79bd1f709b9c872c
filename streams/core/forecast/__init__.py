"""Forecasts of request series, and what requests cost; the only place that uses river."""

from streams.core.forecast.costs import Costs
from streams.core.forecast.evaluate import Evaluation, evaluate
from streams.core.forecast.forecaster import Forecaster
from streams.core.forecast.skill import Skill

__all__ = ["Costs", "Evaluation", "Forecaster", "Skill", "evaluate"]
