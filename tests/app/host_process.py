"""A hosted app in a process of its own, for the tests: `python -m tests.app.host_process MODE PORT`."""

from __future__ import annotations

import asyncio
import sys
import threading

from aiohttp import web

from app.host import HostedApp, add_agent, add_health, add_route, end_process, hosted_app, run_hosted
from schemas.errors import ProtocolError


async def endless(request: web.Request) -> web.StreamResponse:
    """An event stream that never ends by itself."""
    stream = web.StreamResponse()
    await stream.prepare(request)
    while True:
        await stream.write(b"tick\n")
        await asyncio.sleep(0.05)


def feed(app: HostedApp, mode: str, put: object) -> None:
    """What the foreign thread does: hands over numbers, or dies."""
    if mode == "thread-dies":
        end_process(app, ProtocolError("the thread died"))
    for number in range(100):
        put(number)  # type: ignore[operator]


def main() -> None:
    """Serves until it is told to stop; prints its address, and at the end the sum of what the agent got."""
    mode, port = sys.argv[1], int(sys.argv[2])
    app = hosted_app("host-test", web_port=port)
    got: list[int] = []

    async def handle(number: int) -> None:
        if mode == "agent-raises" and number == 50:
            raise ValueError("fifty")
        got.append(number)

    hand = add_agent(app, "numbers", handle, maxsize=2)
    add_health(app, alive=lambda: (True, "ok"), ready=lambda: (len(got) == 100, f"{len(got)} of 100"))
    add_route(app, "/endless", endless)

    async def start() -> None:
        host, found = app.web_address or ("", 0)
        sys.stdout.write(f"http://{host}:{found}\n")
        sys.stdout.flush()
        threading.Thread(target=feed, args=(app, mode, hand.put), daemon=True).start()

    async def stop() -> None:
        sys.stdout.write(f"{sum(got)}\n")

    sys.exit(run_hosted(app, on_start=start, on_stop=stop))


if __name__ == "__main__":
    main()
