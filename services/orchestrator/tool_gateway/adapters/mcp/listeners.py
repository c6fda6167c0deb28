"""What is done with what a server says while it works on a call."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.forms import AsksForSecret
from services.orchestrator.tool_gateway.adapters.mcp.elicitation import question_of, result_of
from services.orchestrator.tool_gateway.adapters.mcp.faults import METHOD_NOT_FOUND, MISSING_CAPABILITY, RpcError
from services.orchestrator.tool_gateway.adapters.mcp.messages import NobodyListens
from services.orchestrator.tool_gateway.ports import CallProgress, SourceAnswer

_LIST_CHANGED = "notifications/tools/list_changed"
_PROGRESS_SECONDS = 0.25
_MAX_PROGRESS_BYTES = 1024
_MAX_QUESTIONS = 20


class Watcher(NobodyListens):
    """Hears only that the list of tools has changed."""

    def __init__(self, list_changed: Callable[[], None]) -> None:
        self._list_changed = list_changed

    async def notified(self, method: str, params: dict[str, Any]) -> None:  # noqa: ARG002
        """See `Listener`."""
        if method == _LIST_CHANGED:
            self._list_changed()


class CallListener(Watcher):
    """Passes on what happens to a call."""

    def __init__(self, progress: CallProgress, list_changed: Callable[[], None], token: str) -> None:
        super().__init__(list_changed)
        self._progress = progress
        self.token = token
        """By which the server names the call when it tells of its progress."""
        self._sent = False
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._latest: tuple[str, float | None] | None = None
        self._answers: dict[str, SourceAnswer] = {}
        self._asking = asyncio.Lock()

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""
        return self._progress.goes_on

    @contextlib.asynccontextmanager
    async def passing_on(self) -> AsyncGenerator[None, None]:
        """Pass progress on at a bearable rate until the end, the last of it always."""
        passing = asyncio.create_task(self._pass_on())
        try:
            yield
            self._ended.set()
            self._news.set()
            await passing
        finally:
            passing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await passing

    async def sent(self) -> None:
        """Say, once, that the call may have taken effect from here on."""
        if not self._sent:
            self._sent = True
            await self._progress.sent()

    async def handle(self, handle: str) -> None:
        """Keep what finds the call again."""
        await self._progress.handle(handle)

    def tell(self, text: str, fraction: float | None = None) -> None:
        """Tell that the call goes on."""
        self._latest = (shown(text, _MAX_PROGRESS_BYTES), fraction)
        self._news.set()

    async def notified(self, method: str, params: dict[str, Any]) -> None:
        """See `Listener`."""
        if method == "notifications/progress":
            if params.get("progressToken") == self.token:
                text = params.get("message")
                self.tell(text if isinstance(text, str) else "", _fraction(params))
        else:
            await super().notified(method, params)

    async def asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """See `Listener`."""
        if method != "elicitation/create":
            if method != "ping":
                self.tell(f"the server asked for {method[:100]}, which is not offered")
            return await super().asked(method, params)
        return await self.answer(params)

    async def answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a person's answer to an elicitation. An equal question of the call is answered alike.

        Raises:
            RpcError: it is not a question that can be shown.
        """
        try:
            question = question_of(params)
        except AsksForSecret as secret:
            self.tell(f'the server asked for a secret in a form (field "{secret}"), which was declined')
            return result_of(SourceAnswer("decline"))
        key = json.dumps([question.text, question.schema, question.url])
        # A person is asked one thing at a time.
        async with self._asking:
            if key not in self._answers:
                if len(self._answers) >= _MAX_QUESTIONS:
                    raise RpcError(METHOD_NOT_FOUND, f"a call asks at most {_MAX_QUESTIONS} questions")
                self._answers[key] = await self._progress.ask(question)
        return result_of(self._answers[key], with_content=not question.url)

    async def answers(self, requests: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answers to what a server needs to know, one question after the other.

        Raises:
            RpcError: it asks for what is not offered: sampling, roots.
        """
        answers = {}
        for key, request in requests.items():
            request = request if isinstance(request, dict) else {}
            method, params = request.get("method"), request.get("params")
            if method != "elicitation/create":
                raise RpcError(
                    MISSING_CAPABILITY, f"the server asked for {str(method)[:100]}, which is not offered here"
                )
            answers[key] = await self.answer(params if isinstance(params, dict) else {})
        return answers

    async def _pass_on(self) -> None:
        while not self._ended.is_set():
            await self._news.wait()
            self._news.clear()
            latest, self._latest = self._latest, None
            if latest is not None:
                await self._progress.progress(*latest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_SECONDS):
                    await self._ended.wait()
        if self._latest is not None:
            await self._progress.progress(*self._latest)


def _fraction(params: Mapping[str, Any]) -> float | None:
    done, total = params.get("progress"), params.get("total")
    if isinstance(done, bool) or isinstance(total, bool):
        return None
    if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 0:
        return None
    return min(max(done / total, 0.0), 1.0)
