"""Each known mistake is planted in a copy of the sources, and seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.simulation.mutate import ROOT, Found, StaleMutationError, look, plant
from tests.simulation.mutations import MUTATIONS, Mutation

AT_ONCE = 2
"""Two run beside each other: a CI machine has two cores at least."""


@pytest.fixture(scope="module")
def looks() -> Iterator[dict[str, Future[Found]]]:
    """What the floor of each mistake sees, under way in the background."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {mutation.name: pool.submit(look, mutation, mutation.floor) for mutation in MUTATIONS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_is_seen(mutation: Mutation, looks: dict[str, Future[Found]]) -> None:
    """By the floor that it names: the sources with it break a promise that they keep without it."""
    assert looks[mutation.name].result().why, f"{mutation.floor} does not see it: {mutation.name}"


def test_a_mistake_whose_text_is_gone_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    """When the source changes, its mutations must be looked at again."""
    gone = replace(MUTATIONS[0], old="text that is nowhere")
    with pytest.raises(StaleMutationError, match=r"0 times in streams/core/handoff\.py"):
        plant(gone, tmp_path_factory.mktemp("gone"))
    twice = replace(MUTATIONS[0], old="self._phase")
    with pytest.raises(StaleMutationError, match=r"\d\d times in"):
        plant(twice, tmp_path_factory.mktemp("twice"))


def test_every_mistake_has_its_row_in_the_document() -> None:
    """Once, by its name; what the floors saw stands beside it."""
    text = (ROOT / "docs" / "handoff.md").read_text()
    names = re.findall(r"^\| ([^|]+) \| [^|]* \| [^|]* \| [^|]* \| [^|]* \|$", text, re.MULTILINE)
    assert sorted(name for name in names if name not in ("mistake", "---")) == sorted(
        m.name for m in MUTATIONS
    )
