"""`foreshard mapping`: which cluster owns what."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from app import operators
from app.cli.common import config_option, json_option, print_json, print_table, read_config
from app.cli.control import say, wait_option
from app.cli.keys import place, type_option, values_argument
from schemas.records import SLOTS, AcceptRules, MappingRecord


@click.group()
def mapping() -> None:
    """Show the mapping, or let it go on under other key rules."""


@mapping.command()
@config_option
@json_option
def show(config_path: Path | None, as_json: bool) -> None:
    """Show clusters with their part of the mapping, and the shards that are away from home."""
    snapshot = operators.snapshot(read_config(config_path))
    away = [r for r in snapshot.records if any(owner != r.home for _start, _stop, owner in r.segments)]
    if as_json:
        print_json(
            {
                "version": snapshot.version,
                "epoch": snapshot.epoch,
                "shards": snapshot.shards,
                "rules_hash": snapshot.rules_hash,
                "clusters": {n: c.model_dump(mode="json") for n, c in snapshot.clusters.items()},
                "records": [record.model_dump(mode="json", by_alias=True) for record in snapshot.records],
            }
        )
        return
    slots = np.bincount(snapshot.owners, minlength=len(snapshot.names))
    homes = [record.home for record in snapshot.records]
    rows = [
        (
            name,
            snapshot.clusters[name].state.value,
            homes.count(name),
            f"{100 * slots[i] / slots.sum():.1f} %",
        )
        for i, name in enumerate(snapshot.names)
    ]
    title = (
        f"mapping {snapshot.epoch}.{snapshot.version}: {snapshot.shards} shards, {len(away)} with slots away"
    )
    print_table(["cluster", "state", "home of>", "slots>"], rows, title=title)
    if away:
        print_table(["shard>", "home", "segments", "since plan", "why"], [_away(record) for record in away])


def _away(record: MappingRecord) -> tuple[object, ...]:
    segments = " ".join(f"[{start},{stop}) {owner}" for start, stop, owner in record.segments)
    return record.shard, record.home, segments, record.plan, record.reason


@mapping.command()
@values_argument
@type_option
@config_option
@json_option
def owner(values: tuple[str, ...], type_name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show the cluster that gets the requests of a key; VALUES are its key fields."""
    config = read_config(config_path)
    name, shard, global_slot = place(config, type_name, values)
    snapshot = operators.snapshot(config)
    cluster = snapshot.owner(global_slot)
    mapped = snapshot.clusters[cluster]
    found = {
        "type": name,
        "shard": shard,
        "slot": global_slot % SLOTS,
        "cluster": cluster,
        "home": snapshot.records[shard].home,
        "topic": mapped.topic,
        "partition": global_slot % mapped.partitions,
        "version": snapshot.version,
        "epoch": snapshot.epoch,
        "reason": snapshot.records[shard].reason,
    }
    if as_json:
        print_json(found)
        return
    where = f"{cluster} (home)" if cluster == found["home"] else f"{cluster} (home {found['home']})"
    click.echo(
        f"{where}: {mapped.topic}[{found['partition']}], shard {shard}, slot {global_slot % SLOTS}, "
        f"mapping {snapshot.epoch}.{snapshot.version} ({found['reason']})"
    )


@mapping.command("accept-rules")
@config_option
@wait_option
def accept_rules(config_path: Path | None, wait: bool) -> None:
    """Put the key rules of this configuration into the mapping, while no router runs.

    Stop all routers, type this with the NEW configuration while a balancer of the old one leads, then
    start balancers and routers with the new one. Keys whose rule changed may go elsewhere from then on.
    """
    config = read_config(config_path)
    command = AcceptRules(
        id=operators.new_id("accept-rules"),
        at=config.clock.now(),
        by=operators.who(),
        rules_hash=config.rules.rules_hash(),
        shards=config.rules.shards,
    )
    say(config, command, wait=wait)
