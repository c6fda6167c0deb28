"""Model calls: what crew processes say in JSON, and what the models service says in messages."""

import hashlib
import json
from dataclasses import dataclass, field

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.execution import Usage
from services.orchestrator.worker.link.framing import Frame

_ROLES = {
    "system": pb.MESSAGE_ROLE_SYSTEM,
    "developer": pb.MESSAGE_ROLE_SYSTEM,
    "user": pb.MESSAGE_ROLE_USER,
    "assistant": pb.MESSAGE_ROLE_ASSISTANT,
    "tool": pb.MESSAGE_ROLE_TOOL,
    "function": pb.MESSAGE_ROLE_TOOL,
}


def request_hash(request: Frame, salt: str) -> str:
    """Return what equal requests have in common; `salt` tells apart what only looks the same."""
    canonical = json.dumps([salt, request], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "replace")).hexdigest()


def completion(request: Frame) -> pb.Completion:
    """Return the message of a request."""
    message = pb.Completion(
        model=request["model"],
        messages=[_message(said) for said in request["messages"]],
        tools=[
            pb.ToolDefinition(
                name=tool["name"], description=tool["description"], parameters_schema=to_struct(tool["parameters"])
            )
            for tool in request.get("tools", ())
        ],
    )
    wanted = request.get("response_format")
    if wanted is not None:
        message.response_format.name = wanted["name"]
        message.response_format.schema.CopyFrom(to_struct(wanted["schema"]))
    if "temperature" in request:
        message.sampling.temperature = request["temperature"]
    return message


def _message(said: Frame) -> pb.Message:
    return pb.Message(
        role=_ROLES.get(said["role"], pb.MESSAGE_ROLE_USER),
        content=[pb.ContentPart(**part) for part in said.get("content", ())],
        tool_calls=[
            pb.ToolCall(id=call["id"], name=call["name"], arguments_json=call["arguments"])
            for call in said.get("tool_calls", ())
        ],
        tool_call_id=said.get("tool_call_id", ""),
    )


@dataclass(slots=True)
class Answer:
    """A model's answer, as it is put together from its pieces."""

    text: str = ""
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    finished: bool = False

    def take(self, delta: pb.StreamCompleteResponse) -> None:
        """Add a piece."""
        match delta.WhichOneof("delta"):
            case "text":
                self.text += delta.text
            case "tool_call":
                piece = delta.tool_call
                call = self.tool_calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id
                call["name"] += piece.name
                call["arguments"] += piece.arguments_json
            case "usage":
                used = delta.usage
                self.usage = Usage(1, used.input_tokens, used.output_tokens, used.cost)
            case "finish":
                self.finished = True
            case _:
                pass

    def as_json(self) -> Frame:
        """Return what the crew process is told."""
        return {"text": self.text, "tool_calls": [call for _, call in sorted(self.tool_calls.items())]}

    def to_bytes(self) -> bytes:
        """Return what is kept for a later attempt."""
        used = self.usage
        kept = self.as_json() | {"usage": [used.input_tokens, used.output_tokens, used.cost]}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, kept: bytes) -> "Answer":
        """Return an answer that was kept. It costs nothing more."""
        document = json.loads(kept)
        return cls(document["text"], dict(enumerate(document["tool_calls"])), finished=True)
