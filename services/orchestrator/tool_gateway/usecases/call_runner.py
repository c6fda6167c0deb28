"""Makes one call: in its turn, in its time, again only where that does no harm."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from services.common.backoff import Backoff
from services.common.circuit_breaker import Trial
from services.common.errors import CoxswainError, DeadlineExceeded, Unauthenticated, Unavailable
from services.common.storable import storable, storable_json
from services.common.tracing.spans import span
from services.orchestrator.domain.tool_outcome import Failed, Outcome, Returned, Unknown
from services.orchestrator.domain.tool_source import SourceKind, ToolSourceSpec
from services.orchestrator.tool_gateway.builtin.arguments import refuse_odd_arguments
from services.orchestrator.tool_gateway.ports import (
    BuiltinTool,
    CallRefused,
    CredentialExpired,
    NeverSeen,
    NotSent,
    OutcomeUnknown,
    StillAsked,
    StoredFile,
    ToolAdapter,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.usecases.call_progress import RunningCall
from services.orchestrator.tool_gateway.usecases.source_limits import SourceKey, SourceLimits
from services.orchestrator.tool_identity import tool_of

logger = structlog.get_logger(__name__)

_ATTEMPTS = 3
# Why nothing was sent that may be otherwise in a moment.
_PASSING = frozenset({"TOOL_UNAVAILABLE", "TOOL_RATE_LIMITED"})
_PAUSES = Backoff(0.5, 8.0)


class FileKeeper(Protocol):
    """Where the files go that tools make."""

    async def keep(self, request: ToolCallRequest, files: tuple[StoredFile, ...]) -> list[str]:
        """Store files as artifacts of the call's execution and return their ids.

        Raises:
            CoxswainError: they are too large, or cannot be stored now.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallOrder:
    """A call that is to be made, and its limits in seconds."""

    request: ToolCallRequest
    name: str
    """As crews refer to the tool."""
    timeout: float
    max_timeout: float
    grant_id: str = ""

    @property
    def source_name(self) -> str:
        """Name of its source, or of the built-in tool."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class _Step:
    """What came of an attempt, and what follows."""

    outcome: Outcome
    handle: str | None = None
    """With which to ask what has become of the call; None: make it."""
    is_final: bool = False
    pause_seconds: float = 0.0
    """Which the source asks for."""
    at_once: bool = False
    """Whether it follows without a pause, and is not counted."""


class CallRunner:
    """Makes calls through the adapter of their source, or by the gateway's own tools."""

    def __init__(
        self,
        adapters: Mapping[SourceKind, ToolAdapter],
        builtin: Mapping[str, BuiltinTool],
        limits: SourceLimits,
        *,
        max_result_bytes: int,
        files: FileKeeper,
    ) -> None:
        self._adapters = adapters
        self._builtin = builtin
        self._limits = limits
        self._max_result_bytes = max_result_bytes
        self._files = files

    def maker(self, name: str, source: ToolSourceSpec | None) -> BuiltinTool:
        """Return what makes calls of a tool, by its name as crews refer to it and its source.

        Raises:
            CallRefused: TOOL_NOT_FOUND, TOOL_DISABLED or TOOL_UNAVAILABLE.
        """
        if source is None:
            builtin = self._builtin.get(name)
            if builtin is None:
                what = f'source "{name.partition("/")[0]}" in the group' if "/" in name else f'built-in tool "{name}"'
                raise CallRefused(f"there is no {what}", reason="TOOL_NOT_FOUND")
            return builtin
        if source.disabled:
            raise CallRefused(f'the source "{source.name}" is switched off', reason="TOOL_DISABLED")
        if not source.allows(tool_of(name)):
            raise CallRefused(f'the source "{source.name}" does not allow "{tool_of(name)}"', reason="TOOL_DISABLED")
        adapter = self._adapters.get(source.kind)
        if adapter is None:
            raise CallRefused(
                f"this installation calls no sources of the kind {source.kind}", reason="TOOL_UNAVAILABLE"
            )
        return adapter

    async def make(self, order: CallOrder, call: RunningCall, *, handle: str | None = None) -> Outcome:
        """Make a call and return its outcome; with `handle`, which may be empty, find out what became of it first.

        What is raised besides CancelledError says nothing of the source, and no outcome is known then.
        """
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": order.name}
        with span(f"execute_tool {order.name}", attributes=attributes) as made:
            outcome = await self._made(order, call, handle)
            made.note("coxswain.tool.outcome", outcome.kind)
            if isinstance(outcome, Failed):
                made.fail(outcome.reason)
            return outcome

    async def _made(self, order: CallOrder, call: RunningCall, handle: str | None) -> Outcome:
        request = order.request
        key = SourceKey(request.principal.group_id, order.source_name)
        try:
            maker = self.maker(order.name, request.source)
            # One that was made follows the schema of the release that made it, which may be a newer one.
            if request.source is None and handle is None:
                refuse_odd_arguments(order.name, request.arguments)
            async with self._limits.turn(key, wait_seconds=order.timeout):
                return await self._within_rate(order, call, maker, key, handle)
        except CallRefused as refused:
            return _refused(order, call, refused, asking=handle is not None)

    async def _within_rate(
        self, order: CallOrder, call: RunningCall, maker: BuiltinTool, key: SourceKey, handle: str | None
    ) -> Outcome:
        per_minute = _calls_per_minute(order.request)
        if handle is not None or per_minute is None:
            return await self._in_time(order, call, maker, key, handle)
        async with self._limits.rate(key, per_minute):
            making = asyncio.create_task(self._in_time(order, call, maker, key, handle))
            # In its row the call is counted by its row alone.
            claimed = asyncio.create_task(call.claimed.wait())
            try:
                await asyncio.wait({making, claimed}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                making.cancel()
                await asyncio.wait({making})
                raise
            finally:
                claimed.cancel()
        return await _awaited(making)

    async def _in_time(
        self, order: CallOrder, call: RunningCall, maker: BuiltinTool, key: SourceKey, handle: str | None
    ) -> Outcome:
        try:
            async with call.time.limit():
                return await self._attempts(order, call, maker, key, handle)
        except TimeoutError:
            if not call.is_sent or order.request.idempotent:
                text = f"{order.name}: {call.time.text}"
                return Failed("TOOL_TIMEOUT", text, temporary=not call.is_sent, made=call.is_sent)
            return Unknown(f"{order.name}: {call.time.text}, so that the call may or may not have taken effect")

    async def _attempts(
        self, order: CallOrder, call: RunningCall, maker: BuiltinTool, key: SourceKey, handle: str | None
    ) -> Outcome:
        step = _Step(Unknown(""), handle)
        attempt, is_first = 1, handle is None
        may_be_made = False
        while True:
            trial = self._limits.attempt(key, first=is_first, counted=order.request.source is not None)
            is_first = False
            step = await self._attempt(order, call, maker, trial, step)
            may_be_made = may_be_made or isinstance(step.outcome, Unknown)
            if step.is_final or call.is_lost:
                return _marked(step.outcome, made=may_be_made)
            if step.at_once:
                continue
            pause = _PAUSES.pause(attempt, step.pause_seconds)
            # What has a handle is asked for as long as the call may take.
            if pause >= call.time.remaining or (attempt >= _ATTEMPTS and not step.handle):
                return _marked(_repeatable(step.outcome, order), made=may_be_made)
            attempt += 1
            await asyncio.sleep(pause)

    async def _attempt(
        self, order: CallOrder, call: RunningCall, maker: BuiltinTool, trial: Trial[SourceKey], step: _Step
    ) -> _Step:
        """Make a call, or ask what has become of it, and return what to do next."""
        request = order.request
        try:
            if step.handle is None:
                result = await maker.call(request, call)
            else:
                result = await maker.resume(request, step.handle, call)
            trial.succeeded()
            return _Step(await self._kept(order, result), is_final=True)
        except NotSent as failure:
            if step.handle is not None and not isinstance(failure, NeverSeen):
                # It could not be asked, which says nothing of the call.
                return _Step(_seen(step, order, failure), step.handle, pause_seconds=failure.retry_after or 0.0)
            outcome = Failed(failure.reason, f"{order.name}: {failure}", temporary=True)
            if failure.reason == "TOOL_UNAVAILABLE":
                trial.failed(str(failure))
            is_final = failure.reason not in _PASSING
            return _Step(outcome, is_final=is_final, pause_seconds=failure.retry_after or 0.0)
        except OutcomeUnknown as failure:
            # A source that cannot tell what became of an earlier call has not failed.
            if step.handle != "":
                trial.failed(str(failure))
            seen = _seen(step, order, failure)
            if not failure.final and (step.handle is None or call.known_handle):
                # Asking once what has become of a call is no attempt at making it.
                return _Step(seen, call.known_handle, at_once=step.handle is None)
            return _Step(seen, is_final=not request.idempotent)
        except CallRefused as refused:
            trial.succeeded()
            if isinstance(refused, CredentialExpired) and (step.handle is not None or call.known_handle):
                # It goes on at its source: whoever has a renewed credential asks for it again.
                raise Unauthenticated(str(refused), reason=refused.reason) from refused
            return _Step(_refused(order, call, refused, asking=step.handle is not None), is_final=True)
        except StillAsked:
            trial.succeeded()
            raise Unavailable(f"{order.name} waits for a person's answer; ask again for the call") from None
        except asyncio.CancelledError:
            if call.time.ran_out:
                trial.failed(call.time.text)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a source makes of an adapter, the call has an outcome
            if call.known_handle and _passes(error):
                # It goes on at its source, whatever else is away: the database, who has the credential.
                return _Step(_seen(step, order, error), call.known_handle)
            return _Step(self._fault(order, call, error), is_final=True)
        finally:
            trial.gave_up()

    def _fault(self, order: CallOrder, call: RunningCall, error: Exception) -> Outcome:
        """Return the outcome of a call that ended with what no adapter announces."""
        if isinstance(error, CoxswainError):
            reason, text, temporary = error.reason, error.message, _passes(error)
        else:
            logger.error("tool_call_failed", tool=order.name, exc_info=error)
            reason, text, temporary = "INTERNAL", "the gateway failed; its log says why", False
        if not call.is_sent or order.request.idempotent:
            return Failed(reason, f"{order.name}: {text}", temporary=temporary, made=call.is_sent)
        return Unknown(f"{order.name}: {text}; it is not known whether the call took effect")

    async def _kept(self, order: CallOrder, result: ToolResult) -> Outcome:
        text = storable(result.text)
        try:
            structured = "" if result.structured is None else _json_text(result.structured)
        except (ValueError, TypeError, RecursionError):
            structured, text = "", f"{text}\n[The structured result was left out: it is not valid JSON.]".strip()
        size = len(text.encode()) + len(structured.encode())
        if size > self._max_result_bytes:
            return Failed(
                "TOOL_RESULT_TOO_LARGE",
                f"{order.name}: the call was made, and its result of {size} bytes is larger than the "
                f"{self._max_result_bytes} that the operator allows",
                made=True,
            )
        artifacts: list[str] = []
        if result.files:
            try:
                artifacts = await self._files.keep(order.request, result.files)
            except CoxswainError as error:
                named = ", ".join(f"{file.name} ({len(file.content):,} bytes)" for file in result.files)
                text = f"{text}\n[Files were not kept: {error.message}: {named}]".strip()
        return Returned(text, structured, result.is_error, tuple(artifacts))


def _passes(error: Exception) -> bool:
    return isinstance(error, Unavailable | DeadlineExceeded)


async def _awaited(task: "asyncio.Task[Outcome]") -> Outcome:
    """Return the result of a task that ends with its waiter."""
    try:
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _refused(order: CallOrder, call: RunningCall, refused: CallRefused, *, asking: bool) -> Outcome:
    """Return the outcome of a refusal; one to say what has become of a call says nothing of the call itself."""
    if asking and not order.request.idempotent:
        return Unknown(f"{order.name}: it cannot be found out what became of the call: {refused}")
    temporary = refused.reason in ("TOOL_RATE_LIMITED", "TOOL_UNAVAILABLE") and not call.is_sent
    return Failed(refused.reason, f"{order.name}: {refused}", temporary=temporary, made=asking)


def _seen(step: _Step, order: CallOrder, failure: Exception) -> Unknown:
    """Return what is known of a call; what was seen of it says more than that nobody can tell."""
    seen = step.outcome
    return seen if isinstance(seen, Unknown) and seen.message else Unknown(f"{order.name}: {failure}")


def _repeatable(outcome: Outcome, order: CallOrder) -> Outcome:
    """Return the outcome of the last attempt; of what may be called twice it is a failure, whatever happened."""
    if isinstance(outcome, Unknown) and order.request.idempotent:
        return Failed("TOOL_UNAVAILABLE", outcome.message, temporary=True)
    return outcome


def _marked(outcome: Outcome, *, made: bool) -> Outcome:
    """Return the outcome of a call of which an attempt was `made`, or may have been."""
    return replace(outcome, made=True) if made and isinstance(outcome, Failed) else outcome


def _calls_per_minute(request: ToolCallRequest) -> int | None:
    return None if request.source is None else request.source.policy_for(request.tool).calls_per_minute


def _json_text(document: Any) -> str:
    """Return JSON whose texts are valid UTF-8 and have no U+0000, not even an escaped one.

    Raises:
        ValueError, TypeError: it holds what is no JSON, such as NaN.
        RecursionError: it is too deep.
    """
    return json.dumps(storable_json(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
