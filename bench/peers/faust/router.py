"""The router's work in stock Faust, with its own Kafka transport: `router.py FILE`, until it is killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402 - it takes the loop that is chosen before

sys.path.insert(0, str(Path(__file__).parents[1]))
from routing import routing  # noqa: E402 - peers share it

rules = routing()
given = rules.given
app = faust.App(
    given["group"],
    broker=f"kafka://{given['bootstrap']}",
    datadir=given["folder"],
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    broker_commit_interval=0.5,
    stream_wait_empty=False,
    consumer_auto_offset_reset="earliest",
    producer_acks=-1,
    producer_compression_type="lz4",
    producer_linger=0.1,
)
requests = app.topic(given["ingest"], key_serializer="raw", value_serializer="raw")
targets = [app.topic(name, key_serializer="raw", value_serializer="raw") for name in rules.topics]


@app.agent(requests)
async def route(stream: faust.Stream) -> None:
    """Forwards every request; `send` returns once it is in the producer's buffer."""
    async for event in stream.events():
        message = event.message
        owner, partition, added = rules.place(message.value)
        await targets[owner].send(
            key=message.key,
            value=message.value,
            partition=partition,
            timestamp=message.timestamp + 0.0005,  # Faust cuts to milliseconds
            headers=[*message.headers, *added] if message.headers else added,
        )


if __name__ == "__main__":
    sys.argv[1:] = []
    logging.disable(logging.INFO)  # it makes records of debug messages that nobody sees
    faust.Worker(app, loglevel="warn").execute_from_commandline()
