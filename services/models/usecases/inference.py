"""Calls of models."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.models.domain.answer import (
    Answer,
    Delta,
    Embeddings,
    FinishDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
)
from services.models.domain.conversation import Completion, Message, MessageRole
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.domain.usage import Usage, UsageRecord
from services.models.providers.base import ModelProvider, TokenCount
from services.models.usecases.budgets import Budgets
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.usage_recorder import UsageRecorder

_FLOAT_BYTES = 4
# Room for the rest of an embeddings message.
_MESSAGE_MARGIN_BYTES = 64 * 1024


class Inference:
    """Calls models on behalf of groups. Nothing is kept between calls."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[Provider, ModelProvider],
        budgets: Budgets,
        recorder: UsageRecorder,
        *,
        default_embedding_model: str,
        max_message_bytes: int,
    ) -> None:
        """`max_message_bytes` is the largest response that can be sent."""
        self._catalogue = catalogue
        self._providers = providers
        self._budgets = budgets
        self._recorder = recorder
        self._default_embedding_model = default_embedding_model
        self._max_message_bytes = max_message_bytes

    async def complete(self, principal: Principal, completion: Completion) -> Answer:
        """Return the answer, with its usage.

        Raises:
            CoxswainError: the model is unknown, disabled, unable, over budget, or its upstream failed.
        """
        model = await self._model_for(principal, completion)
        called_at = utc_now()
        answer = await self._providers[model.spec.provider].complete(model, completion)
        usage = _priced(model, answer.usage or _estimate(completion, answer))
        self._record(principal, model, called_at, usage)
        return replace(answer, usage=usage)

    async def stream(self, principal: Principal, completion: Completion) -> AsyncGenerator[Delta, None]:
        """Yield the answer in parts; the last two are usage and finish, once each.

        A cancelled stream is counted too, with what was written until then.

        Raises:
            CoxswainError: see `complete`.
        """
        model = await self._model_for(principal, completion)
        called_at = utc_now()
        usage: Usage | None = None
        finish: FinishDelta | None = None
        written = 0
        begun = False
        try:
            async with aclosing(self._providers[model.spec.provider].stream(model, completion)) as deltas:
                async for delta in deltas:
                    begun = True
                    match delta:
                        case UsageDelta():
                            usage = delta.usage
                        case FinishDelta():
                            finish = delta
                        case TextDelta() | ReasoningDelta():
                            written += estimate_tokens(delta.text)
                            yield delta
                        case ToolCallDelta():
                            written += estimate_tokens(delta.name) + estimate_tokens(delta.arguments_json)
                            yield delta
        finally:
            if usage is None:
                usage = Usage(
                    input_tokens=estimate_prompt_tokens(completion.messages), output_tokens=written, estimated=True
                )
            usage = _priced(model, usage)
            if begun:
                self._record(principal, model, called_at, usage)
        if finish is None:
            raise Unavailable(
                f'the answer of "{model.name}" ended before its finish; try again',
                reason="UPSTREAM_BAD_RESPONSE",
                metadata={"model": model.name},
            )
        yield UsageDelta(usage)
        yield finish

    async def embed(self, principal: Principal, name: str, texts: Sequence[str]) -> tuple[Model, Embeddings]:
        """Return the model used, and a unit-length vector for each text.

        Raises:
            CoxswainError: see `complete`; also, there are more texts than one response can carry.
        """
        model = await self._catalogue.find_enabled(principal.group_id, name or self._default_embedding_model)
        if not model.spec.capabilities.embeddings:
            raise _unable(model, "embeddings", "embed texts")
        # Refused before the upstream is paid for vectors that cannot be sent.
        self._check_size(model.spec.embedding_dimension, len(texts))
        await self._budgets.admit(principal.group_id)
        called_at = utc_now()
        embeddings = await self._providers[model.spec.provider].embed(model, texts)
        usage = embeddings.usage or Usage(input_tokens=sum(map(estimate_tokens, texts)), estimated=True)
        usage = _priced(model, usage)
        self._record(principal, model, called_at, usage)
        dimension = embeddings.vectors.shape[1]
        if model.spec.embedding_dimension not in (0, dimension):
            raise FailedPrecondition(
                f'"{model.name}" is configured with embedding_dimension {model.spec.embedding_dimension}, but its '
                f"upstream returns vectors of {dimension}; correct the model, as stored vectors would not match",
                reason="EMBEDDING_MISMATCH",
                metadata={
                    "expected_model": model.name,
                    "expected_dimension": str(model.spec.embedding_dimension),
                    "actual_dimension": str(dimension),
                },
            )
        self._check_size(dimension, len(texts))
        return model, Embeddings(embeddings.vectors, usage)

    async def count_tokens(self, principal: Principal, name: str, messages: Sequence[Message]) -> TokenCount:
        """Return how many tokens a conversation has on a model.

        Raises:
            CoxswainError: the model is unknown or disabled.
        """
        model = await self._catalogue.find_enabled(principal.group_id, name)
        return await self._providers[model.spec.provider].count_tokens(model, messages)

    async def _model_for(self, principal: Principal, completion: Completion) -> Model:
        model = await self._catalogue.find_enabled(principal.group_id, completion.model)
        _check_conversation(completion)
        can = model.spec.capabilities
        if not can.chat:
            raise _unable(model, "chat", "answer conversations")
        uses_tools = completion.tools or any(
            message.tool_calls or message.role is MessageRole.TOOL for message in completion.messages
        )
        if uses_tools and not can.tools:
            raise _unable(model, "tools", "call tools")
        if completion.response_format is not None and not can.json_schema:
            raise _unable(model, "json_schema", "follow a JSON schema")
        await self._budgets.admit(principal.group_id)
        return model

    def _check_size(self, dimension: int, texts: int) -> None:
        if dimension * texts * _FLOAT_BYTES > self._max_message_bytes - _MESSAGE_MARGIN_BYTES:
            most = (self._max_message_bytes - _MESSAGE_MARGIN_BYTES) // (dimension * _FLOAT_BYTES)
            raise InvalidArgument.field(
                "texts",
                f"must be at most {most} texts, as one response holds so many vectors of {dimension} components",
            )

    def _record(self, principal: Principal, model: Model, called_at: datetime, usage: Usage) -> None:
        self._recorder.record(
            UsageRecord(
                id=new_id(),
                group_id=principal.group_id,
                model=model.name,
                execution_id=principal.execution_id,
                called_at=called_at,
                usage=usage,
            )
        )


def _check_conversation(completion: Completion) -> None:
    names = [tool.name for tool in completion.tools]
    if len(set(names)) != len(names):
        raise InvalidArgument.field("completion.tools", "must not have two tools of the same name")
    choices = ("", "auto", "none", *names, *(["required"] if names else []))
    if completion.tool_choice not in choices:
        raise InvalidArgument.field(
            "completion.tool_choice", 'must be "auto", "none", "required" or the name of one of the tools'
        )
    for index, message in enumerate(completion.messages):
        path = f"completion.messages[{index}]"
        if message.role is MessageRole.TOOL and not message.tool_call_id:
            raise InvalidArgument.field(
                f"{path}.tool_call_id",
                "has to be set in a message of a tool: the id of the call that it is the result of",
            )
        for number, call in enumerate(message.tool_calls):
            if call.provider_state and not _is_object(call.provider_state):
                raise InvalidArgument.field(
                    f"{path}.tool_calls[{number}].provider_state",
                    "hand back what the tool call of the answer held, unchanged, or leave it empty",
                )
        if message.tool_calls and message.role is not MessageRole.ASSISTANT:
            raise InvalidArgument.field(f"{path}.tool_calls", "must be empty unless the role is ASSISTANT")
        if not message.content and not message.tool_calls and message.role is not MessageRole.TOOL:
            raise InvalidArgument.field(
                f"{path}.content", "must not be empty: a message without tool calls needs content"
            )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _unable(model: Model, capability: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f'the model "{model.name}" cannot {what}; choose one whose capabilities include {capability} (see ListModels)',
        reason="MODEL_LACKS_CAPABILITY",
        metadata={"model": model.name, "capability": capability},
    )


def _priced(model: Model, usage: Usage) -> Usage:
    return replace(usage, cost=model.spec.cost(usage.input_tokens, usage.output_tokens))


def _estimate(completion: Completion, answer: Answer) -> Usage:
    written = (answer.text, answer.reasoning, *(call.name + call.arguments_json for call in answer.tool_calls))
    return Usage(
        input_tokens=estimate_prompt_tokens(completion.messages),
        output_tokens=sum(map(estimate_tokens, written)),
        reasoning_tokens=estimate_tokens(answer.reasoning),
        estimated=True,
    )
