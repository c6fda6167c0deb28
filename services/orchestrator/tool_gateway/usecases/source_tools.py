"""Asks sources for their tools."""

import asyncio
from collections.abc import Mapping

from services.common.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ListedTool, SourceKind
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, Sources, ToolAdapter


class SourceTools:
    """Lists the tools of a group's sources."""

    def __init__(self, sources: Sources, adapters: Mapping[SourceKind, ToolAdapter], *, timeout_seconds: float) -> None:
        self._sources = sources
        self._adapters = adapters
        self._timeout_seconds = timeout_seconds

    async def list(self, principal: Principal, source_id: str) -> list[ListedTool]:
        """Return every tool of a source as the source lists it now.

        Raises:
            NotFound: the group has no such source.
            FailedPrecondition: this installation does not call that kind of source, or the source refuses to list.
            Unavailable, DeadlineExceeded: it does not answer.
        """
        source = await self._sources.by_id(principal.group_id, source_id)
        if source is None:
            raise NotFound.of("tool source", source_id)
        adapter = self._adapters.get(source.kind)
        if adapter is None:
            raise FailedPrecondition(
                f"this installation calls no sources of the kind {source.kind}", reason="TOOL_UNAVAILABLE"
            )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await adapter.list_tools(source, principal)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{source.name} did not list its tools within {self._timeout_seconds:g} s", reason="TOOL_TIMEOUT"
            ) from None
        except CallRefused as error:
            raise FailedPrecondition(f"{source.name}: {error}", reason=error.reason) from error
        except (NotSent, OutcomeUnknown) as error:
            raise Unavailable(f"{source.name}: {error}", reason="TOOL_UNAVAILABLE") from error
