"""What was learned, saved in parts and restored."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.records import LearnedState
from streams.core import learned
from streams.core.events import EventBook
from streams.core.keys import KeyRules, RequestType, parse_field
from streams.core.load import Step
from streams.core.outlook import Outlook
from streams.core.trust import Kind, Trust

TYPES = (
    RequestType("order", (parse_field("json:user"),)),
    RequestType("import", (parse_field("json:tenant"),)),
)


def rules(shards: int = 16, types: tuple[RequestType, ...] = TYPES) -> KeyRules:
    return KeyRules(shards=shards, type_from=(parse_field("json:type"),), types=types)


def taught(steps: int = 200) -> Outlook:
    """Returns an outlook that has learned noisy steps, some of them unknown."""
    outlook, chance = Outlook(rules()), np.random.default_rng(5)
    for step in range(steps):
        counts = chance.poisson(20 + 10 * np.sin(step / 30), (2, 16)).astype(float)
        outlook.learn(Step(1000 + step, None if step % 50 == 7 else counts), EventBook(rules(), ()))
    return outlook


TRUST = Trust(kinds={"campaign": Kind(0.6, 0.01)}, settled={"a": 0.5})


def test_restored_it_goes_on_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """In many parts, in any order: the same forecasts, bounds, shares and verdicts, now and later."""
    monkeypatch.setattr(learned, "PART_BYTES", 10_000)
    ours, theirs = taught(), Outlook(rules())
    records = [LearnedState.from_json(record.to_json()) for record in learned.save(ours, TRUST)]
    assert len(records) > 3
    assert learned.restore(records[::-1], theirs) == TRUST
    for step in range(20):
        assert np.array_equal(ours.forecaster.forecast(), theirs.forecaster.forecast())
        assert np.array_equal(ours.forecaster.bound(0.95), theirs.forecaster.bound(0.95))
        assert np.array_equal(ours.shares.share, theirs.shares.share)
        assert ours.forecaster.skill() == theirs.forecaster.skill()
        assert (ours.newest_step, ours.learned) == (theirs.newest_step, theirs.learned)
        for one in (ours, theirs):
            one.learn(Step(1200 + step, np.full((2, 16), 30.0 + step)), EventBook(rules(), ()))


def test_a_part_left_of_an_older_save_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest save had fewer parts: what lies under the numbers above is passed over."""
    monkeypatch.setattr(learned, "PART_BYTES", 10_000)
    old = learned.save(taught(100), TRUST)
    monkeypatch.setattr(learned, "PART_BYTES", 20_000)
    new, outlook = learned.save(taught(150), TRUST), Outlook(rules())
    assert len(new) < len(old)
    learned.restore([*new, *old[len(new) :]], outlook)
    assert outlook.newest_step == 1149


def test_nothing_is_saved_before_anything_is_learned() -> None:
    """There is no step that it would be of."""
    assert learned.save(Outlook(rules()), TRUST) == []


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (rules(shards=32), "32 shards"),
        (rules(types=TYPES[:1]), "of the series order, import"),
    ],
)
def test_what_was_learned_of_something_else_is_refused(other: KeyRules, why: str) -> None:
    """Other shards or series: the reason is said, and nothing is taken."""
    outlook = Outlook(other)
    with pytest.raises(ValueError, match=why):
        learned.restore(learned.save(taught(), TRUST), outlook)
    assert outlook.newest_step is None


def test_a_broken_save_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing part, damaged bytes, text that is no base64: each is named."""
    monkeypatch.setattr(learned, "PART_BYTES", 10_000)
    records = learned.save(taught(), TRUST)
    with pytest.raises(ValueError, match="parts of step 1199 only"):
        learned.restore(records[1:], Outlook(rules()))
    for data in ("AAAA", "*"):
        damaged = records[0].model_copy(update={"data": data})
        with pytest.raises(ValueError, match="cannot be read"):
            learned.restore([damaged, *records[1:]], Outlook(rules()))
