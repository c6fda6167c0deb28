"""What all ways to a server have in common: a request goes out once, and its answer comes back."""

from collections.abc import Mapping
from typing import Any, Protocol

from services.common.http import BeforeSend
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.messages import Listener


class Link(Protocol):
    """A way to one server."""

    @property
    def alive(self) -> bool:
        """Whether it may be used for another request."""
        ...

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Send what follows on behalf of this principal, with the same credential as before."""
        ...

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        listener: Listener,
        *,
        headers: Mapping[str, str] | None = None,
        before_send: BeforeSend | None = None,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """Send a request once and return its result. Cancelling it cancels it at the server.

        `before_send` is awaited before the first byte leaves. `headers` are of use over HTTP alone, and so is
        `repeatable`: where it is false the request has a connection of its own.

        Raises:
            RpcError: the server answers with an error.
            NotSent, CallRefused, HttpRefusal: the server has not acted on it.
            OutcomeUnknown: it may have. AnswerTooLarge: it has.
        """
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification; raises what `request` raises."""
        ...

    async def close(self) -> None:
        """End it, and what the server keeps for it."""
        ...
