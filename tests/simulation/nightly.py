"""How much is tried: a little at every change, with fixed seeds; much more at night, with new ones."""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""The profiles are those of tests/conftest.py."""


def tries(ci: int, nightly: int) -> int:
    """Returns how many examples or seeds to try."""
    return nightly if NIGHTLY else ci
