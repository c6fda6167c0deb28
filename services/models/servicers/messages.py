"""Messages to domain values and back."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from google.protobuf.struct_pb2 import Struct

from coxswain.models.v1 import inference_pb2 as inference_pb
from coxswain.models.v1 import model_pb2 as model_pb
from services.common.grpc.json_values import from_struct
from services.models.domain.answer import (
    Answer,
    Delta,
    FinishDelta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
    Vectors,
)
from services.models.domain.conversation import (
    Completion,
    ContentPart,
    Message,
    MessageRole,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from services.models.domain.model import Capabilities, Model, ModelKey, ModelSpec, Provider
from services.models.domain.usage import Usage

_PROVIDERS = {
    model_pb.PROVIDER_OFFLINE: Provider.OFFLINE,
    model_pb.PROVIDER_OPENAI: Provider.OPENAI,
    model_pb.PROVIDER_DATABRICKS: Provider.DATABRICKS,
    model_pb.PROVIDER_LITELLM: Provider.LITELLM,
}
_PROVIDER_NUMBERS = {provider: number for number, provider in _PROVIDERS.items()}
_ROLES = {
    inference_pb.MESSAGE_ROLE_SYSTEM: MessageRole.SYSTEM,
    inference_pb.MESSAGE_ROLE_USER: MessageRole.USER,
    inference_pb.MESSAGE_ROLE_ASSISTANT: MessageRole.ASSISTANT,
    inference_pb.MESSAGE_ROLE_TOOL: MessageRole.TOOL,
}
_FINISH_REASONS = {
    FinishReason.STOP: inference_pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: inference_pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTENT_FILTER: inference_pb.FINISH_REASON_CONTENT_FILTER,
}
_CAPABILITIES = tuple(field.name for field in fields(Capabilities))
# Field 1, length-delimited: the packed floats of an Embedding.
_PACKED_VALUES = b"\x0a"


def spec_of(model: model_pb.Model, *, provider: Provider | None = None) -> ModelSpec:
    """Return the configuration in a message; `provider` stands in where the message names none."""
    return ModelSpec(
        name=model.name,
        description=model.description,
        provider=provider or _PROVIDERS[model.provider],
        upstream_model=model.upstream_model,
        base_url=model.base_url,
        capabilities=Capabilities(**{name: getattr(model.capabilities, name) for name in _CAPABILITIES}),
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        embedding_dimension=model.embedding_dimension,
        temperature=model.temperature if model.HasField("temperature") else None,
        input_cost_per_million_tokens=model.input_cost_per_million_tokens,
        output_cost_per_million_tokens=model.output_cost_per_million_tokens,
    )


def key_of(
    request: model_pb.GetModelRequest
    | model_pb.UpdateModelRequest
    | model_pb.DeleteModelRequest
    | model_pb.SetModelEnabledRequest,
) -> ModelKey:
    """Return which model a request means."""
    return ModelKey(id=request.id, name=request.name)


def model_message(model: Model) -> model_pb.Model:
    """Return a model as callers see it."""
    spec = model.spec
    message = model_pb.Model(
        id=model.id,
        name=spec.name,
        description=spec.description,
        provider=_PROVIDER_NUMBERS[spec.provider],
        upstream_model=spec.upstream_model,
        base_url=spec.base_url,
        capabilities=model_pb.Capabilities(**{name: getattr(spec.capabilities, name) for name in _CAPABILITIES}),
        context_window=spec.context_window,
        max_output_tokens=spec.max_output_tokens,
        embedding_dimension=spec.embedding_dimension,
        temperature=spec.temperature,
        input_cost_per_million_tokens=spec.input_cost_per_million_tokens,
        output_cost_per_million_tokens=spec.output_cost_per_million_tokens,
        enabled=model.enabled,
        shared=model.shared,
    )
    message.create_time.FromDatetime(model.created_at)
    message.update_time.FromDatetime(model.updated_at)
    return message


def completion_of(completion: inference_pb.Completion) -> Completion:
    """Return what to complete."""
    sampling = completion.sampling
    return Completion(
        model=completion.model,
        messages=messages_of(completion.messages),
        tools=tuple(
            ToolDefinition(
                tool.name,
                tool.description,
                schema_of(f"completion.tools[{index}].parameters_schema", tool.parameters_schema),
            )
            for index, tool in enumerate(completion.tools)
        ),
        tool_choice=completion.tool_choice,
        response_format=(
            ResponseFormat(
                completion.response_format.name,
                schema_of("completion.response_format.schema", completion.response_format.schema),
            )
            if completion.HasField("response_format")
            else None
        ),
        sampling=Sampling(
            temperature=sampling.temperature if sampling.HasField("temperature") else None,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            max_output_tokens=sampling.max_output_tokens if sampling.HasField("max_output_tokens") else None,
            stop=tuple(sampling.stop),
            seed=sampling.seed if sampling.HasField("seed") else None,
            reasoning_effort=sampling.reasoning_effort,
        ),
    )


def schema_of(path: str, schema: Struct) -> dict[str, Any]:
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


def messages_of(messages: Sequence[inference_pb.Message]) -> tuple[Message, ...]:
    """Return a conversation."""
    return tuple(
        Message(
            role=_ROLES[message.role],
            content=tuple(
                ContentPart(part.material, material=True)
                if part.WhichOneof("part") == "material"
                else ContentPart(part.text)
                for part in message.content
            ),
            tool_calls=tuple(ToolCall(call.id, call.name, call.arguments_json) for call in message.tool_calls),
            tool_call_id=message.tool_call_id,
        )
        for message in messages
    )


def usage_message(usage: Usage | None) -> inference_pb.Usage:
    """Return usage as callers see it."""
    usage = usage or Usage()
    return inference_pb.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cost=usage.cost,
        estimated=usage.estimated,
    )


def answer_message(answer: Answer) -> inference_pb.CompleteResponse:
    """Return a whole answer."""
    return inference_pb.CompleteResponse(
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=[
            inference_pb.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in answer.tool_calls
        ],
        finish_reason=_FINISH_REASONS[answer.finish_reason],
        usage=usage_message(answer.usage),
        upstream_model=answer.upstream_model,
    )


def delta_message(delta: Delta) -> inference_pb.StreamCompleteResponse:
    """Return one piece of an answer."""
    match delta:
        case TextDelta(text):
            return inference_pb.StreamCompleteResponse(text=text)
        case ReasoningDelta(text):
            return inference_pb.StreamCompleteResponse(reasoning=text)
        case ToolCallDelta():
            return inference_pb.StreamCompleteResponse(
                tool_call=inference_pb.ToolCallDelta(
                    index=delta.index, id=delta.id, name=delta.name, arguments_json=delta.arguments_json
                )
            )
        case UsageDelta(usage):
            return inference_pb.StreamCompleteResponse(usage=usage_message(usage))
        case FinishDelta():
            return inference_pb.StreamCompleteResponse(
                finish=inference_pb.Finish(reason=_FINISH_REASONS[delta.reason], upstream_model=delta.upstream_model)
            )


def embedding_messages(vectors: Vectors) -> list[inference_pb.Embedding]:
    """Return vectors as messages.

    They are given their bytes as a whole: number by number, the largest request would hold up the event loop for long.
    """
    head = _PACKED_VALUES + _varint(vectors.shape[1] * 4)
    rows = vectors.astype("<f4", copy=False)
    return [inference_pb.Embedding.FromString(head + row.tobytes()) for row in rows]


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
