"""The page: works offline, shows text as text, and what it is given holds no key of any request."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

from app.console.view import _event, _handoffs
from schemas.records import SLOTS, Event, EventKey, HandoffLoad, HotKeyLoad
from tests.core.rounds_world import even, started
from tests.core.test_cluster_states import state

PAGE = (files("app.console") / "page.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


TAGS = Tags(PAGE).found


def test_the_page_needs_nothing_from_anywhere_else() -> None:
    """One file without a reference: it works offline, and the browser is told to load nothing else."""
    references = [value for _, given in TAGS for name, value in given.items() if name in ("src", "href")]
    assert references == ["data:,"]
    assert not re.search(r"https?:|url\(|@import|import\(", PAGE)
    (policy,) = [given["content"] for _, given in TAGS if "http-equiv" in given]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "connect-src 'self'" in policy
    assert re.findall(r"fetch\(([^)]*)\)", PAGE) == ['"api/state"']


def test_names_are_shown_as_text_and_never_as_markup() -> None:
    """Whatever a cluster or event is called: nothing on the page parses it."""
    parsers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|\bon\w+="
    assert not re.search(parsers, PAGE)
    assert "textContent" in PAGE


def test_the_script_and_the_markup_name_the_same_elements() -> None:
    """Every id that the script looks for exists, once."""
    ids = [given["id"] for _, given in TAGS if "id" in given]
    wanted = set(re.findall(r'(?:byId|fill)\("(\w+)"', PAGE))
    assert len(ids) == len(set(ids))
    assert wanted == set(ids)


def test_the_page_can_be_read_aloud_and_on_a_phone() -> None:
    """A language, a title, a scope that scales, a live region, a label for the picture."""
    assert ("html", {"lang": "en"}) in TAGS
    assert any(given.get("name") == "viewport" for _, given in TAGS)
    assert any(given.get("role") == "status" for _, given in TAGS)
    assert any(given.get("role") == "img" and given.get("aria-label") for _, given in TAGS)
    assert "@media (max-width" in PAGE


def test_an_event_is_shown_without_its_keys() -> None:
    """How many of which type, and the effect; never whose they are."""
    keys = [EventKey(type="order", values=["acme", user]) for user in (1, 2)]
    event = Event(id="e", kind="import", start=1.0, end=2.0, requests_per_s=5.0, keys=keys, note="for acme")
    assert _event(event) == {
        "id": "e",
        "kind": "import",
        "start": 1.0,
        "end": 2.0,
        "uplift": None,
        "requests_per_s": 5.0,
        "capacity_factor": None,
        "scope": "2 keys of order",
    }


def test_handoffs_are_shown_with_who_is_late_and_which_keys_are_busy() -> None:
    """Versions, shards, slots, held requests, clusters by state; a key by its hash, shard and cluster."""
    world = started()
    world.run(20, even(60.0))
    world.settling = False
    world.command(state("c3", "draining"))
    world.run(10, even(60.0))
    slot = 5 * SLOTS + 7
    report = world.router.report(world.now + 5.0, even(60.0))
    busy = [HotKeyLoad(hash="00000000000000ff", slot=slot, requests=50)]
    handoffs = HandoffLoad(watch=3, hold=2, held_requests=40)
    world.rounds.on_load(report.model_copy(update={"hot_keys": busy, "handoffs": handoffs}))
    snapshot = world.rounds.snapshot
    assert snapshot is not None
    pending = world.rounds.pending()
    assert pending <= set(world.at_home("c3"))
    assert pending
    assert _handoffs(world.rounds, snapshot, world.now + 5.0) == {
        "watch": 3,
        "hold": 2,
        "held_requests": 40,
        "settled": 1,
        "pending_shards": len(pending),
        "states": {"active": ["c1", "c2"], "draining": ["c3"]},
        "busy_keys": [{"hash": "00000000000000ff", "shard": 5, "cluster": snapshot.owner(slot), "rps": 10.0}],
    }
