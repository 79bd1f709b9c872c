"""The demo from beginning to end: broker, traffic, passes, report."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka.admin import AdminClient
from rich.console import Console

from app.demo import backends
from app.demo.chart import Shown, sentences, show
from app.demo.generator import generate
from app.demo.one_pass import OnePass
from app.demo.report import WINDOW_S, count, load_over_capacity
from app.demo.request_log import read_log, replay
from app.demo.settings import DWELL_S
from app.demo.traffic import CAMPAIGN_SHARE, STEP_S, Traffic
from app.interruption import INTERRUPTED, interruptible
from app.local_kafka import LocalKafka, local_kafka
from schemas.errors import ConfigError
from schemas.records import Mode

BROKEN_PROMISE = 1
"""Exit status when a request was lost, processed twice, or after a later one of its key."""


def run_demo(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    seconds: int,
    json_path: Path | None,
    trace: Path | None,
    columns: str | None,
    window_from: str | None,
    keep: bool,
    time_scale: float,
    seed: int,
    passes: Sequence[str] = ("auto", "observe"),
    announced: bool = True,
    policy: str = "predictive",
    campaign_share: float = CAMPAIGN_SHARE,
) -> int:
    """Runs the passes and reports them; returns the exit status."""
    console = Console(highlight=False)
    with interruptible(), contextlib.ExitStack() as stack:
        try:
            traffic = _traffic(seconds, time_scale, seed, trace, columns, window_from, campaign_share)
            capacity = backends.capacities(traffic.mean_cps)
            facts = _facts(traffic, capacity, seconds, time_scale, trace)
            facts["policy"], facts["campaign"]["announced"] = policy, announced
            console.print(sentences(facts)[0], markup=False)
            folder = Path(tempfile.mkdtemp(prefix="foreshard-demo-"))
            kafka = stack.enter_context(
                local_kafka(data_dir=folder / "kafka" if keep else None, keep=keep, quiet=False)
            )
            if not keep:
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            shown, result = [], dict(facts)
            for mode in passes:
                one = _pass(kafka, traffic, capacity, time_scale, Mode(mode), folder, console)
                one.announced, one.policy = announced, policy
                if kafka.kind == "external" and not keep:
                    stack.callback(_delete_topics, kafka, one.names.prefix)
                shown.append(_run(one, traffic))
            result |= {"passes": {item.mode: asdict(item.figures) for item in shown}}
            result |= {"load_over_capacity": {item.mode: item.load.round(3).tolist() for item in shown}}
            show(console, facts, list(capacity), shown)
            if json_path is not None:
                json_path.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
            if keep:
                _stay(console, kafka, folder)
        except KeyboardInterrupt:
            console.print("interrupted: everything that was started is being stopped")
            return INTERRUPTED
    broken = any(item.figures.lost or item.figures.repeated or item.figures.out_of_order for item in shown)
    return BROKEN_PROMISE if broken else 0


def _traffic(
    seconds: int,
    time_scale: float,
    seed: int,
    trace: Path | None,
    columns: str | None,
    window_from: str | None,
    campaign_share: float,
) -> Traffic:
    if trace is None:
        if columns or window_from:
            raise ConfigError(["--columns and --from belong to a request log: give --trace FILE"])
        return generate(seconds=seconds, time_scale=time_scale, seed=seed, campaign_share=campaign_share)
    log = read_log(trace, columns)
    return replay(
        log,
        seconds=seconds,
        time_scale=time_scale,
        seed=seed,
        window_from=window_from,
        campaign_share=campaign_share,
    )


def _facts(
    traffic: Traffic, capacity: dict[str, float], seconds: int, time_scale: float, trace: Path | None
) -> dict[str, Any]:
    """Returns what was run, as it is printed and as it stands in the JSON."""
    campaign = traffic.campaign
    return {
        "source": trace.name if trace else "seeded generator",
        "seconds": seconds,
        "time_scale": time_scale,
        "window_s": traffic.length_s,
        "requests": len(traffic),
        **traffic.notes,
        "history_steps": len(traffic.history),
        "history_days": round(len(traffic.history) * STEP_S / 86400, 2),
        "history_requests": int(traffic.history.sum()),
        "dwell_s": DWELL_S,
        "planned_utilisation": backends.UTILISATION,
        "capacity_per_wall_s": {name: round(value * time_scale, 1) for name, value in capacity.items()},
        "campaign": {
            "keys": len(campaign.keys),
            "from_s": campaign.start / time_scale,
            "to_s": campaign.end / time_scale,
            "requests_per_wall_s": round(campaign.requests_per_s * time_scale, 1),
        },
    }


def _pass(
    kafka: LocalKafka,
    traffic: Traffic,
    capacity: dict[str, float],
    time_scale: float,
    mode: Mode,
    folder: Path,
    console: Console,
) -> OnePass:
    began = time.monotonic()

    def say(text: str) -> None:
        stamp = f"[{mode.value:>7} {time.monotonic() - began:4.0f} s]"
        console.print(stamp, text, markup=False, soft_wrap=True)

    settings = {"bootstrap.servers": kafka.bootstrap}
    return OnePass(settings, traffic, capacity, time_scale, mode, folder / mode.value, say)


def _run(one: OnePass, traffic: Traffic) -> Shown:
    outcome = one.run()
    figures = count(traffic, outcome)
    load = load_over_capacity(outcome.rows, outcome.capacity, outcome.begin, outcome.seconds, WINDOW_S)
    return Shown(one.mode.value, figures, load)


def _stay(console: Console, kafka: LocalKafka, folder: Path) -> None:
    """Keeps a broker of our own running until Ctrl-C: it would not outlive this process."""
    console.print(f"\nkept: broker {kafka.bootstrap}, its topics, and the files in {folder}")
    if kafka.kind == "external":
        return
    console.print("the broker runs until Ctrl-C; its data and the files stay")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _delete_topics(kafka: LocalKafka, prefix: str) -> None:
    """Somebody else's broker keeps nothing of ours."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    ours = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    if ours:
        for future in admin.delete_topics(ours).values():
            with contextlib.suppress(Exception):
                future.result(10)
