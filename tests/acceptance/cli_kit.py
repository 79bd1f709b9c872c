"""What the tests of the command line on a real broker share: a file, and `foreshard` with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from app.cli import main

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
[kafka]
"bootstrap.servers" = "{bootstrap}"
[topics]
prefix = "{prefix}."
ingest = "{prefix}.requests"
replication_factor = 1
cluster_partitions = 3
[sharding]
shards = 16
[[request_types]]
name = "order"
key = ["json:tenant", "json:user.id"]
[[request_types]]
name = "*"
key = ["key"]
[clock]
start = {now}
t0 = {now}
time_scale = 10
[balancer]
dwell_s = 180
[web]
port = 0
"""
TENANT = "acme-of-the-secret-tenant"
"""A key value: it may be in an event, it must not be on the page."""


@dataclass
class Cli:
    """`foreshard` with one configuration file, in this process."""

    file: Path
    bootstrap: str
    prefix: str

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "-c", str(self.file)])

    def ok(self, *arguments: str) -> str:
        """Runs a command that must succeed; returns what it printed."""
        answer = self.run(*arguments)
        assert answer.exit_code == 0, answer.stderr
        return answer.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, status: int, *arguments: str) -> str:
        """Runs a command that must end with this status; returns what it said on stderr."""
        answer = self.run(*arguments)
        assert answer.exit_code == status, answer.stdout + answer.stderr
        return answer.stderr


def cli_for(folder: Path, bootstrap: str, prefix: str) -> Cli:
    path = folder / "foreshard.toml"
    path.write_text(CONFIGURATION.format(bootstrap=bootstrap, prefix=prefix, now=time.time()))
    return Cli(path, bootstrap, prefix)
