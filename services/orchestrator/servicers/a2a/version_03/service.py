"""A2AService of version 0.3 at the edge, for clients that speak no newer one. What is different is in docs/a2a.md."""

from collections.abc import AsyncIterator

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import A2AServiceServicer
from a2a.types import a2a_pb2 as pb
from google.protobuf.empty_pb2 import Empty

from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.a2a_03 import is_final, response_to_03, task_to_03
from services.orchestrator.domain.a2a_errors import unsupported
from services.orchestrator.domain.webhook import PayloadForm
from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.metadata import VERSION_03, CallMetadata, read_metadata
from services.orchestrator.servicers.a2a.outgoing import change_to_proto, task_to_proto
from services.orchestrator.servicers.a2a.push import push_page_size
from services.orchestrator.servicers.a2a.sending import Sender
from services.orchestrator.servicers.a2a.version_03.convert import (
    card_to_03,
    history_length,
    send_request_from_03,
    task_id_of,
)
from services.orchestrator.servicers.a2a.version_03.push import config_name_parts, push_config_to_03, push_plan_from_03
from services.orchestrator.usecases.a2a.push_configs import PushConfigs
from services.orchestrator.usecases.a2a.streams import TaskStreams
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.a2a.views import TaskView

_TENANT = "tenant"


class A2AServicer03(A2AServiceServicer):
    """The crews of groups as agents, for clients of 0.3."""

    def __init__(
        self, tasks: A2ATasks, sender: Sender, streams: TaskStreams, cards: CardMaker, push_configs: PushConfigs
    ) -> None:
        self._tasks = tasks
        self._sender = sender
        self._streams = streams
        self._cards = cards
        self._push_configs = push_configs

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
    ) -> old.TaskPushNotificationConfig:
        """Have what happens to a task from now on posted to an address."""
        self._metadata(context)
        config = request.config.push_notification_config
        plan = push_plan_from_03(config, request.config_id, "config.push_notification_config")
        task_id = task_id_of(request.parent, "parent")
        return push_config_to_03(await self._push_configs.create(current_principal(), "", task_id, plan))

    async def GetTaskPushNotificationConfig(
        self, request: old.GetTaskPushNotificationConfigRequest, context: Context
    ) -> old.TaskPushNotificationConfig:
        """Return where a task's changes are posted, without credentials."""
        self._metadata(context)
        return push_config_to_03(
            await self._push_configs.get(current_principal(), "", *config_name_parts(request.name))
        )

    async def ListTaskPushNotificationConfig(
        self, request: old.ListTaskPushNotificationConfigRequest, context: Context
    ) -> old.ListTaskPushNotificationConfigResponse:
        """Return a page of the configs of a task, oldest first, without credentials."""
        self._metadata(context)
        page = await self._push_configs.page(
            current_principal(),
            "",
            task_id_of(request.parent, "parent"),
            push_page_size(request.page_size),
            request.page_token,
        )
        return old.ListTaskPushNotificationConfigResponse(
            configs=map(push_config_to_03, page.items), next_page_token=page.next_page_token
        )

    async def DeleteTaskPushNotificationConfig(
        self, request: old.DeleteTaskPushNotificationConfigRequest, context: Context
    ) -> Empty:
        """Post nothing more to an address, also of what is queued."""
        self._metadata(context)
        await self._push_configs.delete(current_principal(), "", *config_name_parts(request.name))
        return Empty()

    def _metadata(self, context: Context) -> CallMetadata:
        return read_metadata(context, self._cards.extensions, served=VERSION_03, assumed=VERSION_03)

    async def _send(self, request: old.SendMessageRequest, metadata: CallMetadata) -> str:
        named = request.metadata.fields.get(_TENANT)
        tenant = metadata.tenant or ("" if named is None else named.string_value)
        sent = send_request_from_03(request, tenant)
        return await self._sender.send(current_principal(), sent, metadata, PayloadForm.A2A_03)

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
