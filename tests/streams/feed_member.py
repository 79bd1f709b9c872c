"""A member of a group in a process of its own, so that a test can kill it: says what it is given.

`python -m tests.streams.feed_member BOOTSTRAP GROUP TOPIC` prints a line per event.
"""

import sys
import threading

from streams.feed import GroupFeed

ended = threading.Event()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    bootstrap, group, topic = sys.argv[1:]
    feed = GroupFeed(
        "member",
        {"bootstrap.servers": bootstrap, "session.timeout.ms": 2000, "heartbeat.interval.ms": 500},
        group,
        [topic],
        lambda messages: say(f"messages {len(messages)}"),
        on_assigned=lambda partitions: say(f"assigned {len(partitions)}"),
        on_revoked=lambda: say("revoked"),
        on_lost=lambda: say("lost"),
        on_failure=lambda error: say(f"failed {error!r}"),
    )
    feed.start()
    ended.wait()
