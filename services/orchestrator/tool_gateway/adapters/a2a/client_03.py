"""Agents that speak A2A 0.3 alone, called by the methods of 1.0."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from google.protobuf.message import Message

from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.a2a_03 import part_from_03, part_to_03
from services.orchestrator.tool_gateway.adapters.a2a.cards import VERSION_03, card_from_json
from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient, AgentStream, Answer, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError, shown

SERVICE_03 = "a2a.v1.A2AService"
METADATA_03 = {"a2a-version": "0.3"}
_STATES = {number: pb.TaskState.Value(name.replace("CANCELLED", "CANCELED")) for name, number in old.TaskState.items()}


class AgentClient03(AgentClient):
    """Calls an agent of 0.3. There is no list of tasks, so that a lost answer is an unknown outcome."""

    version = VERSION_03

    async def ask(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout: float,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """See `AgentClient`."""
        spoken = _METHODS.get(method)
        if spoken is None:
            raise UnreadableAnswer(f"A2A 0.3, which it speaks, has no method {method}")
        found = await super().ask(spoken.name, spoken.request(request), spoken.answer, timeout=timeout, before=before)
        read = await beside_if_large(found.ByteSize(), spoken.read, found)
        assert isinstance(read, answer)
        return read

    @contextlib.asynccontextmanager
    async def stream(self, method: str, request: Message, *, timeout: float) -> AsyncIterator[AgentStream]:
        """See `AgentClient`."""
        spoken = _METHODS[method]
        async with super().stream(spoken.name, spoken.request(request), timeout=timeout) as reading:
            yield reading

    def _reading(self, call: Any) -> AgentStream:
        return _Stream(call)


class _Stream(AgentStream):
    """The events of 0.3, as those of 1.0."""

    async def read(self, answer: type[Answer], *, within: float) -> Answer | None:
        """See `AgentStream`."""
        event = await super().read(old.StreamResponse, within=within)
        if event is None:
            return None
        read = await beside_if_large(event.ByteSize(), _event, event)
        assert isinstance(read, answer)
        return read


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of 0.3 in the place of one of 1.0."""

    name: str
    request: Callable[[Any], Message]
    answer: type[Message]
    read: Callable[[Any], Message]


def _name(request: pb.GetTaskRequest | pb.CancelTaskRequest | pb.SubscribeToTaskRequest) -> str:
    return f"tasks/{request.id}"


def _sending(request: pb.SendMessageRequest) -> Message:
    message = request.message
    said = old.Message(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        role=old.ROLE_USER,
        content=map(part_to_03, message.parts),
    )
    return old.SendMessageRequest(
        request=said,
        configuration=old.SendMessageConfiguration(blocking=not request.configuration.return_immediately),
        metadata=request.metadata if request.HasField("metadata") else None,
    )


def _message(message: old.Message) -> pb.Message:
    return pb.Message(
        message_id=message.message_id,
        context_id=message.context_id,
        task_id=message.task_id,
        role=pb.ROLE_USER if message.role == old.ROLE_USER else pb.ROLE_AGENT,
        parts=map(part_from_03, message.content),
    )


def _status(status: old.TaskStatus) -> pb.TaskStatus:
    return pb.TaskStatus(
        # One that is none stays a number that is none.
        state=cast("pb.TaskState", _STATES.get(status.state, status.state)),
        message=_message(status.update) if status.HasField("update") else None,
        timestamp=status.timestamp if status.HasField("timestamp") else None,
    )


def _artifact(artifact: old.Artifact) -> pb.Artifact:
    return pb.Artifact(artifact_id=artifact.artifact_id, name=artifact.name, parts=map(part_from_03, artifact.parts))


def _task(task: old.Task) -> pb.Task:
    return pb.Task(
        id=task.id,
        context_id=task.context_id,
        status=_status(task.status),
        artifacts=map(_artifact, task.artifacts),
        history=map(_message, task.history),
    )


def _sent(response: old.SendMessageResponse) -> pb.SendMessageResponse:
    match response.WhichOneof("payload"):
        case "task":
            return pb.SendMessageResponse(task=_task(response.task))
        case "msg":
            return pb.SendMessageResponse(message=_message(response.msg))
        case _:
            return pb.SendMessageResponse()


def _event(response: old.StreamResponse) -> pb.StreamResponse:
    match response.WhichOneof("payload"):
        case "task":
            return pb.StreamResponse(task=_task(response.task))
        case "status_update":
            update = response.status_update
            return pb.StreamResponse(
                status_update=pb.TaskStatusUpdateEvent(task_id=update.task_id, status=_status(update.status))
            )
        case "artifact_update":
            # That there is one is all that is read of it: the task has it in the end.
            return pb.StreamResponse(
                artifact_update=pb.TaskArtifactUpdateEvent(task_id=response.artifact_update.task_id)
            )
        case _:
            return pb.StreamResponse()


def _card(card: old.AgentCard) -> pb.AgentCard:
    named = old.AgentCard(protocol_version="0.3.0")
    named.MergeFrom(card)
    try:
        document = json_format.MessageToJson(named)
    except (json_format.Error, ValueError) as error:
        raise ForeignTextError(f"its agent card is no JSON: {shown(str(error), 200)}") from None
    return card_from_json(document)


_METHODS: Mapping[str, _Method] = {
    "SendMessage": _Method("SendMessage", _sending, old.SendMessageResponse, _sent),
    # 0 means all messages: the newest one is the least that can be asked for.
    "GetTask": _Method(
        "GetTask", lambda request: old.GetTaskRequest(name=_name(request), history_length=1), old.Task, _task
    ),
    "CancelTask": _Method("CancelTask", lambda request: old.CancelTaskRequest(name=_name(request)), old.Task, _task),
    "SubscribeToTask": _Method(
        "TaskSubscription",
        lambda request: old.TaskSubscriptionRequest(name=_name(request)),
        old.StreamResponse,
        _event,
    ),
    "GetExtendedAgentCard": _Method("GetAgentCard", lambda _: old.GetAgentCardRequest(), old.AgentCard, _card),
}
