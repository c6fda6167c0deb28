"""The REST API of Databricks workspaces, as tools use it: begin something once, then ask what has become of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import aiohttp

from services.common.backoff import Backoff
from services.common.errors import PermissionDenied
from services.common.http import EgressClient, read_limited
from services.common.identity.principal import Principal
from services.orchestrator.tool_gateway.credentials import WorkspaceCredential
from services.orchestrator.tool_gateway.http_bodies import (
    BadBody,
    error_text,
    masked,
    parse_json,
)
from services.orchestrator.tool_gateway.http_statuses import check_status, parse_retry_after
from services.orchestrator.tool_gateway.ports import CallProgress, CallRefused, NotSent, OutcomeUnknown, ToolCallRequest

_ASKED_AGAIN = Backoff(1.0, 15.0)
_CANCEL_SECONDS = 10.0
_LARGE = 32 * 1024

Json = dict[str, Any]


class WorkspaceCredentials(Protocol):
    """Gives the credential of the general Databricks chain."""

    async def workspace(self, principal: Principal) -> WorkspaceCredential:
        """Return a token, and the only workspace it may be sent to.

        Raises:
            CallRefused: there is none.
            NotSent: auth does not answer.
        """
        ...


MAX_ID = 256
"""Characters of an id that a workspace gives, at most."""


def is_id(value: object) -> TypeGuard[str]:
    """Return whether a value can be an id that a workspace has given."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID


def text_of(value: object) -> str:
    """Return a value that is text, and of any other nothing."""
    return value if isinstance(value, str) else ""


class Declined(Exception):
    """The workspace understood a request and declined it; the text is its own, for the model."""


@dataclass(frozen=True, slots=True)
class PollPauses:
    """Seconds between questions about what has become of something, and how many failures in a row end them."""

    first: float = 0.5
    longest: float = 5.0
    failures: int = 10


class Workspaces:
    """Opens the workspace that a call's principal has a credential for."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: WorkspaceCredentials,
        *,
        max_result_bytes: int = 16 * 1024 * 1024,
        pauses: PollPauses | None = None,
    ) -> None:
        self._egress = egress
        self._credentials = credentials
        self._max_result_bytes = max_result_bytes
        self._pauses = pauses or PollPauses()

    async def open(self, request: ToolCallRequest) -> "Workspace":
        """Return the workspace of a call.

        Raises:
            CallRefused, NotSent: there is no credential.
        """
        credential = await self._credentials.workspace(request.principal)
        return Workspace(self._egress, credential, request, self._max_result_bytes, self._pauses)


class Workspace:
    """One workspace during one call."""

    def __init__(
        self,
        egress: EgressClient,
        credential: WorkspaceCredential,
        request: ToolCallRequest,
        max_result_bytes: int,
        pauses: PollPauses,
    ) -> None:
        self.origin = credential.origin
        self._egress = egress
        self._token = credential.token
        self._idempotent = request.idempotent
        self._max_result_bytes = max_result_bytes
        self._pauses = pauses
        self._received = 0
        self._begun = False
        """Whether something may go on at the workspace, so that a failure to ask says nothing about it."""

    @property
    def is_full(self) -> bool:
        """Whether the answers of this call hold as much as a result may."""
        return self._received > self._max_result_bytes

    async def begin(self, path: str, body: Json, progress: CallProgress) -> Json:
        """Send a request that begins something, once.

        Raises:
            Declined: the workspace will not do it.
            NotSent, OutcomeUnknown, CallRefused: see `ToolAdapter.call`.
        """
        try:
            status, retry_after, data = await self._send("POST", path, body, before_send=progress.sent)
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{self.origin} cannot be reached") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"{self.origin} was sent the request, but its answer did not arrive") from error
        if 200 <= status < 300:
            self._begun = True
            try:
                return await self._document(data)
            except BadBody as error:
                raise OutcomeUnknown(f"{self.origin} answered with HTTP {status}, but {error}") from error
        text = self._error(status, data)
        check_status(status, text, retry_after, idempotent=self._idempotent)
        raise Declined(text)

    async def ask(
        self,
        path: str,
        progress: CallProgress | None = None,
        *,
        body: Json | None = None,
        check: Callable[[Json], None] | None = None,
    ) -> Json:
        """Ask for something, as often as it takes; each answer is a sign that the call goes on.

        `check` raises `BadBody` for what is no answer to this: that counts as none.

        Raises:
            Declined: the workspace does not answer this.
            OutcomeUnknown: too many attempts in a row have failed, or the credential is refused by now.
            NotSent, CallRefused: the same, before anything has begun.
        """
        failures = 0
        while True:
            wait = 0.0
            try:
                status, retry_after, data = await self._send("GET" if body is None else "POST", path, body)
                if 200 <= status < 300:
                    found = await self._document(data)
                    if check is not None:
                        check(found)
                    if progress is not None:
                        await progress.progress("")
                    return found
                problem = self._error(status, data)
                wait = parse_retry_after(retry_after) or 0.0
                if status not in (408, 425, 429, 499) and status < 500:
                    if status not in (401, 403):
                        raise Declined(problem)
                    if self._begun:
                        raise OutcomeUnknown(f"{self.origin} refuses to say what became of it: {problem}")
                    raise CallRefused(
                        f"{self.origin} refuses the credential: {problem}", reason="UPSTREAM_CREDENTIAL_REJECTED"
                    )
            except PermissionDenied as error:
                if not self._begun:
                    raise CallRefused(error.message, reason=error.reason) from error
                problem = error.message
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problem = f"no answer ({type(error).__name__})"
            except BadBody as error:
                problem = str(error)
            failures += 1
            if failures >= self._pauses.failures:
                if not self._begun:
                    raise NotSent(f"{self.origin} does not answer: {problem}")
                raise OutcomeUnknown(f"{self.origin} does not say what became of it: {problem}")
            await asyncio.sleep(min(_ASKED_AGAIN.pause(failures, at_least=wait), max(wait, self._pauses.longest)))

    async def watch(
        self,
        path: str,
        progress: CallProgress,
        state_of: Callable[[Json], tuple[str, bool]],
        cancel: Callable[[], Awaitable[None]],
        check: Callable[[Json], None] | None = None,
    ) -> Json:
        """Ask until `state_of` says that something has ended, and cancel it when the call is cancelled meanwhile.

        `state_of` returns the name of the state and whether it is the last one. An answer without a state is none, nor
        is one that `check` raises `BadBody` for.

        Raises:
            Declined, OutcomeUnknown: see `ask`.
        """
        self._begun = True
        pause = Backoff(self._pauses.first, self._pauses.longest, factor=1.5)
        attempt, shown = 0, ""

        def check_state(answer: Json) -> None:
            if not state_of(answer)[0]:
                raise BadBody("its answer names no state")
            if check is not None:
                check(answer)

        try:
            while True:
                answer = await self.ask(path, check=check_state)
                state, ended = state_of(answer)
                if ended:
                    return answer
                attempt += 1
                await progress.progress(state if state != shown else "")
                shown = state
                await asyncio.sleep(pause.pause(attempt))
        except asyncio.CancelledError:
            if not progress.goes_on:
                await asyncio.shield(self._cancelled(cancel))
            raise

    async def tell(self, path: str, body: Json) -> None:
        """Send a request whose answer says nothing.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError: it may not have arrived.
        """
        await self._send("POST", path, body)

    async def _cancelled(self, cancel: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                await cancel()
        except (aiohttp.ClientError, OSError, TimeoutError, PermissionDenied):
            # Nobody waits any more, and the workspace ends it by its own limits.
            return

    async def _send(
        self, method: str, path: str, body: Json | None, before_send: Callable[[], Awaitable[None]] | None = None
    ) -> tuple[int, str, bytes | None]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")
        response = await self._egress.request(
            method, self.origin + path, trusted=False, data=data, headers=headers, encoded=True, before_send=before_send
        )
        async with response:
            content = await read_limited(response, self._max_result_bytes)
        self._received += len(content or b"")
        return response.status, response.headers.get("Retry-After", ""), content

    async def _document(self, data: bytes | None) -> Json:
        if data is None:
            raise BadBody(f"its answer is larger than {self._max_result_bytes} bytes")
        text = masked(data.decode("utf-8", "replace"), (self._token,))
        found = await asyncio.to_thread(parse_json, text) if len(data) > _LARGE else parse_json(text)
        if not isinstance(found, dict):
            raise BadBody("its answer is no JSON object")
        return found

    def _error(self, status: int, data: bytes | None) -> str:
        """Return an error of the workspace in its own words, without the token."""
        text = error_text(data or b"", "application/json", (self._token,))
        try:
            found = parse_json(text)
        except BadBody:
            found = None
        if isinstance(found, Mapping) and isinstance(found.get("message"), str):
            text = f"{found.get('error_code', '')}: {found['message']}"
        return f"HTTP {status} {text}".strip()
