"""A loopback HTTP server that tests start inside their own event loop or in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from aiohttp import web

MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 128 * 1024
WAIT_SECONDS = 60.0


class Changes:
    """Tells waiters, in any thread or event loop, that watched state has changed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()

    def notify(self) -> None:
        with self._condition:
            self._condition.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            # A waiter's loop may close between its timeout and this call.
            with suppress(RuntimeError):
                listener()

    def wait_sync(self, predicate: Callable[[], bool], timeout: float = WAIT_SECONDS) -> None:
        """Block until `predicate` holds; TimeoutError after `timeout` seconds."""
        with self._condition:
            if not self._condition.wait_for(predicate, timeout):
                raise TimeoutError(f"condition not met within {timeout} s")

    async def wait(self, predicate: Callable[[], bool], timeout: float = WAIT_SECONDS) -> None:
        """Suspend until `predicate` holds; TimeoutError after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._condition:
            self._listeners.add(listener)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    changed.clear()
                    if predicate():
                        return
                    await changed.wait()
        except TimeoutError:
            raise TimeoutError(f"condition not met within {timeout} s") from None
        finally:
            with self._condition:
                self._listeners.discard(listener)


class Gate:
    """Holds handlers until someone, in any thread, releases them."""

    def __init__(self) -> None:
        self._held: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    async def hold(self, on_held: Callable[[], None]) -> None:
        """Wait for a release; `on_held` is called once a release would count."""
        place = (asyncio.get_running_loop(), asyncio.Event())
        self._held.add(place)
        try:
            on_held()
            await place[1].wait()
        finally:
            self._held.discard(place)

    def release(self) -> int:
        """Let everything held now go on; returns how many there were."""
        held = list(self._held)
        for loop, event in held:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
        return len(held)


class HttpEmulator(ABC):
    """Serve `install`'s routes on loopback: `async with` in the running loop, `with` in a thread of its own.

    Port 0 takes a free port; `url` is the base address once started. A handler is cancelled when its client goes
    away, so that an emulator can tell an abandoned call from an answered one.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self._url: str | None = None
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._thread_stop: asyncio.Event | None = None

    @abstractmethod
    def install(self, app: web.Application) -> None:
        """Add this emulator's routes to `app`."""

    def let_go(self) -> None:
        """End whatever a handler is deliberately holding open; called before the server stops."""

    @property
    def url(self) -> str:
        """Base address without a trailing slash; RuntimeError before start."""
        if self._url is None:
            raise RuntimeError("the emulator is not running")
        return self._url

    @property
    def port(self) -> int:
        return self._port

    def served_at(self, url: str | None) -> None:
        """Say where the routes are reached; for one mounted in another's server."""
        self._url = url

    async def start(self) -> None:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        self.install(app)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._port = runner.addresses[0][1]
        self._runner = runner
        self.served_at(f"http://{self._host}:{self._port}")

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            self.let_go()
            await runner.cleanup()
            self.served_at(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        started = threading.Event()
        failure: list[OSError] = []

        async def serve() -> None:
            self._thread_loop = asyncio.get_running_loop()
            self._thread_stop = asyncio.Event()
            try:
                await self.start()
            except OSError as error:
                failure.append(error)
                return
            finally:
                started.set()
            await self._thread_stop.wait()
            await self.stop()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name=type(self).__name__, daemon=True)
        self._thread.start()
        started.wait()
        if self._runner is None:
            self._thread.join()
            raise failure[0] if failure else RuntimeError("the emulator did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None or self._thread_loop is None or self._thread_stop is None:
            return
        self._thread_loop.call_soon_threadsafe(self._thread_stop.set)
        self._thread.join()
        self._thread = None


async def serve_until_cancelled(emulator: HttpEmulator) -> None:
    """Run `emulator` for a command line: print its address, then wait for Ctrl-C or SIGTERM."""
    async with emulator:
        print(emulator.url, flush=True)
        await asyncio.Event().wait()
