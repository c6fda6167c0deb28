"""Calls of models."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from functools import partial

from services.common.errors import Unavailable
from services.common.identity.principal import Principal
from services.models.domain.answer import (
    Answer,
    Delta,
    FinishDelta,
    FinishReason,
    TextDelta,
    UsageDelta,
)
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.domain.usage import Usage, completed
from services.models.providers.base import ModelProvider, TokenCount
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.completion_checks import CompletionChecks
from services.models.usecases.metering import CallMeter, Metering, WrittenTokens, estimate_usage, expected_usage
from services.models.usecases.routing import Fits, Routing
from services.models.usecases.structured_output import StreamedText, StructuredOutput, Verdict


class Inference:
    """Calls models on behalf of groups. Nothing is kept between calls."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[Provider, ModelProvider],
        checks: CompletionChecks,
        routing: Routing,
        structured: StructuredOutput,
        metering: Metering,
    ) -> None:
        self._catalogue = catalogue
        self._checks = checks
        self._routing = routing
        self._structured = structured
        self._providers = providers
        self._metering = metering

    async def complete(self, principal: Principal, completion: Completion) -> Answer:
        """Return the answer, with its usage.

        Raises:
            CoxswainError: the model is unknown, disabled, unable, over budget, or its upstream failed.
        """
        model = await self._catalogue.find_enabled(principal.group_id, completion.model)
        ask = partial(self._complete, principal, completion)
        return await self._routing.complete(principal.group_id, model, self._fits(completion), ask)

    async def _complete(
        self, principal: Principal, completion: Completion, model: Model, answer_by: float | None
    ) -> Answer:
        fitted = self._checks.fit(model, completion)
        completion = fitted.completion
        self._structured.prepare(completion)
        async with self._meter(principal, model, completion) as meter:
            answer = await self._ask(meter, model, completion, answer_by)
            if completion.response_format is not None:
                again = partial(self._ask, meter, model)
                answer = await self._structured.settle(principal.group_id, model, completion, answer, again)
        if fitted.dropped:
            answer = replace(answer, dropped_parameters=(*fitted.dropped, *answer.dropped_parameters))
        return answer

    async def _ask(
        self, meter: CallMeter, model: Model, completion: Completion, answer_by: float | None = None
    ) -> Answer:
        answer = await self._providers[model.spec.provider].complete(model, completion, answer_by)
        answer.usage = meter.used(model, completed(answer.usage, lambda: estimate_usage(completion, answer)))
        return answer

    async def stream(self, principal: Principal, completion: Completion) -> AsyncGenerator[Delta, None]:
        """Return the answer in parts; the last two are usage and finish, once each.

        A cancelled stream is counted too, with what was written until then.

        Raises:
            CoxswainError: see `complete`.
        """
        model = await self._catalogue.find_enabled(principal.group_id, completion.model)
        ask = partial(self._stream, principal, completion)
        return self._routing.stream(principal.group_id, model, self._fits(completion), ask)

    async def _stream(
        self, principal: Principal, completion: Completion, model: Model, answer_by: float | None
    ) -> AsyncGenerator[Delta, None]:
        fitted = self._checks.fit(model, completion)
        completion = fitted.completion
        self._structured.prepare(completion)
        async with self._meter(principal, model, completion) as meter:
            usage: Usage | None = None
            finish: FinishDelta | None = None
            text = StreamedText() if completion.response_format is not None else None
            written = WrittenTokens()
            begun = False
            try:
                async with aclosing(
                    self._providers[model.spec.provider].stream(model, completion, answer_by)
                ) as deltas:
                    async for delta in deltas:
                        if not begun:
                            begun = True
                            meter.first_part(model)
                        if isinstance(delta, UsageDelta):
                            usage = delta.usage
                            continue
                        if isinstance(delta, FinishDelta):
                            finish = delta
                            continue
                        written.add(delta)
                        if text is not None and isinstance(delta, TextDelta):
                            text.add(delta.text)
                        yield delta
            finally:
                usage = completed(
                    usage,
                    lambda: Usage(
                        input_tokens=estimate_prompt_tokens(completion.messages),
                        output_tokens=written.count(),
                        estimated=True,
                    ),
                )
                if begun:
                    usage = meter.used(model, usage)
            if finish is None:
                raise Unavailable(
                    f'the answer of "{model.name}" ended before its finish; try again',
                    reason="UPSTREAM_BAD_RESPONSE",
                    metadata={"model": model.name},
                )
        verdict = Verdict()
        if text is not None and finish.reason is FinishReason.STOP:
            verdict = await self._structured.judge(principal.group_id, completion, text)
        yield UsageDelta(usage)
        if fitted.dropped or verdict.violations or verdict.unchecked:
            finish = replace(
                finish,
                reason=FinishReason.SCHEMA_NOT_FOLLOWED if verdict.violations else finish.reason,
                dropped_parameters=(*fitted.dropped, *finish.dropped_parameters),
                schema_violations=verdict.violations,
                schema_unchecked=verdict.unchecked,
            )
        yield finish

    async def count_tokens(self, principal: Principal, name: str, messages: Sequence[Message]) -> TokenCount:
        """Return how many tokens a conversation has on a model: an estimate where limits forbid to ask its provider.

        Raises:
            CoxswainError: the model is unknown or disabled.
        """
        model = await self._catalogue.find_enabled(principal.group_id, name)
        may_call = partial(self._metering.allows, principal, model)
        return await self._providers[model.spec.provider].count_tokens(model, messages, may_call)

    def _meter(
        self, principal: Principal, model: Model, completion: Completion
    ) -> AbstractAsyncContextManager[CallMeter]:
        return self._metering.call(principal, model, lambda: expected_usage(model, completion), completion.labels)

    def _fits(self, completion: Completion) -> Fits:
        return lambda model: self._checks.fit(model, completion)
