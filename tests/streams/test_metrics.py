"""What a decision leaves in the balancer's metrics."""

from __future__ import annotations

from prometheus_client import REGISTRY

from schemas.records import CostsView, Decision, JudgedMove, Mode, Prediction, Reactive, SeriesView, Skip
from streams import metrics


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_verdicts_on_moves_made_ahead_are_counted() -> None:
    """By verdict; the lead of those that would have come later, and the overload avoided."""
    names = [
        ("foreshard_balancer_judged_moves_total", {"reactive": reactive.value}) for reactive in Reactive
    ] + [
        ("foreshard_balancer_lead_seconds_sum", {}),
        ("foreshard_balancer_lead_seconds_count", {}),
        ("foreshard_balancer_avoided_overload_seconds_total", {}),
    ]
    before = [value(name, **labels) for name, labels in names]

    def judged(reactive: Reactive, lead_s: float = 0.0) -> JudgedMove:
        return JudgedMove(
            plan="1.1", shard=0, source="a", target="b", load_cps=1.0, reactive=reactive, lead_s=lead_s
        )

    seen = Prediction(
        judged=[judged(Reactive.LATER, 110.0), judged(Reactive.LATER, 20.0), judged(Reactive.NEVER)],
        avoided_overload_s=30.0,
    )
    decision = Decision(
        epoch=1, round=2, at=0.0, mode=Mode.AUTO, version=1, skip=Skip.BALANCED, prediction=seen
    )
    metrics.observe_decision(decision)
    after = [value(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 2, 1, 130, 2, 30]


def test_values_of_a_field_are_no_labels() -> None:
    """Of a type with forecast_by only the type's own series is shown: values belong to others."""
    own = SeriesView(name="update", now_rps=1.0, forecast_rps=1.0, relative_mae=0.5, trusted=True)
    acme = own.model_copy(update={"name": "update/acme", "of_type": "update"})
    decision = Decision(epoch=1, round=3, at=0.0, mode=Mode.AUTO, version=1, series=[own, acme])
    metrics.observe_decision(decision)
    assert value("foreshard_series_relative_mae_ratio", series="update") == 0.5
    assert REGISTRY.get_sample_value("foreshard_series_relative_mae_ratio", {"series": "update/acme"}) is None


def test_it_is_shown_whether_costs_are_learned_and_how_far_off_they_are() -> None:
    """A decision that did not measure, or had no sample yet, leaves what was known."""
    for costs in (CostsView(learned=True, cpu_error=0.04), None, CostsView(learned=False)):
        metrics.observe_decision(Decision(epoch=1, round=4, at=0.0, mode=Mode.AUTO, version=1, costs=costs))
        assert value("foreshard_balancer_cpu_error_ratio") == 0.04
    assert value("foreshard_balancer_costs_learned") == 0.0
