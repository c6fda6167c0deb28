"""Asks sources for their tools."""

import asyncio
import ssl
from collections.abc import Mapping

from services.common.errors import CoxswainError, DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ListedTool, SourceKind
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, Sources, ToolAdapter


class SourceTools:
    """Lists the tools of a group's sources."""

    def __init__(
        self,
        sources: Sources,
        adapters: Mapping[SourceKind, ToolAdapter],
        credentials: SourceCredentials,
        *,
        timeout_seconds: float,
    ) -> None:
        self._sources = sources
        self._adapters = adapters
        self._credentials = credentials
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
                # Not every source is asked for its list, and lists are kept: a secret that is missing would show with
                # the first call only.
                await self._credentials.check(source, principal)
                return await adapter.list_tools(source, principal)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{source.name} did not list its tools within {self._timeout_seconds:g} s", reason="TOOL_TIMEOUT"
            ) from None
        except CallRefused as error:
            raise FailedPrecondition(f"{source.name}: {error}", reason=error.reason) from error
        except (NotSent, OutcomeUnknown) as error:
            said = f"{source.name}: {error}"
            raise Unavailable(said, reason="TOOL_UNAVAILABLE", metadata=failed_step(error)) from error
        except CoxswainError as error:
            error.metadata |= failed_step(error)
            raise


def failed_step(error: BaseException) -> dict[str, str]:
    """Return, as metadata of an error, on which step of the way to a source it came up, if its causes tell."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(one, ssl.SSLError) for one in seen):
        return {"step": "tls"}
    # Of one that gave no answer in time it is not known.
    if any(isinstance(one, OSError) and not isinstance(one, TimeoutError) for one in seen):
        return {"step": "address"}
    return {}
