"""What the gateway asks of each kind of source, and what a call tells the gateway while it runs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ListedTool, ToolSourceSpec


class Sources(Protocol):
    """The sources of tools that a group has, its own and those that the operator has declared for it."""

    async def by_name(self, group_id: str, name: str) -> ToolSourceSpec | None:
        """Return the source that crews of the group call by a name; None when there is none."""
        ...

    async def by_id(self, group_id: str, source_id: str) -> ToolSourceSpec | None:
        """Return the source of the group with an id; None when there is none."""
        ...


class RequestCredentials(Protocol):
    """Gives what authenticates requests of sources."""

    async def headers(self, source: ToolSourceSpec, principal: Principal, url: str) -> Mapping[str, str]:
        """Return the headers that authenticate one request to exactly the origin of `url`.

        Raises:
            CallRefused: there is no credential, or none that may be sent there.
            NotSent: who has it does not answer.
            PermissionDenied: the address has no origin.
        """
        ...

    def forget(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Get a new credential the next time, where it can be: the source has refused this one."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCallRequest:
    """One call, checked: the arguments follow the tool's schema, and the group allows it."""

    call_id: str
    """The call's identity, the same on every repetition."""
    source: ToolSourceSpec | None
    """None for a built-in tool."""
    tool: str
    arguments: dict[str, Any]
    principal: Principal
    execution_id: str
    idempotent: bool
    tool_hash: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the crew; built-in tools alone have some."""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_timeout: float = 900.0
    """Seconds after which the gateway ends the call, for sources that are told of it."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a tool made; it becomes an artifact of the execution."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned. With `is_error` the text says to the model what was wrong; else it is the result."""

    text: str
    structured: Any = None
    is_error: bool = False
    files: tuple[StoredFile, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """What a source asks a person in the middle of a call."""

    text: str
    schema: dict[str, Any] | None = None
    """Of the answer: flat, primitives only. None with a `url`."""
    url: str = ""
    key: str = ""
    """The same whenever the source asks this again, and another one for each other question of the call. Empty where
    the source has none: a question is then known by its words."""


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """What a person said: `content` when they accepted."""

    action: str
    """accept, decline or cancel."""
    content: Mapping[str, Any] = field(default_factory=dict)


class CallProgress(Protocol):
    """Where a call tells what happens to it. Each method returns when it is stored or passed on."""

    @property
    def goes_on(self) -> bool:
        """Whether a call that is cancelled is to go on at its source: only this process ends, and another will ask."""
        ...

    async def sent(self) -> None:
        """Say that the first byte may leave now: from here on the call may have taken effect.

        To be awaited before anything is sent, best as `before_send` of `EgressClient.request`: then a call whose
        connection cannot be made is known to have had no effect. Calling it again does nothing.
        """
        ...

    async def handle(self, handle: str) -> None:
        """Keep what finds the call again at its source after a crash, with no other outcome then."""
        ...

    async def progress(self, text: str, fraction: float | None = None) -> None:
        """Tell that the call goes on, which extends its time."""
        ...

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        """Ask a person and wait for the answer; one that does not come in time is "cancel".

        `durable` says that the source waits for as long as it takes, and that `resume` asks the same question again.

        Raises:
            StillAsked: the answer to a durable question does not come in time.
        """
        ...


class NotSent(Exception):
    """Nothing reached the source: the call may be made again. The text says why."""

    def __init__(self, text: str, *, reason: str = "TOOL_UNAVAILABLE", retry_after: float | None = None) -> None:
        """`reason` is an ErrorReason; `retry_after` are the seconds that the source asks for."""
        super().__init__(text)
        self.reason = reason
        self.retry_after = retry_after


class NeverSeen(NotSent):
    """The source says that it has never seen the call, so that it may be made. Raised by `resume` alone."""


class OutcomeUnknown(Exception):
    """The call may have taken effect. The text says what was seen of it."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        """`final` says that the source cannot tell and will not be able to: asking it again is of no use."""
        super().__init__(text)
        self.final = final


class CallRefused(Exception):
    """The source has answered that it did not and will not make the call (credential, limit, gone). Not repeated."""

    def __init__(self, text: str, *, reason: str) -> None:
        """`reason` is an ErrorReason."""
        super().__init__(text)
        self.reason = reason


class CredentialExpired(CallRefused):
    """The credential of whoever the call is made for has expired, and only they can renew it."""

    def __init__(self, text: str) -> None:
        super().__init__(text, reason="CREDENTIAL_EXPIRED")


class StillAsked(Exception):
    """The call waits at its source for a person's answer, and nobody waits with it here. Whoever has it resumes it."""


class BuiltinTool(Protocol):
    """A tool of the gateway's own. Cancelling the task that runs a method cancels the call as far as it can be."""

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """See `ToolAdapter.call`."""
        ...

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """See `ToolAdapter.resume`."""
        ...


BuiltinCheck = Callable[[Principal], Awaitable[object]]
"""Raises CallRefused if the group of a principal cannot use a tool now, and NotSent if that cannot be found out."""


class ToolAdapter(BuiltinTool, Protocol):
    """One kind of source. Cancelling the task that runs a method cancels the call at the source as far as it can be."""

    async def close(self) -> None:
        """Release what is kept open between calls; none runs any more."""
        ...

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """Return every tool of a source.

        Raises:
            CoxswainError: the source cannot be reached, or answers with what is no list of tools.
        """
        ...

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Make a call, once; nothing here makes it twice.

        Raises:
            NotSent, OutcomeUnknown, CallRefused, StillAsked: it has no result.
        """
        ...

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """Wait for the result of a call that another process has made. `handle` is empty when none was kept.

        Raises:
            NeverSeen: the source says that it has never seen the call.
            OutcomeUnknown: the source cannot tell, or not any more.
            NotSent, CallRefused: the source could not be asked, which says nothing of the call. With CredentialExpired
                it is asked again once the credential has been renewed.
        """
        ...
