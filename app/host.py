"""Composition root: a Faust app without Kafka transport, its web, its signals and its end.

Faust hosts agents, timers and web; confluent-kafka moves the bytes in threads of its own. A thread
hands values to an agent through a `Hand`, and ends the process through `end_process`: Faust does
not notice a thread that died, and an agent that raised would be restarted as if nothing had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, cast

import faust
from aiohttp import web
from faust.app.base import BootStrategy
from faust.web.drivers.aiohttp import Web as FaustWeb
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from schemas.errors import ForeshardError
from schemas.topics import MAPPING
from streams.clock import Clock
from streams.core.keys import KeyRules
from streams.mapping_topic import MappingReader
from streams.router import Router, RouterSettings, route_work

STOP_S = 4.5
"""Seconds from the order to stop until the process ends by force: an orderly stop is promised under 5 s."""

OPEN_CONNECTIONS_S = 0.3
"""Seconds that open HTTP connections get when the web stops; aiohttp would wait 60 s."""

SUBSCRIBE_S = 10.0
"""Seconds that the agents may take to listen on their channels; it is milliseconds."""

Check = Callable[[], tuple[bool, str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _WithoutKafka(BootStrategy):
    """Agents, timers and web start; producer, consumer and tables do not exist."""

    enable_kafka = False


class _Web(FaustWeb):
    """Faust's web with our routes only, on a port that is known once it listens."""

    default_blueprints: ClassVar[list[Any]] = []
    production_blueprints: ClassVar[list[Any]] = []
    debug_blueprints: ClassVar[list[Any]] = []
    optional_blueprints: ClassVar[list[Any]] = []

    async def start_server(self) -> None:
        """Listen; port 0 becomes the free port that was found."""
        app = cast(HostedApp, self.app)
        self._runner = web.AppRunner(self.web_app, access_log=None, shutdown_timeout=OPEN_CONNECTIONS_S)
        await self._runner.setup()
        place = f"{app.web_host}:{app.own_web_port}"
        try:
            await web.TCPSite(self._runner, app.web_host, app.own_web_port).start()
        except OSError as error:
            raise ForeshardError(f"cannot listen on {place}: {error}; choose another port") from None
        app.web_address = self._runner.addresses[0][:2]


class Hand:
    """Hands values from any thread to one Faust agent, in order, waiting while its channel is full."""

    def __init__(self, app: HostedApp, channel: Any) -> None:
        self.app = app
        self.channel = channel

    def put(self, value: object) -> None:
        """Returns when the channel has taken the value; raises if the app's loop has ended."""
        asyncio.run_coroutine_threadsafe(self.channel.send(value=value), self.app.own_loop).result()


class HostedApp(faust.App):
    """A Faust app that lives without its Kafka transport."""

    BootStrategy = _WithoutKafka
    web_host: str
    own_web_port: int
    """As asked for; 0 = any free one (Faust's own setting refuses 0)."""
    web_address: tuple[str, int] | None = None
    """Host and port on which the web listens, once it does."""
    own_loop: asyncio.AbstractEventLoop
    hands: list[Hand]
    ended: asyncio.Future[int]

    def _new_web(self) -> _Web:
        return _Web(self)

    async def _wait_for_table_recovery_completed(self) -> bool:
        """No tables, nothing to recover: False lets the start go on."""
        return False

    async def on_started(self) -> None:
        """Let agents receive: without a consumer nobody else opens the flow."""
        self.flow_control.resume()
        await super().on_started()

    async def crash(self, reason: BaseException) -> None:
        """End the process when a part of Faust dies."""
        await super().crash(reason)
        end_process(self, reason)

    def finish(self, status: int) -> None:
        """Asks the run to end with this exit status; thread-safe, the first one counts."""

        def set_once() -> None:
            if not self.ended.done():
                self.ended.set_result(status)

        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self.own_loop.call_soon_threadsafe(set_once)


def hosted_app(name: str, *, web_host: str = "127.0.0.1", web_port: int) -> HostedApp:
    """Returns a Faust app without transport whose web listens on `web_host`; port 0 takes a free one."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = HostedApp(
        name,
        loop=loop,
        datadir=Path(tempfile.mkdtemp(prefix="foreshard-")),
        web_router_enabled=False,
        web_tables_enabled=False,
        worker_redirect_stdouts=False,
    )
    app.own_loop = loop
    app.web_host = web_host
    app.own_web_port = web_port
    app.hands = []
    app.ended = loop.create_future()
    return app


def add_agent(app: HostedApp, name: str, handle: Callable[[Any], Awaitable[None]], *, maxsize: int) -> Hand:
    """Registers a Faust agent that gives every value of its channel to `handle`, and returns the way in.

    Faust would acknowledge the value whose handler raised and go on: here that ends the process.
    """
    channel = app.channel(maxsize=maxsize)

    async def agent(stream: Any) -> None:
        async for value in stream:
            try:
                await handle(value)
            except Exception as error:  # noqa: BLE001 - whatever it is, going on would skip a value
                end_process(app, error)

    app.agent(channel, name=name)(agent)
    hand = Hand(app, channel)
    app.hands.append(hand)
    return hand


def add_route(app: HostedApp, path: str, handler: Handler, *, method: str = "GET") -> None:
    """Adds one HTTP route to the app's web."""
    cast(_Web, app.web).web_app.router.add_route(method, path, handler)


def add_health(app: HostedApp, *, alive: Check, ready: Check, registry: CollectorRegistry = REGISTRY) -> None:
    """Adds `/healthz` and `/readyz` (200 or 503, with a reason in JSON) and `/metrics` (Prometheus text)."""

    def answer(check: Check) -> Handler:
        async def handler(_request: web.Request) -> web.StreamResponse:
            good, reason = check()
            body = json.dumps({"ok": good, "reason": reason})
            return web.Response(text=body, status=200 if good else 503, content_type="application/json")

        return handler

    async def metrics(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    add_route(app, "/healthz", answer(alive))
    add_route(app, "/readyz", answer(ready))
    add_route(app, "/metrics", metrics)


def end_process(app: HostedApp, error: BaseException) -> None:
    """Ends the run because of `error`: its text on stderr, its exit status the process's. From any thread.

    A run that is ending already keeps its exit status, but what goes wrong meanwhile is still said.
    """
    if isinstance(error, ForeshardError):
        sys.stderr.write(f"{error.code}: {error}\n")
        status = error.exit_status
    else:
        sys.stderr.write("".join(traceback.format_exception(error)))
        status = 1
    sys.stderr.flush()
    app.finish(status)


def run_hosted(
    app: HostedApp, *, on_start: Callable[[], Awaitable[None]], on_stop: Callable[[], Awaitable[None]]
) -> int:
    """Runs the app until SIGTERM, SIGINT, `finish` or `end_process`; returns the exit status.

    `on_start` is called when agents listen and the web answers, `on_stop` while they still do. An
    end that takes longer than STOP_S is forced, so a broker that is away cannot keep the process.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loop = app.own_loop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.finish, 0)
    try:
        return loop.run_until_complete(_live(app, on_start, on_stop))
    finally:
        loop.close()
        shutil.rmtree(app.conf.datadir, ignore_errors=True)


async def _live(
    app: HostedApp, on_start: Callable[[], Awaitable[None]], on_stop: Callable[[], Awaitable[None]]
) -> int:
    """Start, wait for the end, stop: returns the exit status."""
    started = asyncio.ensure_future(_start(app, on_start))
    ends: list[asyncio.Future[Any]] = [started, app.ended]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if started.done() and (failure := started.exception()) is not None:
        end_process(app, failure)
    status = await app.ended
    forced = _force_end(app, status)
    started.cancel()
    try:
        await on_stop()
        await app.stop()
    except Exception as error:  # noqa: BLE001 - it is ending anyway: say why it was not orderly
        sys.stderr.write("".join(traceback.format_exception(error)))
        return status or 1
    finally:
        forced.cancel()
    return status


async def _start(app: HostedApp, on_start: Callable[[], Awaitable[None]]) -> None:
    await app.start()
    # It is for tables, of which there are none; removed now, it is not left behind by a kill.
    shutil.rmtree(app.conf.datadir, ignore_errors=True)
    async with asyncio.timeout(SUBSCRIBE_S):
        while not all(hand.channel.subscriber_count for hand in app.hands):
            await asyncio.sleep(0.001)
    await on_start()


def _force_end(app: HostedApp, status: int) -> threading.Timer:
    """Returns what ends the process by force STOP_S from now, whatever still waits for whom."""

    def force() -> None:
        shutil.rmtree(app.conf.datadir, ignore_errors=True)
        sys.stderr.write(f"did not stop within {STOP_S} s; ended by force\n")
        sys.stderr.flush()
        os._exit(status or 1)

    timer = threading.Timer(STOP_S, force)
    timer.daemon = True
    timer.start()
    return timer


GC_THRESHOLDS = (100_000, 50, 50)
"""A batch makes tens of thousands of small tuples that die by reference count; the collector, at its
default of 700 objects, would spend as much time walking them as routing takes."""


def run_router(*, settings: RouterSettings, rules: KeyRules, clock: Clock, web_port: int) -> int:
    """Runs one router in this process until it is told to stop; returns the exit status."""
    app = hosted_app(f"foreshard-router-{settings.instance}", web_port=web_port)
    hand = add_agent(app, "route", route_work, maxsize=1)

    def fail(error: BaseException) -> None:
        end_process(app, error)

    mapping = MappingReader(settings.kafka, settings.prefix + MAPPING.name, on_failure=fail)
    router = Router(settings, rules, clock, lambda: mapping.snapshot, hand, fail)
    add_health(app, alive=router.alive, ready=router.ready)

    async def start() -> None:
        await asyncio.wrap_future(in_thread(router.start))
        mapping.start()
        host, port = app.web_address or ("", 0)
        sys.stdout.write(f"router {settings.instance} on http://{host}:{port}\n")
        sys.stdout.flush()

    def end() -> None:
        if not router.stop():
            sys.stderr.write(
                "the router did not end in time: what it had in hand is aborted, and read again\n"
            )
        mapping.stop(0.2)

    async def stop() -> None:
        await asyncio.wrap_future(in_thread(end))

    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    return run_hosted(app, on_start=start, on_stop=stop)


def in_thread(call: Callable[[], object]) -> Future[None]:
    """Runs `call` in a thread of its own and returns its future; the thread never keeps the process."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return future
