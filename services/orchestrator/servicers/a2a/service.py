"""A2AService of version 1.0 at the edge. What each method does here is in docs/a2a.md."""

from collections.abc import AsyncIterator

from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceServicer
from google.protobuf.empty_pb2 import Empty

from services.common.errors import InvalidArgument
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.grpc.times import optional_timestamp_from_proto
from services.orchestrator.domain.a2a_errors import unsupported
from services.orchestrator.domain.webhook import PayloadForm
from services.orchestrator.repositories.a2a_tasks import TaskFilter
from services.orchestrator.servicers.a2a.cards import CardMaker
from services.orchestrator.servicers.a2a.incoming import history_length
from services.orchestrator.servicers.a2a.metadata import VERSION, VERSION_03, CallMetadata, read_metadata
from services.orchestrator.servicers.a2a.outgoing import change_to_proto, state_from_proto, task_to_proto
from services.orchestrator.servicers.a2a.push import push_config_to_proto, push_page_size, push_plan_from_proto
from services.orchestrator.servicers.a2a.sending import Sender
from services.orchestrator.usecases.a2a.push_configs import PushConfigs
from services.orchestrator.usecases.a2a.streams import TaskStreams
from services.orchestrator.usecases.a2a.tasks import A2ATasks
from services.orchestrator.usecases.a2a.views import FollowedTask

_PAGE, _MAX_PAGE = 50, 100


class A2AServicer(A2AServiceServicer):
    """The crews of groups as agents."""

    def __init__(
        self,
        tasks: A2ATasks,
        sender: Sender,
        streams: TaskStreams,
        cards: CardMaker,
        push_configs: PushConfigs,
        *,
        assumed_version: str,
    ) -> None:
        """`assumed_version` is what callers mean that name no version; empty means 0.3, which another service has."""
        self._tasks = tasks
        self._sender = sender
        self._streams = streams
        self._cards = cards
        self._push_configs = push_configs
        self._assumed_version = assumed_version

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> pb.SendMessageResponse:
        """Begin a task, or answer what one waits for; return it when it has ended or waits."""
        metadata = self._metadata(context)
        length = history_length(request.configuration, "configuration.history_length")
        principal = current_principal()
        at_once = request.configuration.return_immediately
        task_id = await self._sender.send(principal, request, metadata)
        # What follows may take hours.
        del request
        if at_once:
            view = await self._tasks.get(principal, "", task_id, history=length)
        else:
            view = await self._tasks.settled(principal, task_id, length)
        return pb.SendMessageResponse(task=task_to_proto(view))

    async def SendStreamingMessage(
        self, request: pb.SendMessageRequest, context: Context
    ) -> AsyncIterator[pb.StreamResponse]:
        """Do what SendMessage does, and tell of the task until it ends."""
        metadata = self._metadata(context)
        length = history_length(request.configuration, "configuration.history_length")
        principal = current_principal()
        task_id = await self._sender.send(principal, request, metadata)
        view = await self._tasks.get(principal, "", task_id, history=length)
        followed, sequence = view.followed, view.sequence
        first = pb.StreamResponse(task=task_to_proto(view))
        # A stream may last for hours: it keeps neither what was sent nor what was said.
        del request, view
        yield first
        del first
        async for response in self._follow(followed, sequence):
            yield response

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.Task:
        """Return a task as it stands."""
        self._metadata(context)
        length = history_length(request, "history_length")
        view = await self._tasks.get(current_principal(), request.tenant, request.id, history=length)
        return task_to_proto(view)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """Return a page of the group's tasks, the newest status first."""
        self._metadata(context)
        length = history_length(request, "history_length")
        size = request.page_size if request.HasField("page_size") else _PAGE
        if not 1 <= size <= _MAX_PAGE:
            raise InvalidArgument.field("page_size", f"must be 1 to {_MAX_PAGE}; left out, it is {_PAGE}")
        state = state_from_proto(request.status)
        if state is None and request.status:
            raise InvalidArgument.field("status", "is not a state of A2A 1.0")
        chosen = TaskFilter(
            tenant=request.tenant,
            context_id=request.context_id,
            state=state,
            changed_since=optional_timestamp_from_proto(request, "status_timestamp_after"),
        )
        page = await self._tasks.page(
            current_principal(),
            chosen,
            size,
            request.page_token,
            results=request.include_artifacts,
            history=length,
        )
        return pb.ListTasksResponse(
            tasks=[task_to_proto(view) for view in page.tasks],
            next_page_token=page.next_page_token,
            page_size=size,
            total_size=page.total,
        )

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Context) -> pb.Task:
        """Cancel a task that has not ended."""
        self._metadata(context)
        return task_to_proto(await self._tasks.cancel(current_principal(), request.tenant, request.id))

    async def SubscribeToTask(
        self, request: pb.SubscribeToTaskRequest, context: Context
    ) -> AsyncIterator[pb.StreamResponse]:
        """Tell of a task as it stands and of what happens to it until it ends."""
        metadata = self._metadata(context)
        view = await self._tasks.get(current_principal(), request.tenant, request.id)
        after = metadata.after_sequence
        if after is not None and after > view.sequence:
            raise InvalidArgument.field("x-after-sequence", f"is beyond the newest event of the task, {view.sequence}")
        if view.state.terminal and (after is None or after == view.sequence):
            raise unsupported(f"the task is {view.state}, and nothing happens to it any more; read it with GetTask")
        followed, sequence = view.followed, view.sequence if after is None else after
        first = pb.StreamResponse(task=task_to_proto(view))
        del view
        if after is None:
            yield first
        del first
        async for response in self._follow(followed, sequence):
            yield response

    async def GetExtendedAgentCard(self, request: pb.GetExtendedAgentCardRequest, context: Context) -> pb.AgentCard:
        """Return the card of an agent."""
        self._metadata(context)
        return self._cards.extended(*await self._tasks.published(current_principal(), request.tenant))

    async def CreateTaskPushNotificationConfig(
        self, request: pb.TaskPushNotificationConfig, context: Context
    ) -> pb.TaskPushNotificationConfig:
        """Have what happens to a task from now on posted to an address."""
        self._metadata(context)
        plan = push_plan_from_proto(request, "", PayloadForm.A2A)
        made = await self._push_configs.create(current_principal(), request.tenant, request.task_id, plan)
        return push_config_to_proto(made)

    async def GetTaskPushNotificationConfig(
        self, request: pb.GetTaskPushNotificationConfigRequest, context: Context
    ) -> pb.TaskPushNotificationConfig:
        """Return where a task's changes are posted, without credentials."""
        self._metadata(context)
        return push_config_to_proto(
            await self._push_configs.get(current_principal(), request.tenant, request.task_id, request.id)
        )

    async def ListTaskPushNotificationConfigs(
        self, request: pb.ListTaskPushNotificationConfigsRequest, context: Context
    ) -> pb.ListTaskPushNotificationConfigsResponse:
        """Return a page of the configs of a task, oldest first, without credentials."""
        self._metadata(context)
        page = await self._push_configs.page(
            current_principal(), request.tenant, request.task_id, push_page_size(request.page_size), request.page_token
        )
        return pb.ListTaskPushNotificationConfigsResponse(
            configs=map(push_config_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def DeleteTaskPushNotificationConfig(
        self, request: pb.DeleteTaskPushNotificationConfigRequest, context: Context
    ) -> Empty:
        """Post nothing more to an address, also of what is queued."""
        self._metadata(context)
        await self._push_configs.delete(current_principal(), request.tenant, request.task_id, request.id)
        return Empty()

    def _metadata(self, context: Context) -> CallMetadata:
        return read_metadata(
            context, self._cards.extensions, served=VERSION, assumed=self._assumed_version or VERSION_03
        )

    async def _follow(self, task: FollowedTask | None, after: int) -> AsyncIterator[pb.StreamResponse]:
        if task is not None:
            async for change in self._streams.follow(task, after):
                yield change_to_proto(task.row, change)
