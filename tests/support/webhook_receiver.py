"""The receiver of webhooks: keeps what is posted to it, and answers as it is told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.child_process import free_port
from tests.support.http_emulator import Changes, Gate, HttpEmulator


@dataclass(frozen=True)
class Posted:
    """One request."""

    path: str
    headers: Mapping[str, str]
    raw: bytes
    status: int
    """What it was answered with."""

    @property
    def body(self) -> dict[str, Any]:
        """What it says."""
        document: dict[str, Any] = json.loads(self.raw)
        return document

    @property
    def event(self) -> tuple[str, int]:
        """Which event it tells of: execution and sequence."""
        return self.body["event"]["executionId"], int(self.body["event"]["sequence"])


class WebhookReceiver(HttpEmulator):
    """Answers 204, or what `statuses` says."""

    def __init__(self) -> None:
        # It may be stopped and started again, and is to be found where it was.
        super().__init__(port=free_port())
        self.changes = Changes()
        self.posted: list[Posted] = []
        self.statuses: list[int] = []
        """Of the next answers; 204 when there are none left."""
        self.headers: Mapping[str, str] = {}
        """Of answers that are not 204."""
        self.fail_each = 0
        """0, or one of so many answers is 503."""
        self.on_arrival: Callable[[dict[str, Any]], None] | None = None
        """Called with each body before anything else is done with it."""
        self.held = 0
        """How many requests the gate has held back."""
        self.gate: Gate | None = None
        """Holds back what would be answered until it is released."""
        self.body_gate: Gate | None = None
        """Holds back the ends of answers, whose heads say 200."""

    def install(self, app: web.Application) -> None:
        """See `HttpEmulator`."""
        app.router.add_route("*", "/{path:.*}", self._answer)

    def taken(self, path: str = "/") -> list[Posted]:
        """Return what was posted to a path and taken."""
        return [each for each in self.posted if each.path == path and each.status == 204]

    async def has(self, count: int, path: str = "/") -> list[Posted]:
        """Wait until so many requests were taken at a path, and return them."""
        await self.changes.wait(lambda: len(self.taken(path)) >= count)
        return self.taken(path)

    def let_go(self) -> None:
        """See `HttpEmulator`."""
        for gate in (self.gate, self.body_gate):
            if gate is not None:
                gate.release()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        if self.on_arrival is not None:
            self.on_arrival(json.loads(raw))
        status = self.statuses.pop(0) if self.statuses else 204
        if self.fail_each and (len(self.posted) + 1) % self.fail_each == 0:
            status = 503
        if self.gate is not None:
            self.held += 1
            await self.gate.hold(self.changes.notify)
        self.posted.append(Posted(request.path, dict(request.headers), raw, status))
        self.changes.notify()
        if self.body_gate is not None:
            response = web.StreamResponse()
            await response.prepare(request)
            await self.body_gate.hold(self.changes.notify)
            return response
        return web.Response(status=status, headers=None if status == 204 else self.headers)
