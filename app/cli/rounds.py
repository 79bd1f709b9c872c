"""`foreshard rounds`: every decision with its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app import operators
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from schemas.errors import InvalidRecordError
from schemas.records import Decision, Prediction, Reactive


@click.group()
def rounds() -> None:
    """Show the balancer's rounds."""


def _outcome(decision: Decision) -> str:
    if decision.skip is not None:
        return f"skip: {decision.skip.value}"
    count = len(decision.moves)
    return f"{count} move{'s' * (count != 1)}" if count else "mapping written"


def _json(decision: Decision) -> dict[str, Any]:
    return {"id": decision.id} | decision.model_dump(mode="json", by_alias=True)


@rounds.command("list")
@click.option("-n", "newest", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--plans", is_flag=True, help="Only rounds that changed the mapping.")
@config_option
@json_option
def list_rounds(newest: int, plans: bool, config_path: Path | None, as_json: bool) -> None:
    """List the newest rounds."""
    config = read_config(config_path)
    found = operators.decisions(config, newest, lambda d: not plans or d.skip is None)
    if as_json:
        print_json([_json(decision) for decision in found])
        return
    none = "no plans yet" if plans else "no rounds yet; `foreshard balancer` runs them"
    rows = [(d.id, operators.shown_time(d.at), d.mode.value, _outcome(d), d.version, d.detail) for d in found]
    print_table(["round", "time", "mode", "outcome", "version>", "why"], rows, empty=none)


@rounds.command()
@click.argument("round_id")
@config_option
@json_option
def show(round_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show one round: clusters before and after, forecasts, moves and reasons."""
    config = read_config(config_path)
    found = operators.decisions(config, 1, lambda d: d.id == round_id)
    if not found:
        raise InvalidRecordError(f"there is no round {round_id}; see `foreshard rounds list`")
    decision = found[-1]
    if as_json:
        print_json(_json(decision))
        return
    click.echo(f"round {decision.id} at {operators.shown_time(decision.at)}: {_outcome(decision)}")
    if decision.detail:
        click.echo(decision.detail)
    show_details(decision)


def show_details(decision: Decision) -> None:
    """Prints what a round saw, moved and could not move."""
    if decision.clusters:
        rows = [
            (
                c.name + ("" if c.known else " (unknown)"),
                f"{c.load_cps:.1f}",
                f"{c.forecast_cps:.1f}",
                f"{c.capacity_cps:.1f}",
                f"{c.backlog:.0f}",
                f"{c.score_before:.2f}",
                f"{c.score_after:.2f}",
            )
            for c in decision.clusters
        ]
        columns = ["cluster", "load/s>", "forecast/s>", "capacity/s>", "backlog>", "score>", "after>"]
        print_table(columns, rows)
    if decision.series:
        series = [
            (s.name, f"{s.now_rps:.1f}", f"{s.forecast_rps:.1f}", "yes" if s.trusted else f"no: {s.why_not}")
            for s in decision.series
        ]
        print_table(["series", "now/s>", "at horizon/s>", "forecast used"], series)
    if decision.moves:
        moves = [
            (m.shard, m.source, m.target, sum(b - a for a, b in m.slots), f"{m.load_cps:.1f}", m.reason.value)
            for m in decision.moves
        ]
        print_table(["shard>", "from", "to", "slots>", "load/s>", "why"], moves)
    if decision.prediction is not None:
        _prediction(decision.prediction)
    for stuck in decision.stuck:
        click.echo(
            f"{stuck.cluster} is stuck: {stuck.reason.value}, short by {stuck.short_cps:.1f} cost units/s"
        )


def _prediction(seen: Prediction) -> None:
    click.echo(
        f"made ahead of load: {seen.ahead} of its moves; not judged yet: {seen.unjudged}; "
        f"overload avoided since the round before: {seen.avoided_overload_s:.0f} s"
    )
    if seen.judged:
        rows = [
            (
                item.plan,
                item.shard,
                item.source,
                item.target,
                f"{item.load_cps:.1f}",
                f"{item.lead_s:.0f} s later" if item.reactive is Reactive.LATER else item.reactive.value,
            )
            for item in seen.judged
        ]
        print_table(["plan", "shard>", "from", "to", "load/s>", "on measured load alone"], rows)
