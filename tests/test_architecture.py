"""The house keeps its shape: who may import what, where the environment is read, that the core stays pure.

The table below is the architecture; the checker is a function over a folder, so that another test can show it
failing on a planted mistake.
"""

import ast
import functools
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "streams", "schemas")
ANYTHING = frozenset({"*"})


@dataclass(frozen=True)
class Layer:
    """A folder, and what its files may import beside the standard library; the deepest one counts."""

    folder: str
    may: frozenset[str]


LAYERS = (
    Layer("schemas", frozenset({"schemas", "pydantic", "pydantic_core"})),
    Layer("streams", frozenset({"schemas", "streams", "orjson", "pydantic", "numpy"})),
    Layer("streams/core", frozenset({"schemas", "streams.core", "numpy", "mmh3", "msgspec", "orjson"})),
    Layer(
        "streams/core/forecast", frozenset({"schemas", "streams.core", "numpy", "mmh3", "orjson", "river"})
    ),
    Layer("app", ANYTHING),
)

# Libraries that only some files may import: a reader finds each of them in these places and nowhere else.
ONLY_IN = {
    "confluent_kafka": (
        "streams/feed.py",
        "streams/router*",
        "streams/mapping_topic.py",
        "streams/fenced_writer.py",  # the transactional producer of the one leader
        "streams/groups.py",  # who is in a group, and what waits for it
        "streams/membership.py",  # how a member leaves one
        "streams/progress.py",
        "streams/settled.py",  # asks for the notes in the routers' committed offsets
        "streams/reporter.py",
        "streams/rescue.py",
        "streams/tables.py",  # one read of a small topic, to its end
        "streams/load_reporter.py",  # the router's own producer for what it counted
        "streams/balancer*",  # hosts the feeds; asks for partitions and offsets at a take-over
        "app/*",
    ),
    "faust": ("streams/balancer.py", "app/host.py", "app/console*"),
    "mode": ("streams/balancer.py", "app/host.py", "app/console*"),
    "river": ("streams/core/forecast/*",),
    "prometheus_client": ("streams/metrics.py", "app/*"),
    "psutil": ("streams/reporter.py", "app/*"),
}

ENVIRONMENT_READERS = ("app/config.py", "app/local_kafka.py")

IMPURE_MODULES = frozenset(
    {
        *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random"),
        *("secrets", "select", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading"),
        *("time", "uuid", "warnings"),
    }
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__"})
CLOCK_READS = frozenset({"now", "utcnow", "today"})  # of datetime and date


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether the path is one of the files, or under one of the `...*` prefixes."""
    return any(path.startswith(p[:-1]) if p.endswith("*") else path == p for p in patterns)


@functools.cache
def parse(text: str) -> ast.Module:
    """The syntax tree; the planted mistakes are looked for in the same sources again and again."""
    return ast.parse(text)


def sources(root: Path, *packages: str) -> Iterator[tuple[str, ast.Module]]:
    """Path from the root and syntax tree of every Python file of the packages."""
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            yield path.relative_to(root).as_posix(), parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, at whatever depth of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                # `from streams import core` names streams.core: the parts beyond the module may be modules.
                for name in node.names:
                    yield node.lineno, f"{node.module}.{name.name}"


def allowed(name: str, may: frozenset[str]) -> bool:
    """Whether the dotted name is under one of the permitted ones, or in the standard library."""
    if name.partition(".")[0] in sys.stdlib_module_names or may is ANYTHING:
        return True
    return any(name == root or name.startswith(root + ".") for root in may)


def wrong_imports(root: Path) -> Iterator[str]:
    """Every import that the table does not permit."""
    for path, tree in sources(root, *PACKAGES):
        layer = max(
            (layer for layer in LAYERS if path.startswith(layer.folder + "/")),
            key=lambda layer: len(layer.folder),
        )
        for line, name in imports(tree):
            top = name.split(".")[0]
            places = ONLY_IN.get(top)
            if name.startswith("."):
                yield f"{path}:{line} imports {name}: write the whole path, it shows the layer"
            elif top == "importlib" and layer.folder != "app":
                yield f"{path}:{line} imports {name}: an import by name hides from this test"
            elif places is not None:
                if not matches(path, places):
                    yield f"{path}:{line} imports {name}: only {', '.join(places)} may"
            elif not allowed(name, layer.may):
                names = ", ".join(sorted(layer.may))
                yield f"{path}:{line} imports {name}: files in {layer.folder} may import {names}"


def environment_reads(root: Path) -> Iterator[str]:
    """Every use of the environment outside the files that may."""
    for path, tree in sources(root, *PACKAGES):
        if path in ENVIRONMENT_READERS:
            continue
        for node in ast.walk(tree):
            names = (
                {node.attr}
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
                else {name.name for name in node.names}
                if isinstance(node, ast.ImportFrom) and node.module == "os"
                else set()
            )
            for name in names & {"environ", "environb", "getenv", "getenvb"}:
                line = getattr(node, "lineno", 0)
                yield f"{path}:{line} reads os.{name}: only {', '.join(ENVIRONMENT_READERS)} may"


def impurities(root: Path) -> Iterator[str]:
    """Every clock, chance, input, output, log or coroutine in the core."""
    for path, tree in sources(root, "streams/core"):
        for line, name in imports(tree):
            if name.split(".")[0] in IMPURE_MODULES:
                yield f"{path}:{line} imports {name}: the core takes such things as arguments"
        for node in ast.walk(tree):
            line = getattr(node, "lineno", 0)
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield f"{path}:{line} is asynchronous: the core returns actions, others wait for them"
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                yield f"{path}:{line} calls {node.func.id}"
            if isinstance(node.func, ast.Attribute):
                text = ast.unparse(node.func)
                if node.func.attr in CLOCK_READS and re.search(r"\b(datetime|date)\b", text):
                    yield f"{path}:{line} calls {text}: time is passed in"
                seeded = text.endswith("random.default_rng") and bool(node.args)
                if re.match(r"(np|numpy)\.random\.", text) and not seeded:
                    yield f"{path}:{line} calls {text}: chance is passed in, or has a seed"


def missing_tests(root: Path) -> Iterator[str]:
    """Every test that a document names and that does not exist."""
    known: set[str] = set()
    for path, tree in sources(root, "tests"):
        known.add(Path(path).stem)
        known |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    documents = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    for document in documents:
        if document.is_file():
            for name in sorted(set(re.findall(r"\btest_\w+", document.read_text(encoding="utf-8"))) - known):
                yield f"{document.relative_to(root).as_posix()} names {name}, which does not exist"


def violations(root: Path) -> list[str]:
    """Every way in which the sources under `root` break the rules of this house; empty is good."""
    checks = (wrong_imports, environment_reads, impurities, missing_tests)
    return [found for check in checks for found in check(root)]


def test_the_sources_keep_to_the_architecture() -> None:
    """Imports go app -> streams -> schemas only, and every other rule of the table holds."""
    assert violations(ROOT) == []


PLANTED = [
    ("schemas/planted.py", "import streams.core\n", "schemas/planted.py:1 imports streams.core"),
    ("schemas/planted.py", "from app import config\n", "schemas/planted.py:1 imports app.config"),
    ("schemas/planted.py", "import numpy\n", "schemas/planted.py:1 imports numpy"),
    (
        "streams/planted.py",
        "from app.config import Config\n",
        "streams/planted.py:1 imports app.config.Config",
    ),
    ("streams/planted.py", "def f():\n    import app\n", "streams/planted.py:2 imports app"),
    ("streams/planted.py", "import importlib\n", "an import by name hides"),
    (
        "streams/planted.py",
        "from confluent_kafka import Consumer\n",
        "imports confluent_kafka.Consumer: only",
    ),
    ("streams/planted.py", "from . import feed\n", "write the whole path"),
    ("streams/core/planted.py", "from streams import feed\n", "imports streams.feed"),
    ("streams/core/planted.py", "import river\n", "imports river: only streams/core/forecast"),
    ("app/planted.py", "import faust\n", "imports faust: only"),
    ("app/planted.py", "import os\nx = os.environ['A']\n", "app/planted.py:2 reads os.environ"),
    ("streams/planted.py", "from os import getenv\n", "streams/planted.py:1 reads os.getenv"),
    ("streams/core/planted.py", "import time\n", "imports time: the core"),
    ("streams/core/planted.py", "async def f(): ...\n", "is asynchronous"),
    ("streams/core/planted.py", "from datetime import datetime\nx = datetime.now()\n", "calls datetime.now"),
    ("streams/core/planted.py", "import numpy as np\nx = np.random.normal()\n", "calls np.random.normal"),
    ("streams/core/planted.py", "print('x')\n", "calls print"),
    (
        "docs/planted.md",
        "see `test_that_nobody_wrote`\n",
        "names test_that_nobody_wrote, which does not exist",
    ),
]


@pytest.fixture(scope="module")
def copy_of_the_sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the packages alone, and what is wrong in it already."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "docs").mkdir()
    return root, violations(root)


@pytest.mark.parametrize(("path", "text", "expected"), PLANTED)
def test_a_planted_mistake_is_found(
    copy_of_the_sources: tuple[Path, list[str]], path: str, text: str, expected: str
) -> None:
    """In a copy of the sources, each wrong line is reported, with its place; and nothing else is."""
    root, before = copy_of_the_sources
    planted = root / path
    planted.write_text(text)
    try:
        (found,) = [line for line in violations(root) if line not in before]
    finally:
        planted.unlink()
    assert expected in found


def test_what_the_table_permits_is_not_reported(tmp_path: Path) -> None:
    """River in the forecaster, Kafka in the router, a seeded generator: all in their places."""
    for path, text in {
        "schemas/a.py": "import json\nfrom pydantic import BaseModel\n",
        "streams/core/forecast/a.py": "from river import linear_model\nfrom schemas.records import X\n",
        "streams/core/a.py": "import numpy as np\nx = np.random.default_rng(7)\n",
        "streams/router.py": "from confluent_kafka import Producer\nfrom streams.core.keys import f\n",
        "app/host.py": "import faust\nimport streams.router\n",
        "app/config.py": "import os\nx = os.environ\n",
        "tests/core/test_a.py": "def test_it_works(): ...\n",
        "docs/a.md": "`test_it_works` in test_a.py\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert violations(tmp_path) == []
