"""`foreshard bench chaos`: a broker of its own, one run on it, its report, and nothing left behind."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import KafkaException
from rich.console import Console

from app.chaos import broker_log
from app.chaos.commits import read_commits
from app.chaos.kafka import killable_kafka
from app.chaos.offenders import Offenders
from app.chaos.report import as_json, sentences
from app.chaos.settings import ROUTER_GROUP, Chaos
from app.chaos.site import Site
from app.chaos.stage import Run
from app.interruption import INTERRUPTED, interruptible
from app.local_kafka import LocalKafka
from schemas.errors import ForeshardError

BROKEN_PROMISE = 1


def run_chaos(chaos: Chaos, json_path: Path | None, *, keep: bool = False) -> int:
    """Runs it and reports; returns the exit status. The folder stays where a promise was broken."""
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="foreshard-chaos-"))
    good = False
    try:
        with interruptible(), killable_kafka(console.print) as kafka:
            good = _run(chaos, kafka, folder, json_path, console)
            if keep or not good:
                _keep_broker_side(kafka, folder)
    except KeyboardInterrupt:
        good = True
        console.print("interrupted: everything that was started has been stopped")
        return INTERRUPTED
    finally:
        if good and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"kept: configuration, logs and files of the run in {folder}")
    return 0 if good else BROKEN_PROMISE


def _run(chaos: Chaos, kafka: LocalKafka, folder: Path, json_path: Path | None, console: Console) -> bool:
    """Returns whether every promise was kept, in a run that shows it."""
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:5.0f} s] {text}", markup=False)

    one = Run(Site(chaos, kafka.bootstrap, folder), kafka, say)
    outcome, evidence = one.run()
    report = as_json(outcome, one.scraper)
    for line in sentences(report):
        console.print(line, markup=False)
    offenders = Offenders(evidence, one.scene.topics, one.site.config.ingest)
    for line in offenders.sightings(outcome.verdict):
        console.print(line, markup=False)
    np.savez(
        folder / "evidence.npz",
        asked=evidence.asked,
        visible=evidence.visible,
        processed=evidence.processed,
        topics=one.scene.topics,
    )
    (folder / "offenders.txt").write_text("\n".join(offenders.histories(outcome.verdict)))
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n"
    (folder / "report.json").write_bytes(text)
    if json_path is not None:
        json_path.write_bytes(text)
    return outcome.good


def _keep_broker_side(kafka: LocalKafka, folder: Path) -> None:
    """Keeps what only the broker knows: every offset that routers committed, and its log."""
    with contextlib.suppress(KafkaException, TimeoutError, ForeshardError):  # a broker that does not answer
        commits = read_commits({"bootstrap.servers": kafka.bootstrap}, ROUTER_GROUP)
        (folder / "commits.jsonl").write_bytes(b"\n".join(commit.to_json() for commit in commits))
    if kafka.java is None:
        return
    broker_log.keep(kafka.java.folder, folder / "broker.log")
