"""ToolSourceService at the edge."""

import asyncio
from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import tool_source_pb2 as pb
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.handler import Context
from services.common.resource_key import key_from_proto
from services.orchestrator.messages.tool_sources import (
    change_to_proto,
    changed_spec,
    checked_spec,
    difference_to_proto,
    source_to_proto,
)
from services.orchestrator.usecases.tool_source_changes import ToolSourceChanges
from services.orchestrator.usecases.tool_source_checks import ToolSourceChecks
from services.orchestrator.usecases.tool_sources import ToolSources


class ToolSourceServicer(ToolSourceServiceServicer):
    """Where the tools of groups come from."""

    def __init__(self, sources: ToolSources, checks: ToolSourceChecks, changes: ToolSourceChanges) -> None:
        self._sources = sources
        self._checks = checks
        self._changes = changes

    async def CreateToolSource(
        self, request: pb.CreateToolSourceRequest, context: Context
    ) -> pb.CreateToolSourceResponse:
        """See the proto."""
        principal = current_principal()
        key = request_key(principal, request)
        source = await self._sources.create(principal, *checked_spec(request.spec), key)
        return pb.CreateToolSourceResponse(source=source_to_proto(source))

    async def GetToolSource(self, request: pb.GetToolSourceRequest, context: Context) -> pb.GetToolSourceResponse:
        """See the proto."""
        source, stale_crews = await self._sources.get(current_principal(), key_from_proto(request))
        return pb.GetToolSourceResponse(source=source_to_proto(source), stale_crews=stale_crews)

    async def ListToolSources(self, request: pb.ListToolSourcesRequest, context: Context) -> pb.ListToolSourcesResponse:
        """See the proto."""
        page = await self._sources.page(current_principal(), request.page_size, request.page_token)
        return pb.ListToolSourcesResponse(
            sources=map(source_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def UpdateToolSource(
        self, request: pb.UpdateToolSourceRequest, context: Context
    ) -> pb.UpdateToolSourceResponse:
        """See the proto."""
        source = await self._sources.update(
            current_principal(),
            key_from_proto(request),
            lambda present: changed_spec(present, request.spec, request.update_mask),
            request.expected_revision,
        )
        return pb.UpdateToolSourceResponse(source=source_to_proto(source))

    async def DeleteToolSource(
        self, request: pb.DeleteToolSourceRequest, context: Context
    ) -> pb.DeleteToolSourceResponse:
        """See the proto."""
        await self._sources.delete(current_principal(), key_from_proto(request), force=request.force)
        return pb.DeleteToolSourceResponse()

    async def RefreshToolSource(
        self, request: pb.RefreshToolSourceRequest, context: Context
    ) -> pb.RefreshToolSourceResponse:
        """See the proto."""
        refreshed = await self._sources.refresh(current_principal(), key_from_proto(request))
        return pb.RefreshToolSourceResponse(
            source=source_to_proto(refreshed.source),
            changes=map(change_to_proto, refreshed.changes),
            stale_crews=refreshed.stale_crews,
        )

    async def CheckToolSource(
        self, request: pb.CheckToolSourceRequest, context: Context
    ) -> AsyncIterator[pb.CheckToolSourceResponse]:
        """See the proto."""
        async for outcome in self._checks.check(current_principal(), key_from_proto(request)):
            yield pb.CheckToolSourceResponse(
                step=enum_to_proto(pb.CheckToolSourceResponse.Step, outcome.step),
                ok=outcome.ok,
                message=outcome.message,
            )

    async def ListToolChanges(self, request: pb.ListToolChangesRequest, context: Context) -> pb.ListToolChangesResponse:
        """See the proto."""
        source, page = await self._changes.differences(
            current_principal(), key_from_proto(request), request.page_size, request.page_token
        )
        # Schemas may be large: not in the event loop.
        changes = await asyncio.to_thread(lambda: list(map(difference_to_proto, page.items)))
        return pb.ListToolChangesResponse(
            changes=changes,
            list_revision=source.list_revision,
            next_page_token=page.next_page_token,
        )

    async def AcceptToolChanges(
        self, request: pb.AcceptToolChangesRequest, context: Context
    ) -> pb.AcceptToolChangesResponse:
        """See the proto."""
        source = await self._changes.accept(
            current_principal(), key_from_proto(request), request.tools, request.list_revision
        )
        return pb.AcceptToolChangesResponse(source=source_to_proto(source))
