"""The compose file is one that compose accepts, and that names only what exists."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from app.local_kafka import IMAGE

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
PROGRAM_COMMANDS = (["router"], ["balancer"], ["topics", "create", "--ingest-partitions", "12"])


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Name to definition, anchors and merges resolved."""
    found = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert isinstance(found, dict)
    return found


def compose_command() -> list[str]:
    """How compose is called here; empty where there is none."""
    candidates = [["docker", "compose"], ["docker-compose"], ["podman-compose"]]
    for command in candidates:
        if shutil.which(command[0]):
            answer = subprocess.run([*command, "version"], capture_output=True, check=False)
            if answer.returncode == 0:
                return command
    return []


def test_compose_accepts_the_file() -> None:
    """`docker compose config` resolves it without a complaint."""
    command = compose_command()
    if not command:
        pytest.skip(
            "left out: no compose CLI here (docker compose, docker-compose); only its structure is checked"
        )
    answer = subprocess.run(
        [*command, "-f", str(COMPOSE), "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")


def test_every_dependency_exists_and_reaches_the_state_that_is_waited_for(
    services: dict[str, dict[str, Any]],
) -> None:
    """What is waited to be healthy has a health check; what is waited to end runs once."""
    for name, service in services.items():
        for wanted, how in service.get("depends_on", {}).items():
            assert wanted in services, f"{name} depends on {wanted}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[wanted]
            if how["condition"] == "service_completed_successfully":
                assert services[wanted]["restart"] == "no"


def test_every_command_is_a_verb_of_the_program(services: dict[str, dict[str, Any]]) -> None:
    """A renamed verb cannot leave a compose file behind that starts nothing."""
    from app import cli

    top = next(value for value in vars(cli).values() if isinstance(value, click.Group))
    ours = [service for service in services.values() if service["image"].startswith("foreshard")]
    assert len(ours) == 5
    for service in ours:
        command: click.Command = top
        words = list(service["command"])
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, f"{service['command']} is not a command of foreshard"
            command = found
        command.make_context("foreshard", words)  # raises where an option does not exist
        assert service["command"] in PROGRAM_COMMANDS


def test_two_routers_and_two_balancers_have_names_of_their_own(services: dict[str, dict[str, Any]]) -> None:
    """The host's name is part of the transactional id: no two may share one."""
    for verb in ("router", "balancer"):
        hosts = [s["hostname"] for s in services.values() if s.get("command") == [verb]]
        assert len(hosts) == len(set(hosts)) == 2


def test_the_environment_of_the_containers_is_a_valid_configuration(
    services: dict[str, dict[str, Any]],
) -> None:
    """With the mounted example file and these variables, every process would start."""
    from app.config import load

    for service in services.values():
        environment = service.get("environment", {})
        if "FORESHARD_CONFIG" not in environment:
            continue
        (mounted,) = [v for v in service["volumes"] if f":{environment['FORESHARD_CONFIG']}:" in v]
        file = ROOT / mounted.split(":")[0]
        config = load(
            file, {name: value for name, value in environment.items() if name != "FORESHARD_CONFIG"}
        )
        assert config.kafka["bootstrap.servers"] == "kafka:9092"
        assert config.file.topics.replication_factor == 1


def test_kafka_is_the_same_version_everywhere(services: dict[str, dict[str, Any]]) -> None:
    """Compose, the local broker's image and its jars."""
    pom = ET.parse(ROOT / "deploy/kafka/pom.xml")
    version = pom.findtext(".//{*}kafka.version")
    assert services["kafka"]["image"] == IMAGE == f"apache/kafka:{version}"


def test_published_ports_stay_on_this_machine(services: dict[str, dict[str, Any]]) -> None:
    """Nothing listens for the network unless the operator says so."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published), json.dumps(published)


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    """Every COPY source of the Dockerfile is in the tree and let through by .dockerignore."""
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert copies
    for source in (source for line in copies for source in line):
        assert (ROOT / source).exists()
        assert source in kept
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
