"""ArtifactService at the edge."""

from collections.abc import AsyncIterator

from coxswain.orchestrator.v1 import artifact_pb2 as pb
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.messages.artifacts import artifact_to_proto
from services.orchestrator.usecases.artifacts import Artifacts


class ArtifactServicer(ArtifactServiceServicer):
    """Files of groups' executions."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Context) -> pb.ListArtifactsResponse:
        """See the proto."""
        page = await self._artifacts.page(
            current_principal(),
            request.execution_id,
            request.page_size,
            request.page_token,
            task_name=request.task_name,
            prefix=request.name_prefix,
        )
        return pb.ListArtifactsResponse(
            artifacts=map(artifact_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.GetArtifactResponse:
        """See the proto."""
        artifact = await self._artifacts.get(current_principal(), request.execution_id, request.name, request.revision)
        return pb.GetArtifactResponse(artifact=artifact_to_proto(artifact))

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """See the proto."""
        artifact = await self._artifacts.get(current_principal(), request.execution_id, request.name, request.revision)
        first: pb.Artifact | None = artifact_to_proto(artifact)
        async for content in self._artifacts.content(artifact, request.offset):
            yield pb.DownloadArtifactResponse(artifact=first, content=content)
            first = None
        if first is not None:
            yield pb.DownloadArtifactResponse(artifact=first)
