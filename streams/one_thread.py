"""One thread that makes calls in order. Unlike an executor's it never keeps the process from ending."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class OneThread:
    """Makes the calls that it is given, one after the other, in a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Returns the future of `call`, which is made when those before it are done."""
        future: Future[Result] = Future()
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """Ends the thread after the calls it has; does not wait."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)
