"""Where options are written: lines of the TOML file, and environment variables. Mistakes name them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

Option = tuple[str, ...]
"""Path of an option: ("topics", "prefix"), ("request_types", "0", "key"), ("kafka", "ssl.ca.location")."""

HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
OPTION = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
)
PART = re.compile(r"""["']([^"']*)["']|([A-Za-z0-9_-]+)""")


def _parts(name: str) -> Option:
    return tuple(quoted or bare for quoted, bare in PART.findall(name))


def option_lines(text: str) -> dict[Option, int]:
    """Returns the line (from 1) of every table and option of a TOML text, as far as lines tell."""
    found: dict[Option, int] = {}
    seen: Counter[Option] = Counter()
    table: Option = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                found.setdefault(table, number)
                seen[table] += 1
                table = (*table, str(seen[table] - 1))
            found.setdefault(table, number)
        elif option := OPTION.match(line):
            found.setdefault(_joined((*table, *_parts(option[1]))), number)
    return found


def _joined(path: Option) -> Option:
    """Returns the path with a Kafka property as one name, however its dots are written."""
    return ("kafka", ".".join(path[1:])) if path[:1] == ("kafka",) and len(path) > 1 else path


class Places:
    """Says of each option where its value comes from."""

    def __init__(self, path: Path | None, text: str, variables: Mapping[Option, str]) -> None:
        self._path = path
        self._lines = option_lines(text)
        self._variables = variables

    def of(self, option: Sequence[str]) -> str:
        """Returns "FILE:LINE" or the variable of an option, or of the smallest table around it."""
        for length in range(len(option), 0, -1):
            part = tuple(option[:length])
            if part in self._variables:
                return f"environment variable {self._variables[part]}"
            if part in self._lines:
                return f"{self._path}:{self._lines[part]}"
        return str(self._path or "defaults")
