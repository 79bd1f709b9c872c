"""What every test may use: one real broker, a topic prefix of its own, Hypothesis profiles."""

import os
import tracemalloc  # noqa: F401 - pytest imports it in whatever thread drops a socket first; two at once fail
import uuid
from collections.abc import Iterator
from pathlib import PurePath

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from app.local_kafka import LocalKafka, local_kafka

# ci: the same examples every time, and no deadline, since the machine may be busy with a broker. nightly: new
# examples, many more of them. HYPOTHESIS_PROFILE chooses; it is a setting of the tests, not of the program.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


class Groups(LoadScopeScheduling):
    """Keeps a file in one worker of `pytest -n`, and in one of them all tests that start whole systems.

    (The marker xdist_group would say the same, but pytest 9.2 no longer shows it to xdist 3.8.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.partition("::")[0])
        return str(file.parent if file.parent.name == "acceptance" else file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Divides the tests over the workers."""
    return Groups(config, log)


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """A broker shared by all tests of the session; who stops or kills one starts his own: `local_kafka()`."""
    with local_kafka() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has, so that tests on the shared broker do not meet."""
    return f"t{uuid.uuid4().hex[:10]}"
