"""A server, in the words of its era."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.orchestrator.tool_gateway.adapters.mcp.faults import (
    INVALID_PARAMS,
    MODERN_CODES,
    UNSUPPORTED_VERSION,
    URL_ELICITATION_REQUIRED,
    HttpRefusal,
    RpcError,
)
from services.orchestrator.tool_gateway.adapters.mcp.links import Link
from services.orchestrator.tool_gateway.adapters.mcp.listeners import CallListener
from services.orchestrator.tool_gateway.adapters.mcp.messages import Listener, NobodyListens
from services.orchestrator.tool_gateway.adapters.mcp.tasks import LegacyTaskFollower, TaskFollower, is_task, task_handle
from services.orchestrator.tool_gateway.adapters.mcp.tools import McpTool, header_value, parameter_headers
from services.orchestrator.tool_gateway.ports import CallRefused, OutcomeUnknown

MODERN_VERSIONS = ("2026-07-28",)
LEGACY_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
CLIENT_INFO = {"name": "coxswain", "version": "1"}

_ELICITATION: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
_CAPABILITIES = {**_ELICITATION, "extensions": {"io.modelcontextprotocol/tasks": {}}}
_NAMED_BY = {
    "tools/call": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_MAX_ROUNDS = 10
_MAX_STATE_BYTES = 1024 * 1024
_TASK_MILLISECONDS = 3_600_000
_PAUSE_SECONDS = 0.25
_MAX_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of a server before anything is asked of it."""

    modern: bool
    version: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)


class Peer(Protocol):
    """A server that can be asked."""

    facts: ServerFacts
    link: Link

    async def request(self, method: str, params: Mapping[str, Any], listener: Listener | None = None) -> dict[str, Any]:
        """Send a request that has no effect and return its result; raises what `Link.request` raises."""
        ...

    async def call(
        self, tool: McpTool, arguments: Mapping[str, Any], listener: CallListener, *, repeatable: bool
    ) -> dict[str, Any]:
        """Call a tool and return the result.

        Raises:
            RpcError: the server answers with an error. NotSent, CallRefused, HttpRefusal: it has not acted on it.
            OutcomeUnknown: it may have. AnswerTooLarge: it has.
        """
        ...


class ModernPeer:
    """A server of the modern era: every request says all that there is to know."""

    def __init__(self, link: Link, facts: ServerFacts) -> None:
        self.link = link
        self.facts = facts

    async def request(self, method: str, params: Mapping[str, Any], listener: Listener | None = None) -> dict[str, Any]:
        """See `Peer`."""
        return await self._request(method, params, listener or NobodyListens(), {})

    async def call(
        self, tool: McpTool, arguments: Mapping[str, Any], listener: CallListener, *, repeatable: bool
    ) -> dict[str, Any]:
        """See `Peer`. A server that asks for input has done nothing yet: asking again repeats nothing."""
        call = {"name": tool.listed.name, "arguments": arguments}
        marked = parameter_headers(tool.header_marks, arguments)
        reply: dict[str, Any] = {}
        started_over = False
        pause = _PAUSE_SECONDS
        for _ in range(_MAX_ROUNDS):
            try:
                result = await self._request(
                    "tools/call",
                    {**call, **reply},
                    listener,
                    marked,
                    call=listener,
                    repeatable=repeatable,
                )
            except RpcError as error:
                if started_over or "requestState" not in reply or not _state_is_refused(error):
                    raise
                reply, started_over = {}, True
                continue
            kind = result.get("resultType", "complete")
            if kind == "complete":
                return result
            if is_task(result):
                await listener.handle(task_handle(result))
                return await TaskFollower(self.request, listener).follow(result)
            if kind != "input_required":
                raise OutcomeUnknown(
                    f'the server answered with a result of type "{str(kind)[:100]}", which is not known here'
                )
            reply = await _reply_to(result, listener)
            if "inputResponses" not in reply:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_SECONDS)
        raise CallRefused(f"the server asked for input {_MAX_ROUNDS} times without a result", reason="TOOL_UNAVAILABLE")

    async def resume(self, task_id: str, listener: CallListener) -> dict[str, Any]:
        """Return the result of a call that was made as a task; raises what `call` raises."""
        return await TaskFollower(self.request, listener).follow({"taskId": task_id})

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any],
        listener: Listener,
        headers: Mapping[str, str],
        *,
        call: CallListener | None = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": self.facts.version,
            "io.modelcontextprotocol/clientInfo": CLIENT_INFO,
            "io.modelcontextprotocol/clientCapabilities": _CAPABILITIES,
        }
        if call is not None:
            meta["progressToken"] = call.token
        sent = {"MCP-Protocol-Version": self.facts.version, "Mcp-Method": method}
        if method in _NAMED_BY:
            sent["Mcp-Name"] = header_value(str(params[_NAMED_BY[method]]))
        return await self.link.request(
            method,
            {**params, "_meta": meta},
            listener,
            headers={**sent, **headers},
            before_send=None if call is None else call.sent,
            repeatable=repeatable,
        )


def _state_is_refused(error: RpcError) -> bool:
    """Whether a server does not accept its own state any more, and so has not acted on the call."""
    reason = error.data.get("reason") if isinstance(error.data, dict) else ""
    return error.code == INVALID_PARAMS and "state" in f"{error.message} {reason}".lower()


async def _reply_to(result: Mapping[str, Any], listener: CallListener) -> dict[str, Any]:
    """Return what goes with the call when it is sent again: the answers, and the server's state as it came."""
    reply: dict[str, Any] = {}
    state = result.get("requestState")
    if isinstance(state, str):
        if len(state) > _MAX_STATE_BYTES:
            raise CallRefused(f"the server's state has more than {_MAX_STATE_BYTES} bytes", reason="TOOL_UNAVAILABLE")
        reply["requestState"] = state
    requests = result.get("inputRequests")
    if isinstance(requests, dict) and requests:
        reply["inputResponses"] = await listener.answers(requests)
    if not reply:
        raise CallRefused("the server asked for input without saying which", reason="TOOL_UNAVAILABLE")
    return reply


class LegacyPeer:
    """A server of the legacy era, after the handshake."""

    def __init__(self, link: Link, facts: ServerFacts) -> None:
        self.link = link
        self.facts = facts

    async def request(self, method: str, params: Mapping[str, Any], listener: Listener | None = None) -> dict[str, Any]:
        """See `Peer`."""
        return await self.link.request(method, params, listener or NobodyListens())

    async def call(
        self, tool: McpTool, arguments: Mapping[str, Any], listener: CallListener, *, repeatable: bool
    ) -> dict[str, Any]:
        """See `Peer`."""
        params: dict[str, Any] = {
            "name": tool.listed.name,
            "arguments": arguments,
            "_meta": {"progressToken": listener.token},
        }
        if tool.task_required:
            params["task"] = {"ttl": _TASK_MILLISECONDS}
        for _ in range(_MAX_ROUNDS):
            try:
                result = await self.link.request(
                    "tools/call", params, listener, before_send=listener.sent, repeatable=repeatable
                )
            except RpcError as error:
                if error.code != URL_ELICITATION_REQUIRED or not await _visited(error.data, listener):
                    raise
            else:
                return await self._end_of(result, listener) if tool.task_required else result
        raise CallRefused(f"the server asked for input {_MAX_ROUNDS} times without a result", reason="TOOL_UNAVAILABLE")

    async def _end_of(self, result: dict[str, Any], listener: CallListener) -> dict[str, Any]:
        """Return the result of a call that was made as a task, which no other session finds."""
        task = result.get("task")
        if not isinstance(task, dict):
            return result
        task_handle(task)

        async def ask(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            return await self.request(method, params, listener)

        return await LegacyTaskFollower(ask, listener).follow(task)


async def _visited(data: Any, listener: CallListener) -> bool:
    """Ask a person to visit the addresses that a call needs first; whether they did."""
    elicitations = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(elicitations, list) or not elicitations:
        return False
    for params in elicitations:
        answer = await listener.answer({**params, "mode": "url"} if isinstance(params, dict) else {"mode": "url"})
        if answer["action"] != "accept":
            return False
    return True


async def handshake(link: Link, version: str = LEGACY_VERSIONS[0]) -> ServerFacts:
    """Begin a session of the legacy era and return what the server says of itself.

    Raises:
        RpcError, NotSent, CallRefused, HttpRefusal, OutcomeUnknown: there is no session.
    """
    result = await link.request(
        "initialize",
        {"protocolVersion": version, "capabilities": _ELICITATION, "clientInfo": CLIENT_INFO},
        NobodyListens(),
    )
    agreed = result.get("protocolVersion")
    if agreed not in LEGACY_VERSIONS:
        raise CallRefused(
            f"the server speaks a revision of MCP that is not known here: {json.dumps(agreed)[:50]}",
            reason="TOOL_UNAVAILABLE",
        )
    capabilities = result.get("capabilities")
    return ServerFacts(False, str(agreed), capabilities if isinstance(capabilities, dict) else {})


async def discover(link: Link, version: str = MODERN_VERSIONS[0]) -> ServerFacts | None:
    """Return what a server of the modern era says of itself; None from one of the legacy era.

    Raises:
        NotSent, CallRefused, OutcomeUnknown: it says nothing.
    """
    try:
        result = await ModernPeer(link, ServerFacts(True, version)).request("server/discover", {})
    except HttpRefusal as refusal:
        return _era_of(refusal.error)
    except RpcError as error:
        return _era_of(error)
    capabilities = result.get("capabilities")
    return _common_version(result.get("supportedVersions"), capabilities if isinstance(capabilities, dict) else {})


def _era_of(error: RpcError | None) -> ServerFacts | None:
    if error is None or error.code not in MODERN_CODES:
        return None
    if error.code != UNSUPPORTED_VERSION:
        return ServerFacts(True, MODERN_VERSIONS[0])
    return _common_version(error.data.get("supported") if isinstance(error.data, dict) else None, {})


def _common_version(versions: Any, capabilities: Mapping[str, Any]) -> ServerFacts | None:
    """Return the facts of a server by the revisions that it names; None when all of them are of the legacy era."""
    named = [version for version in versions if isinstance(version, str)] if isinstance(versions, list) else []
    for version in MODERN_VERSIONS:
        if version in named:
            return ServerFacts(True, version, capabilities)
    if not named or any(version in LEGACY_VERSIONS for version in named):
        return None
    raise CallRefused(
        f"the server speaks only revisions of MCP that are not known here: {', '.join(named)[:200]}",
        reason="TOOL_UNAVAILABLE",
    )
