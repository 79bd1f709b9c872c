"""The numbers in docs/planner.md are what the code computes."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "planner.md"


def test_the_worked_numbers_of_the_planner_document_are_computed() -> None:
    """Runs every example of the document; there are examples to run."""
    result = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert result.attempted >= 9
    assert result.failed == 0
