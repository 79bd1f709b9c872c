"""The outside producer: sends prepared requests at their times, and says how late it ever was."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import KafkaError, Message, Producer

from app.demo.traffic import Traffic

TICK_S = 0.002
"""Wall seconds between two looks at the clock: at 4,000 requests/s eight requests go at once."""
TELL_S = 0.5
FLUSH_S = 30.0
VALUE_BYTES = 200
"""A request's JSON value is filled up to this: identifiers, a few fields, as small APIs send."""

PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
}

ARRAYS, NAMES, PROGRESS = "requests.npz", "names.json", "producer.json"


@dataclass
class Progress:
    """What the producer has done so far; written to `producer.json`."""

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    late_max_s: float = 0.0
    done: bool = False


def prepare(traffic: Traffic, folder: Path) -> None:
    """Writes the requests of one pass where `send_all` reads them."""
    np.savez(folder / ARRAYS, at=traffic.at, type_index=traffic.type_index, key=traffic.key)
    headers = {
        rule.name: [[f.path[0], i] for i, f in enumerate(rule.key) if f.kind == "header"]
        for rule in traffic.rules
    }
    names = {
        "types": traffic.type_names,
        "headers": [headers.get(name, headers.get("*", [])) for name in traffic.type_names],
        "values": traffic.keys.values,
        "record_keys": traffic.keys.record_keys,
        "fields": traffic.keys.fields,
    }
    (folder / NAMES).write_bytes(orjson.dumps(names))


def read_progress(folder: Path) -> Progress:
    """Returns what the producer last wrote; nothing sent when it has not begun."""
    try:
        return Progress(**orjson.loads((folder / PROGRESS).read_bytes()))
    except (OSError, orjson.JSONDecodeError):
        return Progress()


class Requests:
    """The prepared requests as Kafka records; what a key needs is made when it is first used."""

    def __init__(self, folder: Path) -> None:
        names = orjson.loads((folder / NAMES).read_bytes())
        with np.load(folder / ARRAYS) as arrays:
            self.at: Sequence[float] = arrays["at"].tolist()
            self._types: Sequence[int] = arrays["type_index"].tolist()
            self._keys: Sequence[int] = arrays["key"].tolist()
        self._names: Sequence[bytes] = [name.encode() for name in names["types"]]
        self._headers = names["headers"]
        self._values = names["values"]
        self._record_keys = names["record_keys"]
        self._fields = names["fields"]
        self._made: dict[tuple[int, int], tuple[bytes, bytes, list[tuple[str, bytes]]]] = {}

    def record(self, seq: int) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        """Returns (record key, value, headers) of request number `seq`."""
        place = (self._types[seq], self._keys[seq])
        found = self._made.get(place) or self._made.setdefault(place, self._make(*place))
        key, start, headers = found
        number = b"%d" % seq
        return key, b'%s"seq":%s}' % (start, number), [*headers, ("seq", number)]

    def _make(self, kind: int, key: int) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        """Returns the record key, the value up to its seq, and the headers before seq."""
        name = self._names[kind]
        headers = [("type", name)]
        headers += [(header, self._values[key][place].encode()) for header, place in self._headers[kind]]
        head = b'{"type":%s,%s,' % (orjson.dumps(name.decode()), self._fields[key].encode())
        note = b'"note":"%s",' % (b"." * max(0, VALUE_BYTES - len(head) - 25))
        return self._record_keys[key].encode(), head + note, headers


class Sender:
    """Sends requests through one producer and counts what became of them."""

    def __init__(self, producer: Producer, topic: str, folder: Path) -> None:
        self._producer = producer
        self._topic = topic
        self._folder = folder
        self._told_at = 0.0
        self.progress = Progress()

    def send_all(self, requests: Requests, start: float, time_scale: float) -> None:
        """Sends every request at start + its model offset / time_scale (wall)."""
        due = [start + offset / time_scale for offset in requests.at]
        position = 0
        while position < len(due):
            now = time.time()
            if due[position] > now:
                self._tell(now)
                self._producer.poll(0)
                time.sleep(max(TICK_S, min(0.1, due[position] - now)))
                continue
            self.progress.late_max_s = max(self.progress.late_max_s, now - due[position])
            while position < len(due) and due[position] <= now:
                self._send(requests.record(position))
                position += 1
            self.progress.sent = position
        self._producer.flush(FLUSH_S)
        self.progress.done = True
        self._tell(time.time(), last=True)

    def _send(self, record: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
        key, value, headers = record
        while True:
            try:
                # The type of `headers` admits more than its stub says.
                self._producer.produce(
                    self._topic, value, key, headers=list(headers), on_delivery=self._delivered
                )
                return
            except BufferError:
                self._producer.poll(0.01)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.progress.delivered += 1
        else:
            self.progress.failed += 1

    def _tell(self, now: float, *, last: bool = False) -> None:
        if last or now - self._told_at >= TELL_S:
            self._told_at = now
            fresh = self._folder / (PROGRESS + ".new")
            fresh.write_bytes(orjson.dumps(asdict(self.progress)))
            fresh.replace(self._folder / PROGRESS)


def main() -> None:
    """Send the requests prepared in a folder, each at its time, then end."""
    parser = argparse.ArgumentParser(prog="python -m app.demo.producer", description=main.__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--start-file", type=Path, required=True, help="appears with the wall time to begin at"
    )
    parser.add_argument("--time-scale", type=float, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    producer = Producer(PRODUCER | {"bootstrap.servers": arguments.bootstrap})
    sender = Sender(producer, arguments.topic, arguments.folder)
    requests = Requests(arguments.folder)
    while not arguments.start_file.exists():
        time.sleep(TICK_S)
    sender.send_all(requests, float(arguments.start_file.read_text()), arguments.time_scale)


if __name__ == "__main__":
    main()
