"""Model answers: put together from a stream, and kept for later attempts under the hash of their request."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.orchestrator.worker.link_pb2 import Complete
from services.common.errors import FailedPrecondition
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.execution import Usage

ENVELOPE_BYTES = 4096
"""What messages hold beside a conversation, an answer or a result: names, ids, times, counts."""
_MOST_QUOTED = 300
_ROLES = {
    pb.MESSAGE_ROLE_SYSTEM: "system",
    pb.MESSAGE_ROLE_USER: "user",
    pb.MESSAGE_ROLE_ASSISTANT: "assistant",
    pb.MESSAGE_ROLE_TOOL: "tool",
}


def request_hash(completion: pb.Completion, salt: str) -> str:
    """Return what equal requests have in common; `salt` makes requests differ that only look the same.

    Answers are kept under it in the database, where the release before and the next one look them up: another hash
    for the same request would pay for it twice.
    """
    canonical = json.dumps(
        [salt, canonical_request(completion)], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode(errors="replace")).hexdigest()


def question_hash(request: Complete) -> str:
    """Return what requests have in common that put the same question to the same model, whatever they quote.

    It holds for all attempts at a task, those after a person's refusal included.
    """
    return hashlib.sha256(f"question\n{request.completion.model}\n{request.question}".encode()).hexdigest()


def canonical_request(completion: pb.Completion) -> dict[str, Any]:
    """Return a request in the form that is hashed: JSON in which only what is there is named."""
    request: dict[str, Any] = {
        "model": completion.model,
        "messages": [_canonical_message(message) for message in completion.messages],
    }
    if completion.tools:
        request["tools"] = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": from_struct("parameters_schema", tool.parameters_schema),
            }
            for tool in completion.tools
        ]
    if completion.HasField("response_format"):
        asked = completion.response_format
        request["response_format"] = {"name": asked.name, "schema": from_struct("schema", asked.schema)}
    if completion.sampling.HasField("temperature"):
        request["temperature"] = completion.sampling.temperature
    if completion.sampling.HasField("max_output_tokens"):
        request["max_output_tokens"] = completion.sampling.max_output_tokens
    if completion.sampling.reasoning_effort:
        request["reasoning_effort"] = completion.sampling.reasoning_effort
    if completion.sampling.stop:
        request["stop"] = list(completion.sampling.stop)
    return request


def _canonical_message(message: pb.Message) -> dict[str, Any]:
    document: dict[str, Any] = {"role": _ROLES.get(message.role, "user")}
    if message.content:
        document["content"] = [
            _canonical_part(part, kind) for part in message.content if (kind := part.WhichOneof("part"))
        ]
    if message.tool_calls:
        document["tool_calls"] = [_canonical_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        document["tool_call_id"] = message.tool_call_id
    return document


def _canonical_part(part: pb.ContentPart, kind: str) -> dict[str, Any]:
    """Return a part as it is hashed. Marks for a cache do not count: they change no answer."""
    value = getattr(part, kind)
    if isinstance(value, str):
        return {kind: value}
    named = {field.name: content for field, content in value.ListFields()}
    # Files are not repeated.
    return {kind: {key: _digest(content) if isinstance(content, bytes) else content for key, content in named.items()}}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical_tool_call(call: pb.ToolCall) -> dict[str, str]:
    document = {"id": call.id, "name": call.name, "arguments": call.arguments_json}
    return document | ({"provider_state": call.provider_state} if call.provider_state else {})


def fault_of(answer: "Answer", model: str, *, cut_off_counts: bool = False) -> FailedPrecondition | None:
    """Return why an agent cannot use an answer; None when it can.

    `cut_off_counts` says whether it cannot use one that ended at the largest number of tokens.
    """
    said = answer.text.strip()
    if answer.finish_reason == pb.FINISH_REASON_CONTENT_FILTER:
        words = f': "{said[:_MOST_QUOTED]}"' if said else ""
        return FailedPrecondition(
            f'the model "{model}" refused to answer, or its provider withheld the answer{words}; '
            "change what is asked, or choose another model",
            reason="MODEL_REFUSED",
            metadata={"model": model},
        )
    if cut_off_counts and answer.finish_reason == pb.FINISH_REASON_LENGTH:
        return FailedPrecondition(
            f'an answer of the model "{model}" was cut off at the largest number of tokens; ask for less, let it write '
            f'more, or choose another model. It ended with: "{said[-_MOST_QUOTED:]}"',
            reason="ANSWER_CUT_OFF",
            metadata={"model": model},
        )
    if answer.tool_calls or any(character.isprintable() and not character.isspace() for character in said):
        return None
    named = pb.FinishReason.DESCRIPTOR.values_by_number.get(answer.finish_reason)
    # A newer release may know others.
    finish = str(answer.finish_reason) if named is None else named.name.removeprefix("FINISH_REASON_")
    return FailedPrecondition(
        f'the answer of the model "{model}" is blank (finish reason {finish}); say more plainly what is asked, let it '
        "write more tokens, or choose another model",
        reason="ANSWER_BLANK",
        metadata={"model": model, "finish_reason": finish},
    )


@dataclass(slots=True)
class Answer:
    """A model's answer."""

    text: str = ""
    tool_calls: dict[int, pb.ToolCall] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    finished: bool = False
    finish_reason: pb.FinishReason.ValueType = pb.FINISH_REASON_UNSPECIFIED
    thinking: list[pb.Thinking] = field(default_factory=list)
    """What the model wants back with its tool calls."""

    def to_proto(self) -> pb.CompleteResponse:
        """Return what the crew process gets."""
        calls = [call for _, call in sorted(self.tool_calls.items())]
        return pb.CompleteResponse(
            text=self.text, tool_calls=calls, thinking=self.thinking, finish_reason=self.finish_reason
        )

    def to_bytes(self) -> bytes:
        """Return what is kept for a later attempt."""
        used = self.usage
        kept: dict[str, Any] = {
            "text": self.text,
            "tool_calls": [_canonical_tool_call(call) for _, call in sorted(self.tool_calls.items())],
            "usage": [used.input_tokens, used.output_tokens, used.cost],
        }
        if self.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
            kept["finish_reason"] = self.finish_reason
        if self.thinking:
            kept["thinking"] = [[piece.text, piece.provider_state] for piece in self.thinking]
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, kept: bytes) -> "Answer":
        """Return an answer that was kept. It costs nothing more."""
        document = json.loads(kept)
        calls = {
            index: pb.ToolCall(
                id=call["id"],
                name=call["name"],
                arguments_json=call["arguments"],
                provider_state=call.get("provider_state", ""),
            )
            for index, call in enumerate(document["tool_calls"])
        }
        # Answers that earlier releases kept have neither.
        reason: pb.FinishReason.ValueType = document.get("finish_reason", pb.FINISH_REASON_UNSPECIFIED)
        thinking = [pb.Thinking(text=text, provider_state=state) for text, state in document.get("thinking", ())]
        return cls(document["text"], calls, finished=True, finish_reason=reason, thinking=thinking)


class AnswerParts:
    """What the stream of one answer has brought so far: long answers come in hundreds of thousands of pieces."""

    def __init__(self) -> None:
        self._answer = Answer()
        self._text: list[str] = []
        self._arguments: dict[int, list[str]] = {}
        self.kept_bytes = 0
        """Of text, tool calls and what the model wants back."""
        self.reasoning_bytes = 0
        """Of reasoning, which is passed on and not kept."""

    def add(self, delta: pb.StreamCompleteResponse) -> None:
        """Add what the stream brings next."""
        answer = self._answer
        match delta.WhichOneof("delta"):
            case "text":
                self._text.append(delta.text)
                self.kept_bytes += len(delta.text.encode())
            case "reasoning":
                self.reasoning_bytes += len(delta.reasoning.encode())
            case "thinking":
                answer.thinking.append(delta.thinking)
                self.kept_bytes += delta.thinking.ByteSize()
            case "tool_call":
                more = delta.tool_call
                call = answer.tool_calls.setdefault(more.index, pb.ToolCall())
                call.id += more.id
                call.name += more.name
                call.provider_state += more.provider_state
                self._arguments.setdefault(more.index, []).append(more.arguments_json)
                said = (more.id, more.name, more.provider_state, more.arguments_json)
                self.kept_bytes += sum(len(text.encode()) for text in said)
            case "usage":
                used = delta.usage
                answer.usage = Usage(1, used.input_tokens, used.output_tokens, used.cost)
            case "finish":
                answer.finished = True
                answer.finish_reason = delta.finish.reason
            case _:
                pass

    def answer(self) -> Answer:
        """Return the answer, which is `finished` if the stream has said so."""
        self._answer.text = "".join(self._text)
        for index, pieces in self._arguments.items():
            self._answer.tool_calls[index].arguments_json = "".join(pieces)
        return self._answer


class AnswerTooLarge(FailedPrecondition):
    """An answer is given up because it has more than `most` bytes; `used` is about what it cost."""

    def __init__(self, model: str, most: int, used: Usage) -> None:
        super().__init__(
            f'an answer of the model "{model}" has more than {most:,} bytes, and no message can hold it; ask for less, '
            "let it write fewer tokens, or have the operator raise COXSWAIN_MAX_MESSAGE_BYTES",
            reason="ANSWER_TOO_LARGE",
            metadata={"model": model},
        )
        self.used = used
