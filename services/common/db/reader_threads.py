"""Threads that read for an event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ReaderThreads:
    """A few threads, started with the first work. To be used from one event loop.

    A change to one of them and back takes a third of the time that an executor takes, whose futures lock and notify for
    threads that wait: nobody but the loop waits here.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, called in a thread; it is not begun any more when its caller has gone before."""
        if not self._threads:
            self._start()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((result, lambda: work(*args, **kwargs)))
        return await result

    async def close(self) -> None:
        """End the threads, once they have done everything that was begun."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _start(self) -> None:
        for number in range(self._count):
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            result, work = item
            if not result.cancelled():
                _tell(result, work)
            # What was read would be held until there is something else to read.
            del item, result, work


def _tell(result: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    value: Any = None
    failure: Exception | None = None
    try:
        value = work()
    except Exception as error:  # noqa: BLE001 - raised to who waits
        failure = error
    # A loop that has ended waits for nothing.
    with contextlib.suppress(RuntimeError):
        result.get_loop().call_soon_threadsafe(_settle, result, value, failure)


def _settle(result: asyncio.Future[Any], value: Any, failure: Exception | None) -> None:
    if result.done():
        return
    if failure is None:
        result.set_result(value)
    else:
        result.set_exception(failure)
