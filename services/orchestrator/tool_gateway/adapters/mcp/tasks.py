"""Calls that a server makes as tasks: found again by their ids after any crash."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge
from services.orchestrator.tool_gateway.adapters.mcp.faults import INVALID_PARAMS, HttpRefusal, RpcError, SessionGone
from services.orchestrator.tool_gateway.adapters.mcp.listeners import CallListener
from services.orchestrator.tool_gateway.ports import CallRefused, CredentialExpired, NotSent, OutcomeUnknown

Request = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]

_DEFAULT_POLL_SECONDS = 1.0
_MIN_POLL_SECONDS = 0.1
_MAX_POLL_SECONDS = 60.0
_MAX_ID_CHARACTERS = 1024
_CANCEL_SECONDS = 10.0
_PATIENCE_SECONDS = 600.0
"""How long a server may be out of reach before its task is given up."""


def is_task(result: Mapping[str, Any]) -> bool:
    """Whether a result is a handle instead of the result itself."""
    return result.get("resultType") == "task"


def task_handle(result: Mapping[str, Any]) -> str:
    """Return what finds a task again.

    Raises:
        OutcomeUnknown: the server gives nothing that would.
    """
    task_id = result.get("taskId")
    if not isinstance(task_id, str) or not 0 < len(task_id) <= _MAX_ID_CHARACTERS:
        raise OutcomeUnknown("the server made a task of the call, without an id by which it is found")
    return json.dumps({"task": task_id})


def task_in(handle: str) -> str | None:
    """Return the id of the task in a handle, None when it is no such handle."""
    with contextlib.suppress(ValueError):
        document = json.loads(handle)
        task_id = document.get("task") if isinstance(document, dict) else None
        return task_id if isinstance(task_id, str) and task_id else None
    return None


class TaskFollower:
    """Polls one task to its end, and answers what it asks."""

    def __init__(self, request: Request, listener: CallListener) -> None:
        self._request = request
        self._listener = listener
        self._answered: set[str] = set()

    async def follow(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a task; cancelled, the task is cancelled at the server.

        Raises:
            RpcError: the task has failed. OutcomeUnknown: the server does not know it any more. AnswerTooLarge: its
                result has more bytes than are read.
        """
        task_id = str(task["taskId"])
        try:
            while True:
                if (result := await self._end_of(task_id, task)) is not None:
                    return result
                await asyncio.sleep(_poll_seconds(task))
                task = await self._get(task_id)
        except asyncio.CancelledError:
            if not self._listener.goes_on:
                await self._cancel(task_id)
            raise

    async def _end_of(self, task_id: str, task: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result that a task has, None while it goes on."""
        status = task.get("status")
        text = task.get("statusMessage")
        if status == "completed":
            result = task.get("result")
            if not isinstance(result, dict):
                raise OutcomeUnknown("the server completed the task without a result")
            return result
        if status == "failed":
            error = task.get("error")
            error = error if isinstance(error, dict) else {}
            message = error.get("message")
            # Without its code: some codes say of a call that it was not taken, and this one was.
            raise RpcError(0, message if isinstance(message, str) else "the task failed")
        if status == "cancelled":
            raise RpcError(0, "the server cancelled the task; parts of it may have taken effect")
        if status == "input_required":
            await self._answer(task_id, task.get("inputRequests"))
        elif isinstance(text, str) and text:
            self._listener.tell(text)
        return None

    async def _answer(self, task_id: str, requests: Any) -> None:
        new = (
            {key: value for key, value in requests.items() if key not in self._answered}
            if isinstance(requests, dict)
            else {}
        )
        if not new:
            return
        try:
            answers = await self._listener.answers(new)
        except RpcError:
            # It would wait for ever for what is not offered.
            await self._cancel(task_id)
            raise
        await self._patiently("tasks/update", {"taskId": task_id, "inputResponses": answers})
        self._answered |= new.keys()

    async def _get(self, task_id: str) -> dict[str, Any]:
        return await self._patiently("tasks/get", {"taskId": task_id})

    async def _patiently(self, method: str, params: Mapping[str, Any], *, final: bool = False) -> dict[str, Any]:
        """Ask until the server answers: the task goes on whether it is asked about or not.

        An error that answers a `final` question is the outcome of the task.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_SECONDS
        pause = _DEFAULT_POLL_SECONDS
        while True:
            try:
                return await self._request(method, params)
            except RpcError as error:
                if final:
                    raise RpcError(0, error.message) from error
                if error.code == INVALID_PARAMS:
                    raise OutcomeUnknown(
                        f"the server does not know the task of the call any more: {error.message}"
                    ) from error
                why: Exception = error
            except SessionGone as error:
                raise OutcomeUnknown(f"the task of the call was lost with its session: {error}") from error
            except CredentialExpired:
                raise
            except (NotSent, OutcomeUnknown, CallRefused, HttpRefusal) as error:
                why = error
            if loop.time() + pause > end:
                raise OutcomeUnknown(f"the server has not told for long what became of its task: {why}") from why
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_POLL_SECONDS)

    async def _cancel(self, task_id: str) -> None:
        with contextlib.suppress(
            RpcError, NotSent, OutcomeUnknown, CallRefused, HttpRefusal, AnswerTooLarge, TimeoutError
        ):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self._request("tasks/cancel", {"taskId": task_id})


class LegacyTaskFollower(TaskFollower):
    """Polls a task of revision 2025-11-25, whose result, and whose questions, come in answer to another request."""

    async def _end_of(self, task_id: str, task: Mapping[str, Any]) -> dict[str, Any] | None:
        status = task.get("status")
        if status in ("completed", "failed", "input_required"):
            return await self._patiently("tasks/result", {"taskId": task_id}, final=True)
        return await super()._end_of(task_id, task)


def _poll_seconds(task: Mapping[str, Any]) -> float:
    interval = task.get("pollIntervalMs", task.get("pollInterval"))
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        return _DEFAULT_POLL_SECONDS if "status" in task else 0.0
    return min(max(interval / 1000, _MIN_POLL_SECONDS), _MAX_POLL_SECONDS)
