"""The numbers in docs/forecasting.md are what the code computes."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "forecasting.md"


def test_the_worked_numbers_of_the_forecasting_document_are_computed() -> None:
    """Runs every example of the document; there are examples to run."""
    result = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert result.attempted >= 12
    assert result.failed == 0
