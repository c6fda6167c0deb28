"""What both versions do with a message that is sent."""

from a2a.types import a2a_pb2 as pb

from services.common.identity.principal import Principal
from services.orchestrator.servicers.a2a.incoming import incoming_from_proto
from services.orchestrator.servicers.a2a.metadata import CallMetadata
from services.orchestrator.usecases.a2a.follow_ups import FollowUps
from services.orchestrator.usecases.a2a.tasks import A2ATasks


class Sender:
    """Gives messages to those whom they are for."""

    def __init__(self, tasks: A2ATasks, follow_ups: FollowUps) -> None:
        self._tasks = tasks
        self._follow_ups = follow_ups

    async def send(self, principal: Principal, request: pb.SendMessageRequest, metadata: CallMetadata) -> str:
        """Return the id of the task that a message has begun, or was for."""
        message = incoming_from_proto(request)
        key = metadata.request_key(principal, request)
        if key is not None and (first := await self._tasks.repeated(principal, key)) is not None:
            return first
        send = self._follow_ups.send if message.task_id else self._tasks.send
        return await send(principal, request.tenant, message, key)
