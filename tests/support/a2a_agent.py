"""An agent of A2A 1.0 over real gRPC whose tasks do what a test says, well or oddly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc, conversions, types
from a2a.compat.v0_3.proto_utils import FromProto, ToProto
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc

from services.orchestrator.domain.tool_source import A2AAgent, SourceKind, ToolSourceSpec

Send = Callable[["EmulatedAgent", pb.SendMessageRequest, Any], Awaitable[pb.SendMessageResponse]]
_TERMINAL = {"COMPLETED", "FAILED", "CANCELED", "REJECTED"}


class EmulatedAgent(a2a_pb2_grpc.A2AServiceServicer):
    """Keeps tasks, and moves them as a test says; `send` replaces what a message does."""

    def __init__(self, *, send: Send | None = None, streaming: bool = True, **card: Any) -> None:
        """`card` are fields of its card."""
        self._send = send or becomes("WORKING")
        self.streaming = streaming
        fields: dict[str, Any] = {
            "name": "Partner",
            "description": "Briefs you.",
            "version": "1",
            "default_input_modes": ["text/plain", "application/json"],
            "default_output_modes": ["text/plain"],
            "skills": [pb.AgentSkill(id="brief", name="Brief", description="Briefs you on a topic.")],
            "capabilities": pb.AgentCapabilities(streaming=streaming, extended_agent_card=True),
        }
        self.card = pb.AgentCard(**fields | card)
        self.card_03: old.AgentCard | None = None
        """The card for callers of 0.3; None: what `card` says."""
        self.tasks: dict[str, pb.Task] = {}
        self.messages: list[pb.Message] = []
        self.requests: list[Any] = []
        self.cancelled: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.events: list[pb.StreamResponse] = []
        """Sent to whoever subscribes, before what happens."""
        self.hidden: set[str] = set()
        """Ids of tasks that lists leave out."""
        self.refusals: dict[str, grpc.StatusCode] = {}
        """Statuses that methods answer with, by their names."""
        self._moved = asyncio.Event()

    @property
    def first(self) -> pb.Task:
        """The task of the first message."""
        return next(iter(self.tasks.values()))

    def move(self, task_id: str, state: str | int, *parts: pb.Part, artifacts: Sequence[pb.Artifact] = ()) -> pb.Task:
        """Bring a task into a state, with the parts of a status message and with artifacts."""
        task = self.tasks[task_id]
        number = pb.TaskState.Value(f"TASK_STATE_{state}") if isinstance(state, str) else state
        task.status.Clear()
        task.status.state = cast("pb.TaskState", number)
        task.status.timestamp.GetCurrentTime()
        if parts:
            task.status.message.MergeFrom(
                pb.Message(message_id=f"said-{len(self.messages)}", role=pb.ROLE_AGENT, parts=parts)
            )
        task.artifacts.extend(artifacts)
        self.move_on()
        return task

    def move_on(self) -> None:
        """Tell whoever waits that tasks were changed."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def seen(self, count: int) -> None:
        """Wait until so many messages have come."""
        while len(self.messages) < count:
            await self._moved.wait()

    async def SendMessage(self, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        await self._arrived("SendMessage", request, context)
        self.messages.append(request.message)
        if not request.message.task_id:
            task = pb.Task(id=f"task-{len(self.tasks) + 1}", context_id="context-1", history=[request.message])
            self.tasks[task.id] = task
            self.move(task.id, "SUBMITTED")
        else:
            self.tasks[request.message.task_id].history.append(request.message)
            self.move(request.message.task_id, "WORKING")
        return await self._send(self, request, context)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.Task:
        await self._arrived("GetTask", request, context)
        return await self._task(request.id, context)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        await self._arrived("ListTasks", request, context)
        return pb.ListTasksResponse(tasks=[task for task in self.tasks.values() if task.id not in self.hidden])

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Any) -> pb.Task:
        await self._arrived("CancelTask", request, context)
        task = await self._task(request.id, context)
        self.cancelled.append(request.id)
        if _name(task) not in _TERMINAL:
            self.move(task.id, "CANCELED")
        return task

    async def SubscribeToTask(self, request: pb.SubscribeToTaskRequest, context: Any) -> AsyncIterator[Any]:
        await self._arrived("SubscribeToTask", request, context)
        task = await self._task(request.id, context)
        for event in self.events:
            yield event
        while _name(task) not in _TERMINAL:
            moved = self._moved
            yield pb.StreamResponse(
                status_update=pb.TaskStatusUpdateEvent(task_id=task.id, context_id=task.context_id, status=task.status)
            )
            await moved.wait()

    async def GetExtendedAgentCard(self, request: pb.GetExtendedAgentCardRequest, context: Any) -> pb.AgentCard:
        await self._arrived("GetExtendedAgentCard", request, context)
        return self.card

    async def _arrived(self, method: str, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if method in self.refusals:
            await context.abort(self.refusals[method], f"{method} is refused here")

    async def _task(self, task_id: str, context: Any) -> pb.Task:
        if task_id not in self.tasks:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such task")
        return self.tasks[task_id]


class AgentOf03(a2a_v0_3_pb2_grpc.A2AServiceServicer):
    """The same agent for callers of 0.3, whose messages the a2a package makes and reads."""

    def __init__(self, agent: EmulatedAgent) -> None:
        self._agent = agent

    async def SendMessage(self, request: old.SendMessageRequest, context: Any) -> old.SendMessageResponse:
        sent = types.SendMessageRequest(id=0, params=FromProto.message_send_params(request))
        response = await self._agent.SendMessage(conversions.to_core_send_message_request(sent), context)
        return old.SendMessageResponse(task=_task_of_03(response.task))

    async def GetTask(self, request: old.GetTaskRequest, context: Any) -> old.Task:
        task_id = FromProto.task_query_params(request).id
        return _task_of_03(await self._agent.GetTask(pb.GetTaskRequest(id=task_id), context))

    async def CancelTask(self, request: old.CancelTaskRequest, context: Any) -> old.Task:
        task_id = FromProto.task_id_params(request).id
        return _task_of_03(await self._agent.CancelTask(pb.CancelTaskRequest(id=task_id), context))

    async def TaskSubscription(self, request: old.TaskSubscriptionRequest, context: Any) -> AsyncIterator[Any]:
        wanted = pb.SubscribeToTaskRequest(id=FromProto.task_id_params(request).id)
        async for event in self._agent.SubscribeToTask(wanted, context):
            made = ToProto.stream_response(conversions.to_compat_stream_response(event).result)
            yield made
            if made.status_update.final:
                return

    async def GetAgentCard(self, request: old.GetAgentCardRequest, context: Any) -> old.AgentCard:
        card = await self._agent.GetExtendedAgentCard(pb.GetExtendedAgentCardRequest(), context)
        if self._agent.card_03 is not None:
            return self._agent.card_03
        shown = pb.AgentCard()
        shown.CopyFrom(card)
        shown.supported_interfaces.add(url="127.0.0.1:1", protocol_binding="GRPC", protocol_version="0.3.0")
        return ToProto.agent_card(conversions.to_compat_agent_card(shown))


def _task_of_03(task: pb.Task) -> old.Task:
    return ToProto.task(conversions.to_compat_task(task))


def becomes(state: str | int, *parts: pb.Part, artifacts: Sequence[pb.Artifact] = ()) -> Send:
    """Make a task of each message that is in a state at once."""

    async def send(agent: EmulatedAgent, request: pb.SendMessageRequest, context: Any) -> pb.SendMessageResponse:
        task_id = request.message.task_id or f"task-{len(agent.tasks)}"
        return pb.SendMessageResponse(task=agent.move(task_id, state, *parts, artifacts=artifacts))

    return send


def text(words: str) -> pb.Part:
    return pb.Part(text=words)


def artifact(*parts: pb.Part, name: str = "result") -> pb.Artifact:
    return pb.Artifact(artifact_id=name, name=name, parts=parts)


def _name(task: pb.Task) -> str:
    return pb.TaskState.Name(task.status.state).removeprefix("TASK_STATE_") if task.status.state < 9 else ""


@contextlib.asynccontextmanager
async def served(agent: EmulatedAgent, *, directory: Path | None = None, speaks_03: bool = False) -> AsyncIterator[int]:
    """Serve an agent and give its port; with a directory, over TLS with the certificate in it."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", 64 * 1024 * 1024)])
    if speaks_03:
        cast("Any", a2a_v0_3_pb2_grpc.add_A2AServiceServicer_to_server)(AgentOf03(agent), server)
    else:
        cast("Any", a2a_pb2_grpc.add_A2AServiceServicer_to_server)(agent, server)
    if directory is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = ((directory / "tls.key").read_bytes(), (directory / "tls.pem").read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=None)


def agent_source(address: str = "", *, plaintext: bool = True, **fields: Any) -> ToolSourceSpec:
    """Return a source of the kind A2A; `card_url` and `tenant` are the endpoint's."""
    endpoint = {name: fields.pop(name) for name in ("card_url", "tenant") if name in fields}
    return ToolSourceSpec(
        name=fields.pop("name", "partner"),
        kind=SourceKind.A2A,
        endpoint=A2AAgent(address=address, plaintext=plaintext, **endpoint),
        **fields,
    )
