"""Conversations, answers and vectors."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct

from coxswain.models.v1 import inference_pb2 as pb
from services.common.db.idempotency import request_hash
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.json_values import from_struct
from services.models.domain.answer import (
    Answer,
    Delta,
    Embeddings,
    FinishDelta,
    ReasoningDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    UsageDelta,
)
from services.models.domain.conversation import (
    USUAL_SAMPLING,
    Audio,
    Completion,
    ContentPart,
    Document,
    Image,
    Message,
    MessageRole,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolCall,
    ToolDefinition,
)
from services.models.domain.model import Model
from services.models.domain.usage import Usage
from services.models.usecases.stored_answers import Reuse

# Field 1, length-delimited: the packed floats of an Embedding.
_PACKED_VALUES = b"\x0a"


def completion_from_proto(completion: pb.Completion) -> Completion:
    """Return what to complete."""
    return Completion(
        model=completion.model,
        messages=messages_from_proto(completion.messages),
        tools=tuple(
            ToolDefinition(
                tool.name,
                tool.description,
                _schema_from_proto(f"completion.tools[{index}].parameters_schema", tool.parameters_schema),
            )
            for index, tool in enumerate(completion.tools)
        ),
        tool_choice=completion.tool_choice,
        response_format=(
            ResponseFormat(
                completion.response_format.name,
                _schema_from_proto("completion.response_format.schema", completion.response_format.schema),
            )
            if completion.HasField("response_format")
            else None
        ),
        sampling=_sampling_from_proto(completion.sampling) if completion.HasField("sampling") else USUAL_SAMPLING,
        extra_parameters=(
            from_struct("completion.extra_parameters", completion.extra_parameters)
            if completion.HasField("extra_parameters")
            else {}
        ),
        parallel_tool_calls=completion.parallel_tool_calls if completion.HasField("parallel_tool_calls") else None,
        drop_unsupported_parameters=completion.drop_unsupported_parameters,
        labels=dict(completion.labels) if completion.labels else {},
    )


def _sampling_from_proto(sampling: pb.Sampling) -> Sampling:
    return Sampling(
        temperature=sampling.temperature if sampling.HasField("temperature") else None,
        top_p=sampling.top_p if sampling.HasField("top_p") else None,
        max_output_tokens=sampling.max_output_tokens if sampling.HasField("max_output_tokens") else None,
        stop=tuple(sampling.stop),
        seed=sampling.seed if sampling.HasField("seed") else None,
        reasoning_effort=sampling.reasoning_effort,
        thinking_budget_tokens=(
            sampling.thinking_budget_tokens if sampling.HasField("thinking_budget_tokens") else None
        ),
    )


def _schema_from_proto(path: str, schema: Struct) -> dict[str, Any]:
    """Return a JSON schema; each object's properties stand in the order of its `required`, then by name.

    A Struct keeps no order, but models write the properties of an answer in the order of its schema, and equal prompts
    have to be equal letter by letter to be found in an upstream's cache.

    Raises:
        InvalidArgument: a number is not finite; the violation's field begins with `path`.
    """
    ordered: dict[str, Any] = _ordered(from_struct(path, schema))
    return ordered


def _ordered(value: Any, first: Sequence[Any] = ()) -> Any:
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, dict):
        return value
    rank = {str(name): position for position, name in enumerate(first)}
    required = value.get("required")
    properties_first = required if isinstance(required, list) else ()
    return {
        name: _ordered(value[name], properties_first if name == "properties" else ())
        for name in sorted(value, key=lambda name: (rank.get(name, len(rank)), name))
    }


def messages_from_proto(messages: Sequence[pb.Message]) -> tuple[Message, ...]:
    """Return the messages of a conversation."""
    return tuple(
        Message(
            role=enum_from_proto(MessageRole, pb.MessageRole, message.role),
            content=tuple(map(_part_from_proto, message.content)),
            tool_calls=tuple(map(_call_from_proto, message.tool_calls)),
            tool_call_id=message.tool_call_id,
        )
        for message in messages
    )


def _call_from_proto(call: pb.ToolCall) -> ToolCall:
    return ToolCall(call.id, call.name, call.arguments_json, call.provider_state)


def _part_from_proto(part: pb.ContentPart) -> ContentPart:
    other: Image | Document | Audio | Thinking
    match part.WhichOneof("part"):
        case "image":
            image = part.image
            other = Image(image.data, image.url, image.media_type, image.detail)
        case "document":
            other = Document(part.document.data, part.document.media_type, part.document.file_name)
        case "audio":
            other = Audio(part.audio.data, part.audio.format)
        case "thinking":
            other = Thinking(part.thinking.text, part.thinking.provider_state)
        case "material":
            return ContentPart(part.material, material=True, cache_mark=part.cache_mark)
        case _:
            return ContentPart(part.text, cache_mark=part.cache_mark)
    return ContentPart(other=other, cache_mark=part.cache_mark)


def _thinking_to_proto(thinking: Thinking) -> pb.Thinking:
    return pb.Thinking(text=thinking.text, provider_state=thinking.provider_state)


def reuse_from_proto(request: pb.CompleteRequest | pb.StreamCompleteRequest) -> Reuse:
    """Return which earlier answer may serve a request."""
    max_age = request.max_cached_age.ToTimedelta() if request.HasField("max_cached_age") else None
    # Only those who need it pay for reading the whole conversation once more.
    digest = _answer_digest(request.completion) if request.request_id or max_age is not None else ""
    return Reuse(digest, request.request_id, max_age)


def _answer_digest(completion: pb.Completion) -> str:
    """Return what requests for the same answer have in common: labels do not change it."""
    return request_hash(completion, "labels") if completion.labels else request_hash(completion)


def usage_to_proto(usage: Usage | None) -> pb.Usage:
    """Return usage as callers see it."""
    usage = usage or Usage()
    return pb.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cost=usage.cost,
        estimated=usage.estimated,
        cache_write_input_tokens=usage.cache_write_input_tokens,
    )


def answer_to_proto(answer: Answer) -> pb.CompleteResponse:
    """Return a whole answer."""
    return pb.CompleteResponse(
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=[
            pb.ToolCall(
                id=call.id, name=call.name, arguments_json=call.arguments_json, provider_state=call.provider_state
            )
            for call in answer.tool_calls
        ],
        finish_reason=enum_to_proto(pb.FinishReason, answer.finish_reason),
        usage=usage_to_proto(answer.usage),
        upstream_model=answer.upstream_model,
        dropped_parameters=answer.dropped_parameters,
        thinking=map(_thinking_to_proto, answer.thinking),
        answered_by=answer.answered_by,
        stored=answer.stored,
        schema_unchecked=answer.schema_unchecked,
    )


def delta_to_proto(delta: Delta) -> pb.StreamCompleteResponse:
    """Return one part of an answer."""
    match delta:
        case TextDelta(text):
            return pb.StreamCompleteResponse(text=text)
        case ReasoningDelta(text):
            return pb.StreamCompleteResponse(reasoning=text)
        case ThinkingDelta(thinking):
            return pb.StreamCompleteResponse(thinking=_thinking_to_proto(thinking))
        case ToolCallDelta():
            return pb.StreamCompleteResponse(
                tool_call=pb.ToolCallDelta(
                    index=delta.index,
                    id=delta.id,
                    name=delta.name,
                    arguments_json=delta.arguments_json,
                    provider_state=delta.provider_state,
                )
            )
        case UsageDelta(usage):
            return pb.StreamCompleteResponse(usage=usage_to_proto(usage))
        case FinishDelta():
            return pb.StreamCompleteResponse(
                finish=pb.Finish(
                    reason=enum_to_proto(pb.FinishReason, delta.reason),
                    upstream_model=delta.upstream_model,
                    dropped_parameters=delta.dropped_parameters,
                    schema_violations=delta.schema_violations,
                    answered_by=delta.answered_by,
                    stored=delta.stored,
                    schema_unchecked=delta.schema_unchecked,
                )
            )


def embeddings_to_proto(model: Model, embeddings: Embeddings) -> pb.EmbedResponse:
    """Return vectors with the model that made them.

    Each vector is given its bytes as a whole: number by number, the largest request would block the event loop.
    """
    dimension = embeddings.vectors.shape[1]
    head = _PACKED_VALUES + _varint(dimension * 4)
    rows = embeddings.vectors.astype("<f4", copy=False)
    return pb.EmbedResponse(
        embeddings=[pb.Embedding.FromString(head + row.tobytes()) for row in rows],
        model=model.name,
        dimension=dimension,
        usage=usage_to_proto(embeddings.usage),
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
