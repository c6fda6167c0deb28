"""What both versions do with a message that is sent."""

from a2a.types import a2a_pb2 as pb

from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from services.common.grpc.call import current_call
from services.common.grpc.call_audit import record_change
from services.common.identity.principal import Principal
from services.orchestrator.domain.webhook import PayloadForm
from services.orchestrator.servicers.a2a.incoming import incoming_from_proto
from services.orchestrator.servicers.a2a.metadata import CallMetadata
from services.orchestrator.usecases.a2a.follow_ups import FollowUps
from services.orchestrator.usecases.a2a.inputs import IncomingMessage
from services.orchestrator.usecases.a2a.push_configs import PushConfigs
from services.orchestrator.usecases.a2a.tasks import A2ATasks


class Sender:
    """Gives messages to those whom they are for."""

    def __init__(self, tasks: A2ATasks, follow_ups: FollowUps, push_configs: PushConfigs) -> None:
        self._tasks = tasks
        self._follow_ups = follow_ups
        self._push_configs = push_configs

    async def send(
        self,
        principal: Principal,
        request: pb.SendMessageRequest,
        metadata: CallMetadata,
        form: PayloadForm = PayloadForm.A2A,
    ) -> str:
        """Return the id of the task that a message has begun, or was for.

        It is recorded for audit by then: what the call waits for may take hours, and this process may not outlive it.
        `form` is that of the push notifications which the request asks for.
        """
        message = incoming_from_proto(request, form)
        if message.push is not None:
            self._push_configs.refuse(message.push)
        task_id = await self._send(principal, request, message, metadata)
        if message.push is not None:
            self._push_configs.announce(task_id)
        record_change(current_call(), pb.SendMessageResponse(task=pb.Task(id=task_id)))
        return task_id

    async def _send(
        self, principal: Principal, request: pb.SendMessageRequest, message: IncomingMessage, metadata: CallMetadata
    ) -> str:
        key = metadata.request_key(principal, request)
        send = self._follow_ups.send if message.task_id else self._tasks.send
        if key is None:
            return await send(principal, request.tenant, message, None)
        try:
            if (first := await self._tasks.repeated(principal, key)) is not None:
                return first
            try:
                return await send(principal, request.tenant, message, key)
            except (FailedPrecondition, InvalidArgument):
                # A copy of the message may have been faster, and the task waits for it no more.
                if (first := await self._tasks.repeated(principal, key)) is not None:
                    return first
                raise
        except AlreadyExists:
            # The stored key is a hash of what was sent.
            raise AlreadyExists.request_id(metadata.request_id or message.message_id) from None
