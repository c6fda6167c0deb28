"""The adapter of tools that the operator has installed."""

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from services.common.errors import CoxswainError, FailedPrecondition, Unavailable
from services.common.identity.principal import Principal
from services.common.storable import storable
from services.orchestrator.domain.tool_source import ListedTool, PythonTools, ShareField, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.foreign import (
    MAX_SCHEMA_BYTES,
    ForeignTextError,
    parse_json,
    parse_object,
    shown,
    stored_file,
)
from services.orchestrator.tool_gateway.adapters.python.tool_process import (
    Frame,
    ProcessKey,
    ToolProcess,
    ToolProcessError,
    ToolProcesses,
    ToolProcessLimits,
    ToolProcessLost,
)
from services.orchestrator.tool_gateway.http_bodies import masked, secrets_of
from services.orchestrator.tool_gateway.pins import refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    OutcomeUnknown,
    ToolCallRequest,
    ToolResult,
)

SECRET_PREFIX = "COXSWAIN_TOOLS_SECRET_"
"""What the names of variables begin with whose values tools may ask for."""
_MAX_DESCRIPTION_BYTES = 4096
_MAX_TEXT_BYTES = 1024
_MAX_ERROR_BYTES = 4096
_MAX_NAME = 128


def tool_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that an environment has for tools, by the names that tools ask for."""
    return {
        name.removeprefix(SECRET_PREFIX): value for name, value in environment.items() if name.startswith(SECRET_PREFIX)
    }


class PythonToolsAdapter:
    """Runs installed tools in processes of their own, which have no credential but what a tool asks for by name."""

    def __init__(
        self,
        python: str,
        secrets: Mapping[str, str],
        *,
        limits: ToolProcessLimits | None = None,
        idle_seconds: float = 60.0,
        most_per_group: int = 4,
        most: int = 16,
    ) -> None:
        """`python` is the interpreter of the environment that has the tools; `secrets` are those by `tool_secrets`."""
        self._secrets = dict(secrets)
        self._limits = limits or ToolProcessLimits()
        self._processes = ToolProcesses(
            python, self._limits, idle_seconds=idle_seconds, most_per_group=most_per_group, most=most
        )

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """See the ports. The package may have been installed anew since a process was started."""
        key = _key(source, principal)
        try:
            await self._processes.renew(key)
            async with self._processes.lent(key) as process:
                return [_listed(tool) for tool in process.tools.values()]
        except ToolProcessError as error:
            raise Unavailable(f"{source.name}: {error}", reason="TOOL_UNAVAILABLE") from None
        except ForeignTextError as error:
            raise _unusable(source, error) from None

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """See the ports. What a tool raises leaves the outcome unknown, unless it is its own ToolError."""
        source = request.source
        assert source is not None
        try:
            async with self._processes.lent(_key(source, request.principal)) as process:
                frame = self._frame(request, source, process)
                await progress.sent()
                answer = await self._made(process, frame, progress)
                if answer["kind"] == "result":
                    return await asyncio.to_thread(self._result, answer, frame["secrets"])
                return self._failed(request, answer, frame["secrets"])
        except ToolProcessError as error:
            raise NotSent(f"{source.name}: {error}") from None
        except ToolProcessLost:
            raise OutcomeUnknown(
                f"{source.name}: the process that ran {request.tool} ended in the middle of the call; "
                "it may have used more memory or processor time than it may",
                final=True,
            ) from None

    async def resume(self, request: ToolCallRequest, _handle: str, _progress: CallProgress) -> ToolResult:
        """See the ports. Nothing is left of a call whose gateway is gone: its process ended with it."""
        raise OutcomeUnknown(f"{request.tool} ran in a process that ended with its gateway", final=True)

    async def close(self) -> None:
        """End all processes."""
        await self._processes.close()

    def _frame(self, request: ToolCallRequest, source: ToolSourceSpec, process: ToolProcess) -> Frame:
        tool = process.tools.get(request.tool)
        if tool is None:
            raise CallRefused(f"{source.name} has no tool {request.tool}", reason="TOOL_NOT_FOUND")
        try:
            refuse_changed(request, _listed(tool))
        except ForeignTextError as error:
            raise CallRefused(f"{source.name}: {error}", reason="TOOL_CHANGED") from None
        return {
            "kind": "call",
            "call_id": request.call_id,
            "tool": request.tool,
            "arguments": request.arguments,
            "context": _context(request, source),
            "secrets": {name: self._secret(request, name) for name in tool["needs_secrets"]},
        }

    def _secret(self, request: ToolCallRequest, name: str) -> str:
        value = self._secrets.get(name)
        if value is None:
            raise CallRefused(
                f"{request.tool} needs the secret {name}: set {SECRET_PREFIX}{name} for the tool gateway",
                reason="CREDENTIAL_NOT_CONFIGURED",
            )
        return value

    async def _made(self, process: ToolProcess, frame: Frame, progress: CallProgress) -> Frame:
        secrets = frame["secrets"]

        async def tell(sign: Frame) -> None:
            fraction = sign["fraction"]
            known = isinstance(fraction, int | float) and 0 <= fraction <= 1
            await progress.progress(
                shown(_hidden(str(sign["text"]), secrets), _MAX_TEXT_BYTES), fraction if known else None
            )

        return await process.call(frame, tell)

    def _result(self, answer: Frame, secrets: Mapping[str, str]) -> ToolResult:
        text, structured = storable(_hidden(answer["text"], secrets)), None
        if answer["structured"] is not None:
            document = _hidden(json.dumps(answer["structured"]), secrets)
            try:
                structured = parse_json(document, "the result", max_bytes=self._limits.max_bytes)
            except ForeignTextError:
                text = storable(document)
        files = tuple(
            stored_file(_hidden(file["name"], secrets), file["media_type"], base64.b64decode(file["content"]))
            for file in answer["files"]
        )
        return ToolResult(text=text, structured=structured, files=files)

    def _failed(self, request: ToolCallRequest, answer: Frame, secrets: Mapping[str, str]) -> ToolResult:
        if answer["kind"] == "too_large":
            return ToolResult(
                f"the call was made, and its result of {answer['bytes']} bytes is larger than {self._limits.max_bytes}",
                is_error=True,
            )
        # Cut only now: half a secret would not be known as one.
        text = shown(_hidden(str(answer.get("text", "")), secrets), _MAX_ERROR_BYTES)
        if answer["kind"] == "exception" and not request.idempotent:
            raise OutcomeUnknown(f"{request.tool} raised {text}", final=True)
        return ToolResult(text, is_error=True)


def _key(source: ToolSourceSpec, principal: Principal) -> ProcessKey:
    assert isinstance(source.endpoint, PythonTools)
    return ProcessKey(principal.group_id, source.endpoint.entry_point)


def _context(request: ToolCallRequest, source: ToolSourceSpec) -> dict[str, Any]:
    shared = set(source.share)
    return {
        name: value
        for share, name, value in (
            (ShareField.GROUP, "group", request.principal.group_id),
            (ShareField.SUBJECT, "subject", request.principal.subject),
            (ShareField.EXECUTION, "execution", request.execution_id),
            (ShareField.LABELS, "labels", dict(request.labels)),
        )
        if share in shared
    }


def _hidden(text: str, secrets: Mapping[str, str]) -> str:
    return masked(text, secrets_of(secrets.values()))


def _listed(tool: Frame) -> ListedTool:
    name = str(tool["name"])
    if not 0 < len(name) <= _MAX_NAME or "/" in name or not name.isprintable():
        raise ForeignTextError(
            f"the name of a tool has 1 to {_MAX_NAME} characters and no slash, and one is {name[:80]!r}"
        )
    idempotent = tool["idempotent"]
    return ListedTool(
        name=name,
        description=shown(str(tool["description"]), _MAX_DESCRIPTION_BYTES),
        arguments_schema=_schema(tool["input_schema"], f"the input schema of {name}") or {"type": "object"},
        output_schema=_schema(tool["output_schema"], f"the output schema of {name}"),
        idempotent_hint=idempotent if isinstance(idempotent, bool) else None,
    )


def _schema(schema: Any, what: str) -> dict[str, Any] | None:
    return None if schema is None else parse_object(json.dumps(schema), what, max_bytes=MAX_SCHEMA_BYTES)


def _unusable(source: ToolSourceSpec, error: ForeignTextError) -> CoxswainError:
    return FailedPrecondition(f"the tools of {source.name} cannot be used: {error}", reason="UPSTREAM_REJECTED")
