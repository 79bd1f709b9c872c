"""The balancer process: Faust agents, the timer of the rounds, and the page, put together."""

from __future__ import annotations

import sys
import time
from importlib.resources import files

import orjson
from aiohttp import web

from app.config import Config
from app.console.view import view
from app.host import add_agent, add_health, add_route, end_process, hosted_app, run_hosted
from streams.balancer import Balancer, Role, Settings

CHANNEL_BATCHES = 4
"""Batches that wait for an agent before its feed stops reading: back-pressure, not memory."""
LATE_ROUNDS = 5
"""Rounds that may be missed before the process counts as not alive."""
LATE_S = 60.0
"""Seconds of wall time that a take-over may keep the loop busy before it counts as not alive."""


def run_balancer(config: Config, web_port: int) -> int:
    """Runs a balancer until SIGTERM or its end; returns the exit status."""
    app = hosted_app("foreshard-balancer", web_port=web_port)
    settings = Settings(
        kafka=config.kafka,
        prefix=config.prefix,
        ingest=config.ingest,
        router_group=config.file.router.group,
        rules=config.rules,
        rounds=config.rounds,
        clock=config.clock,
    )
    balancer = Balancer(settings, fail=lambda error: end_process(app, error))
    handlers = {
        "load": balancer.on_record,
        "metrics": balancer.on_record,
        "events": balancer.on_record,
        "commands": balancer.on_commands,
    }
    hands = {
        name: add_agent(app, name, handler, maxsize=CHANNEL_BATCHES) for name, handler in handlers.items()
    }
    interval_s = config.clock.wall_duration(config.rounds.round_s)

    @app.timer(interval=interval_s)  # type: ignore[untyped-decorator]
    async def rounds() -> None:
        try:
            await balancer.on_round()
        except Exception as error:  # noqa: BLE001 - Faust would log it and go on with half a round
            end_process(app, error)

    def alive() -> tuple[bool, str]:
        late_s = time.monotonic() - balancer.last_round_at
        return late_s < max(LATE_ROUNDS * interval_s, LATE_S), f"the last round was {late_s:.1f} s ago"

    def ready() -> tuple[bool, str]:
        if balancer.role is Role.LEADING and (balancer.rounds is None or balancer.rounds.snapshot is None):
            return False, "mapping-empty"
        return balancer.role is not Role.TAKING_OVER, balancer.role.value

    async def state(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=orjson.dumps(view(balancer)), content_type="application/json")

    async def page(_request: web.Request) -> web.StreamResponse:
        text = (files("app.console") / "page.html").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="text/html")

    add_health(app, alive=alive, ready=ready)
    add_route(app, "/api/state", state)
    add_route(app, "/", page)

    async def on_start() -> None:
        sys.stdout.write(f"balancer: web on http://{app.web_host}:{_port(app.web_address)}\n")
        sys.stdout.flush()
        await balancer.start({name: hand.put for name, hand in hands.items()})

    async def on_stop() -> None:
        await balancer.stop()

    return run_hosted(app, on_start=on_start, on_stop=on_stop)


def _port(address: tuple[str, int] | None) -> int:
    return address[1] if address else 0
