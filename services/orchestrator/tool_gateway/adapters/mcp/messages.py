"""JSON-RPC messages: how they are written, and how the answer to one is found among those that come."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from services.common.background import BackgroundTasks
from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.mcp.faults import METHOD_NOT_FOUND, HttpRefusal, RpcError
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

MAX_ERROR_BYTES = 4096
_MAX_QUESTIONS_AT_ONCE = 8
_MAX_QUESTIONS = 1000

Respond = Callable[[dict[str, Any]], Awaitable[None]]


class Listener(Protocol):
    """Who hears what a server says while it works on a request."""

    async def notified(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification; must not wait for people."""
        ...

    async def asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request of the server.

        Raises:
            RpcError: it is not granted.
        """
        ...


class NobodyListens:
    """For requests in the course of which a server has nothing to say."""

    async def notified(self, method: str, params: dict[str, Any]) -> None:
        """Ignore it."""

    async def asked(self, method: str, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Refuse all but ping."""
        if method == "ping":
            return {}
        raise RpcError(METHOD_NOT_FOUND, f"this client does not offer {method[:100]} here")


def request_message(request_id: int, method: str, params: Mapping[str, Any]) -> bytes:
    """Return a request as it is sent."""
    return encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def notification_message(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """Return a notification as it is sent."""
    return encode({"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {}))


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as it is sent. All that is not ASCII is escaped, lone surrogates included."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


def messages_in(document: Any) -> list[dict[str, Any]]:
    """Return the messages of a parsed body: one, or several (revision 2025-03-26 has batches).

    Raises:
        OutcomeUnknown: it holds something else.
    """
    found = document if isinstance(document, list) else [document]
    if not all(isinstance(message, dict) for message in found):
        raise OutcomeUnknown("the server's answer is not a JSON-RPC message")
    return found


def error_in(message: Mapping[str, Any]) -> RpcError | None:
    """Return the JSON-RPC error that a message carries, if it does."""
    error = message.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    text = error.get("message")
    return RpcError(
        code if isinstance(code, int) else 0,
        shown(text, MAX_ERROR_BYTES) if isinstance(text, str) else "no message",
        error.get("data"),
    )


def result_in(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result that an answer carries.

    Raises:
        RpcError: it carries an error instead.
        OutcomeUnknown: it carries neither.
    """
    if error := error_in(message):
        raise error
    result = message.get("result")
    if not isinstance(result, dict):
        raise OutcomeUnknown("the server's answer has neither a result nor an error")
    return result


async def answer_among(
    messages: AsyncGenerator[dict[str, Any], None], request_id: int, listener: Listener, respond: Respond
) -> dict[str, Any]:
    """Return the result of a request from what comes with it, while the listener hears the rest.

    Raises:
        RpcError: the answer is an error.
        OutcomeUnknown: no answer came.
    """
    async with contextlib.aclosing(messages), answering(listener, respond) as dispatch:
        async for message in messages:
            if "method" in message:
                await dispatch(message)
            elif message.get("id") == request_id and not isinstance(message.get("id"), bool):
                return result_in(message)
            elif message.get("id") is None and (error := error_in(message)):
                raise error
    raise OutcomeUnknown("the connection ended before an answer came")


@contextlib.asynccontextmanager
async def answering(listener: Listener, respond: Respond) -> AsyncGenerator[Respond, None]:
    """Give the function that takes a server's notifications and requests; those that wait at the end are dropped."""
    questions = BackgroundTasks()
    room = asyncio.Semaphore(_MAX_QUESTIONS_AT_ONCE)
    asked = 0

    async def answer(message: dict[str, Any], method: str, params: dict[str, Any]) -> None:
        try:
            outcome: dict[str, Any] = {"result": await listener.asked(method, params)}
        except RpcError as error:
            outcome = {"error": {"code": error.code, "message": error.message}}
        finally:
            room.release()
        # The server that does not take it goes on waiting, and its call ends with its time.
        with contextlib.suppress(NotSent, CallRefused, HttpRefusal, OutcomeUnknown):
            await respond({"jsonrpc": "2.0", "id": message["id"]} | outcome)

    async def dispatch(message: dict[str, Any]) -> None:
        nonlocal asked
        method, params = message.get("method"), message.get("params")
        if not isinstance(method, str):
            return
        params = params if isinstance(params, dict) else {}
        if "id" not in message:
            await listener.notified(method, params)
        elif isinstance(message["id"], int | str):
            # Each of them is answered: a server must not make us send without end.
            asked += 1
            if asked > _MAX_QUESTIONS:
                raise OutcomeUnknown("the server asks without end")
            await room.acquire()
            questions.start(answer(message, method, params))

    try:
        yield dispatch
    finally:
        await questions.stop()
