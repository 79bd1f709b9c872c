"""Series from files: what is read, what is refused, and where a value goes."""

from __future__ import annotations

import gzip
import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bench.series_files import LEAST_VALUES, Series, Skipped, _series, read_series

START = datetime(2024, 3, 1, tzinfo=UTC).timestamp()


def table(times: list[str], values: list[str], header: str = "time,value,label\n") -> bytes:
    """A CSV file's content, with a third column that does not count."""
    return (
        header + "".join(f'"{time}",{value},0\n' for time, value in zip(times, values, strict=True))
    ).encode()


def regular(count: int = 150, step_s: float = 60.0) -> bytes:
    return table([str(START + step_s * number) for number in range(count)], [str(n) for n in range(count)])


def packed(files: dict[str, bytes], mode: str) -> bytes:
    """A tar archive's content."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def only(folder: Path, content: bytes) -> Series:
    """The one series of a folder with this file."""
    (folder / "one.csv").write_bytes(content)
    (one,), skipped = read_series(folder)
    assert not skipped
    return one


def refused(folder: Path, content: bytes, name: str = "one.csv") -> Skipped:
    (folder / name).write_bytes(content)
    found, (one,) = read_series(folder)
    assert not found
    return one


def test_files_are_found_wherever_they_are(tmp_path: Path) -> None:
    """In folders, compressed, in archives; what is no CSV is not looked at; in the order of their names."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "deep.csv").write_bytes(regular())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(regular()))
    (tmp_path / "README.md").write_text("1,2\n" * 200)
    (tmp_path / "t.tar").write_bytes(packed({"x/one.csv": regular(), "x/note.txt": b"no"}, "w"))
    (tmp_path / "u.tar.gz").write_bytes(packed({"two.csv.gz": gzip.compress(regular())}, "w:gz"))
    found, skipped = read_series(tmp_path)
    assert [one.name for one in found] == ["a", "b/c/deep", "t.tar/x/one", "u.tar.gz/two"]
    assert not skipped
    for one in found:
        assert (one.start_s, one.step_s) == (START, 60.0)
        np.testing.assert_array_equal(one.values, np.arange(150.0))


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%S.%f"]
)
def test_times_are_utc_unless_they_say_otherwise(tmp_path: Path, form: str) -> None:
    """ISO 8601 with and without a zone."""
    times = [datetime.fromtimestamp(START + 300.0 * number, UTC).strftime(form) for number in range(120)]
    one = only(tmp_path, table(times, ["5"] * 120))
    assert (one.start_s, one.step_s) == (START, 300.0)


def test_gaps_are_unknown_and_order_does_not_matter(tmp_path: Path) -> None:
    """No line, no value and "nan" are NaN; lines may come in any order; two in a step are averaged."""
    lines = [(START + 60.0 * number, str(number)) for number in range(150)]
    lines[7] = (lines[7][0], "")
    lines[9] = (lines[9][0], "nan")
    del lines[20]
    lines.append((START + 60.0 * 30 + 5.0, "40"))
    one = only(
        tmp_path, table([str(time) for time, _ in reversed(lines)], [value for _, value in reversed(lines)])
    )
    assert np.flatnonzero(np.isnan(one.values)).tolist() == [7, 9, 20]
    assert one.values[30] == 35.0
    assert one.values[31] == 31.0
    assert len(one.values) == 150


def test_a_mark_of_the_encoding_and_a_missing_header_are_no_hindrance(tmp_path: Path) -> None:
    """The first line counts where it is a value."""
    one = only(tmp_path, b"\xef\xbb\xbf" + regular().partition(b"\n")[2])
    assert len(one.values) == 150


def test_what_is_no_series_is_named_with_its_reason(tmp_path: Path) -> None:
    """Too short, without rising times, mostly gaps, times out of reach."""
    assert (
        refused(tmp_path, regular(LEAST_VALUES - 1)).why
        == f"{LEAST_VALUES - 1} values, {LEAST_VALUES} are needed"
    )
    assert "do not rise" in refused(tmp_path, table([str(START)] * 120, ["1"] * 120)).why
    far = table([*(str(START + number) for number in range(120)), "1e12"], ["1"] * 121)
    assert "mostly gaps" in refused(tmp_path, far).why
    absurd = table([*(str(START + number) for number in range(120)), "1e300"], ["1"] * 121)
    assert "mostly gaps" in refused(tmp_path, absurd).why
    assert refused(tmp_path, b"name,city\n" * 200).why.startswith("0 values")


def test_a_broken_file_does_not_end_the_reading(tmp_path: Path) -> None:
    """Cut off, or not what its name says: named, and the others are read."""
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(regular())[:-20])
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip at all")
    (tmp_path / "c.tar.gz").write_bytes(b"no archive")
    (tmp_path / "d.tar").write_bytes(packed({"one.csv": regular()}, "w")[:700])
    (tmp_path / "e.csv").write_bytes(regular())
    found, skipped = read_series(tmp_path)
    assert [one.name for one in found] == ["e"]
    assert [one.name for one in skipped] == ["a.csv.gz", "b.csv.gz", "c.tar.gz", "d.tar"]
    assert all(one.why.startswith("cannot be read: ") for one in skipped)


@given(st.lists(st.booleans(), min_size=300, max_size=300), st.sampled_from([1.0, 30.0, 60.0, 300.0]))
def test_values_keep_their_place(there: list[bool], step_s: float) -> None:
    """Whichever are missing, each value that is there is found at its time."""
    there[0] = there[1] = True
    if sum(there) < LEAST_VALUES + 60:
        there[: LEAST_VALUES + 60] = [True] * (LEAST_VALUES + 60)
    kept = [number for number, one in enumerate(there) if one]
    content = table([str(START + step_s * number) for number in kept], [str(number) for number in kept])
    one = _series("one.csv", content)
    assert isinstance(one, Series)
    assert one.step_s == step_s
    assert np.flatnonzero(np.isfinite(one.values)).tolist() == kept
    np.testing.assert_array_equal(one.values[kept], kept)
