"""Pricing and recording of what calls used."""

from dataclasses import replace
from datetime import datetime

from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.models.domain.answer import Answer
from services.models.domain.conversation import Completion
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.domain.usage import Usage, UsageRecord
from services.models.usecases.usage_recorder import UsageRecorder


class Metering:
    """Gives every call its price and has it recorded."""

    def __init__(self, recorder: UsageRecorder) -> None:
        self._recorder = recorder

    def record(self, principal: Principal, model: Model, called_at: datetime, usage: Usage) -> Usage:
        """Record what one call used, and return it with its cost."""
        priced = replace(usage, cost=model.spec.cost(usage.input_tokens, usage.output_tokens))
        self._recorder.record(
            UsageRecord(
                id=new_id(),
                group_id=principal.group_id,
                model=model.name,
                execution_id=principal.execution_id,
                called_at=called_at,
                usage=priced,
            )
        )
        return priced


def estimate_usage(completion: Completion, answer: Answer) -> Usage:
    """Return about what an answer used whose upstream does not say."""
    written = (answer.text, answer.reasoning, *(call.name + call.arguments_json for call in answer.tool_calls))
    return Usage(
        input_tokens=estimate_prompt_tokens(completion.messages),
        output_tokens=sum(map(estimate_tokens, written)),
        reasoning_tokens=estimate_tokens(answer.reasoning),
        estimated=True,
    )
