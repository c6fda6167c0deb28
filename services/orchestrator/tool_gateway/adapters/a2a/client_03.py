"""Agents that speak A2A 0.3 alone, called by the methods of 1.0."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format
from google.protobuf.message import Message

from services.orchestrator.a2a_03 import TENANT_KEY, message_from_03, message_to_03, response_from_03, task_from_03
from services.orchestrator.tool_gateway.adapters.a2a.cards import VERSION_03, card_from_json
from services.orchestrator.tool_gateway.adapters.a2a.client import Dialect, Spoken, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError, shown


class Dialect03(Dialect):
    """A2A 0.3. There is no list of tasks, so that a lost answer is an unknown outcome."""

    version = VERSION_03
    service = "a2a.v1.A2AService"

    def metadata(self, tenant: str) -> dict[str, str]:
        """See `Dialect`."""
        return {"a2a-version": "0.3"} | ({TENANT_KEY: tenant} if tenant else {})

    def spoken(self, method: str, request: Message, answer: type[Message]) -> Spoken:  # noqa: ARG002 - it has its own
        """See `Dialect`."""
        known = _METHODS.get(method)
        if known is None:
            raise UnreadableAnswer(f"A2A 0.3, which it speaks, has no method {method}")
        return Spoken(known.name, known.request(request), known.answer, known.read)


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
    return old.SendMessageRequest(
        request=message_to_03(request.message),
        configuration=old.SendMessageConfiguration(blocking=not request.configuration.return_immediately),
        metadata=request.metadata if request.HasField("metadata") else None,
    )


def _sent(response: old.SendMessageResponse) -> pb.SendMessageResponse:
    match response.WhichOneof("payload"):
        case "task":
            return pb.SendMessageResponse(task=task_from_03(response.task))
        case "msg":
            return pb.SendMessageResponse(message=message_from_03(response.msg))
        case _:
            return pb.SendMessageResponse()


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
        "GetTask", lambda request: old.GetTaskRequest(name=_name(request), history_length=1), old.Task, task_from_03
    ),
    "CancelTask": _Method(
        "CancelTask", lambda request: old.CancelTaskRequest(name=_name(request)), old.Task, task_from_03
    ),
    "SubscribeToTask": _Method(
        "TaskSubscription",
        lambda request: old.TaskSubscriptionRequest(name=_name(request)),
        old.StreamResponse,
        response_from_03,
    ),
    "GetExtendedAgentCard": _Method("GetAgentCard", lambda _: old.GetAgentCardRequest(), old.AgentCard, _card),
}
