"""A broker that leaves out transaction markers is found by its own log."""

from __future__ import annotations

from pathlib import Path

from app.chaos.broker_log import keep, markers_skipped

LINE = (
    "[2026-11-25 23:33:15,656] INFO [Transaction Marker Channel Manager 1]: Couldn't find leader endpoint "
    "for partitions {} while trying to send transaction markers for x.router-0, these partitions are likely "
    "deleted already and hence can be skipped (kafka.coordinator.transaction.TransactionMarkerChannelManager)"
    "\n"
)


def test_every_marker_that_was_left_out_counts(tmp_path: Path) -> None:
    log = (
        "Kafka Server started\n" + LINE.format("HashSet(a-0, __consumer_offsets-3)") + LINE.format("Set(b-2)")
    )
    (tmp_path / "server.log").write_text(log)
    assert markers_skipped(tmp_path) == 3


def test_a_healthy_log_has_none_and_no_log_says_nothing(tmp_path: Path) -> None:
    assert markers_skipped(tmp_path) is None
    (tmp_path / "server.log").write_text("Kafka Server started\n")
    assert markers_skipped(tmp_path) == 0


def test_the_end_of_the_log_is_kept(tmp_path: Path) -> None:
    keep(tmp_path, tmp_path / "kept.log")
    assert not (tmp_path / "kept.log").exists()
    (tmp_path / "server.log").write_text("Kafka Server started\n")
    keep(tmp_path, tmp_path / "kept.log")
    assert (tmp_path / "kept.log").read_text() == "Kafka Server started\n"
