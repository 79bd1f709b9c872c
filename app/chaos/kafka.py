"""The broker of a run: one that may be killed without breaking its own promises.

A single node that is broker and controller in one, as demo and tests have it, is not fit for that. Killed
and started again, it takes itself for the leader of its partitions until its own old session has ended:
it loads coordinators by that stale leadership, and loads them again 4 s later. Seen here: consumer groups
whose members never time out (4.2.0), transaction markers left out for ever (4.3.1). In a real cluster the
controller lives on, and has taken leadership away before the broker is back. So it is here: a controller
of its own, and a broker that stays dead until it must have been fenced.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from app.local_kafka import SETTINGS, LocalKafka, answers, free_ports, local_kafka
from app.local_kafka_java import JavaBroker, find_jars, find_java, prepare
from schemas.errors import NoKafkaError

CONTROLLER_ID, BROKER_ID = 100, 1


@contextlib.contextmanager
def killable_kafka(say: Callable[[str], None]) -> Iterator[LocalKafka]:
    """A broker with a controller of its own, both from jars; without Java whatever `local_kafka` finds.

    Nothing of it is left at the end. Raises NoKafkaError where there is only somebody else's broker.
    """
    java, jars = find_java(""), find_jars(say)
    if not isinstance(java, Path) or not isinstance(jars, Path):
        with local_kafka(quiet=False) as found:
            if found.kind == "external":
                raise NoKafkaError("chaos needs a broker of its own, that it may kill: unset KAFKA_BOOTSTRAP")
            yield found
        return
    say("starting Kafka with Java: a controller, and a broker to be killed")
    with contextlib.ExitStack() as stack:
        port, controller_port = free_ports(2)
        voters = {"controller.quorum.voters": f"{CONTROLLER_ID}@127.0.0.1:{controller_port}"}
        controller = _node(stack, f"127.0.0.1:{controller_port}", lambda _address, _timeout_s: True)
        own = {
            "process.roles": "controller",
            "node.id": str(CONTROLLER_ID),
            "listeners": f"CONTROLLER://{controller.bootstrap}",
        }
        controller.command = prepare(java, jars, controller.folder, dict(SETTINGS) | voters | own)
        broker = _node(stack, f"127.0.0.1:{port}", answers)
        _join(broker.folder, _cluster_id(controller.folder))
        own = {
            "process.roles": "broker",
            "node.id": str(BROKER_ID),
            "listeners": f"PLAINTEXT://{broker.bootstrap}",
        }
        broker.command = prepare(java, jars, broker.folder, dict(SETTINGS) | voters | own)
        controller.start()
        broker.start()
        yield LocalKafka(broker.bootstrap, "java", java=broker)


def _node(stack: contextlib.ExitStack, address: str, ready: Callable[[str, float], bool]) -> JavaBroker:
    """Returns a node with a folder of its own, not started; both go with the stack."""
    node = JavaBroker(address, [], Path(tempfile.mkdtemp(prefix="foreshard-kafka-")), True, ready)
    stack.callback(node.remove)
    stack.callback(node.stop)
    return node


def _cluster_id(folder: Path) -> str:
    """Returns the id of the cluster that a node's storage was formatted for."""
    text = (folder / "data/meta.properties").read_text()
    found = re.search(r"^cluster\.id=(.+)$", text, re.MULTILINE)
    if found is None:
        raise NoKafkaError(f"{folder}/data/meta.properties names no cluster.id: {text}")
    return found[1].replace("\\", "").strip()


def _join(folder: Path, cluster_id: str) -> None:
    """Formats a broker's storage for a cluster that exists."""
    data = folder / "data"
    data.mkdir()
    lines = ("version=1", f"cluster.id={cluster_id}", f"node.id={BROKER_ID}", "")
    (data / "meta.properties").write_text("\n".join(lines))
