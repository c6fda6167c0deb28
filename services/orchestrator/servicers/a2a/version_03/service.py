"""A2AService of version 0.3 at the edge, for clients that speak no newer one. What is different is in docs/a2a.md."""

from collections.abc import AsyncIterator
from typing import NoReturn

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import A2AServiceServicer
from a2a.types import a2a_pb2 as pb

from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.domain.a2a_errors import unsupported
from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.incoming import push_not_supported
from services.orchestrator.servicers.a2a.metadata import VERSION_03, CallMetadata, read_metadata
from services.orchestrator.servicers.a2a.outgoing import change_to_proto, task_to_proto
from services.orchestrator.servicers.a2a.sending import Sender
from services.orchestrator.servicers.a2a.version_03.convert import (
    card_to_03,
    history_length,
    is_final,
    response_to_03,
    send_request_from_03,
    task_id_of,
    task_to_03,
)
from services.orchestrator.usecases.a2a.streams import TaskStreams
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.a2a.views import TaskView

_TENANT = "tenant"


class A2AServicer03(A2AServiceServicer):
    """The crews of groups as agents, for clients of 0.3."""

    def __init__(self, tasks: A2ATasks, sender: Sender, streams: TaskStreams, cards: CardMaker) -> None:
        self._tasks = tasks
        self._sender = sender
        self._streams = streams
        self._cards = cards

    async def SendMessage(self, request: old.SendMessageRequest, context: Context) -> old.SendMessageResponse:
        """Begin a task, or answer what one waits for; return it at once unless the caller blocks."""
        metadata = self._metadata(context)
        length = history_length(request.configuration.history_length)
        principal = current_principal()
        blocking = request.configuration.blocking
        task_id = await self._send(request, metadata)
        # What follows may take hours.
        del request
        if blocking:
            view = await self._tasks.settled(principal, task_id, length)
        else:
            view = await self._tasks.get(principal, "", task_id, history=length)
        return old.SendMessageResponse(task=task_to_03(task_to_proto(view)))

    async def SendStreamingMessage(
        self, request: old.SendMessageRequest, context: Context
    ) -> AsyncIterator[old.StreamResponse]:
        """Do what SendMessage does, and tell of the task until it ends or waits."""
        metadata = self._metadata(context)
        length = history_length(request.configuration.history_length)
        task_id = await self._send(request, metadata)
        del request
        async for response in self._follow(await self._tasks.get(current_principal(), "", task_id, history=length)):
            yield response

    async def GetTask(self, request: old.GetTaskRequest, context: Context) -> old.Task:
        """Return a task as it stands."""
        self._metadata(context)
        length = history_length(request.history_length)
        view = await self._tasks.get(current_principal(), "", task_id_of(request.name), history=length)
        return task_to_03(task_to_proto(view))

    async def CancelTask(self, request: old.CancelTaskRequest, context: Context) -> old.Task:
        """Cancel a task that has not ended."""
        self._metadata(context)
        return task_to_03(task_to_proto(await self._tasks.cancel(current_principal(), "", task_id_of(request.name))))

    async def TaskSubscription(
        self, request: old.TaskSubscriptionRequest, context: Context
    ) -> AsyncIterator[old.StreamResponse]:
        """Tell of a task as it stands and of what happens to it until it ends or waits."""
        self._metadata(context)
        view = await self._tasks.get(current_principal(), "", task_id_of(request.name))
        if view.state.terminal:
            raise unsupported(f"the task is {view.state}, and nothing happens to it any more; read it with GetTask")
        followed = self._follow(view)
        del view
        async for response in followed:
            yield response

    async def GetAgentCard(self, request: old.GetAgentCardRequest, context: Context) -> old.AgentCard:
        """Return the card of an agent."""
        metadata = self._metadata(context)
        publication, crew = await self._tasks.published(current_principal(), metadata.tenant)
        return card_to_03(self._cards.public(publication, crew), self._cards.tenant_extension(publication))

    async def CreateTaskPushNotificationConfig(
        self, request: old.CreateTaskPushNotificationConfigRequest, context: Context
    ) -> NoReturn:
        """Refuse: there are no push notifications."""
        self._refuse_push(context)

    async def GetTaskPushNotificationConfig(
        self, request: old.GetTaskPushNotificationConfigRequest, context: Context
    ) -> NoReturn:
        """Refuse: there are no push notifications."""
        self._refuse_push(context)

    async def ListTaskPushNotificationConfig(
        self, request: old.ListTaskPushNotificationConfigRequest, context: Context
    ) -> NoReturn:
        """Refuse: there are no push notifications."""
        self._refuse_push(context)

    async def DeleteTaskPushNotificationConfig(
        self, request: old.DeleteTaskPushNotificationConfigRequest, context: Context
    ) -> NoReturn:
        """Refuse: there are no push notifications."""
        self._refuse_push(context)

    def _metadata(self, context: Context) -> CallMetadata:
        return read_metadata(context, self._cards.extensions, served=VERSION_03, assumed=VERSION_03)

    def _refuse_push(self, context: Context) -> NoReturn:
        self._metadata(context)
        raise push_not_supported()

    async def _send(self, request: old.SendMessageRequest, metadata: CallMetadata) -> str:
        named = request.metadata.fields.get(_TENANT)
        tenant = metadata.tenant or ("" if named is None else named.string_value)
        return await self._sender.send(current_principal(), send_request_from_03(request, tenant), metadata)

    async def _follow(self, view: TaskView) -> AsyncIterator[old.StreamResponse]:
        task, sequence = view.followed, view.sequence
        first = pb.StreamResponse(task=task_to_proto(view))
        # A stream may last for hours: it does not keep what was said.
        del view
        yield response_to_03(first)
        if task is None or is_final(first):
            return
        del first
        async for change in self._streams.follow(task, sequence):
            response = change_to_proto(task.row, change)
            yield response_to_03(response)
            if is_final(response):
                return
