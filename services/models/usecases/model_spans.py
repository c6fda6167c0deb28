"""What traces show of a model call, by OpenTelemetry's conventions for generative AI: no prompt, and no answer."""

from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

from services.common.tracing.spans import Span, SpanKind, Value, span
from services.models.domain.model import Model, Provider
from services.models.domain.usage import Usage

Operation: TypeAlias = Literal["chat", "embeddings"]

# Where the convention's name is not ours.
_PROVIDERS = {Provider.AZURE: "azure.ai.openai"}


def model_span(operation: Operation, model: Model) -> AbstractContextManager[Span]:
    """Record the block as a call of a model."""
    provider = model.spec.provider
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider.value),
        "gen_ai.request.model": model.spec.upstream_name,
        "coxswain.model": model.name,
    }
    return span(f"{operation} {model.spec.upstream_name}", SpanKind.CLIENT, attributes)


class UsedTokens:
    """Sums what the answers of one call have used, and shows it."""

    def __init__(self) -> None:
        self.span: Span | None = None
        """Of the call, once it is admitted."""
        self._input = self._output = 0

    def add(self, place: Model, usage: Usage) -> None:
        """Take note of one more answer, and of the deployment that has given it."""
        if self.span is None:
            return
        self._input += usage.input_tokens
        self._output += usage.output_tokens
        self.span.note("gen_ai.response.model", place.spec.upstream_name)
        self.span.note("gen_ai.usage.input_tokens", self._input)
        self.span.note("gen_ai.usage.output_tokens", self._output)
