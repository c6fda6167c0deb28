"""Pricing and recording of what calls used."""

import functools
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from prometheus_client import Counter, Histogram

from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.models.domain.answer import Answer, Delta, ReasoningDelta, TextDelta, ToolCallDelta
from services.models.domain.conversation import Completion
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.domain.usage import Usage, UsageRecord
from services.models.providers.lost_work import listen_for_work
from services.models.usecases.budgets import Budgets
from services.models.usecases.model_spans import Operation, UsedTokens, model_span
from services.models.usecases.usage_recorder import UsageRecorder

# What an answer is expected to be as long as when its call sets no limit.
_USUAL_OUTPUT_TOKENS = 1000
# What a stream keeps of its text.
_MOST_PIECES = 1000
_TEXTS = (TextDelta, ReasoningDelta)

_CALLS = Counter(
    "coxswain_models_calls_total", "Model calls by model and outcome: OK or a status code.", ("model", "outcome")
)
_TOKENS = Counter(
    "coxswain_models_tokens_total",
    "Tokens by model and kind: input, output, and of these cached_input, cache_write and reasoning.",
    ("model", "kind"),
)
_COST = Counter("coxswain_models_cost_dollars_total", "US dollars by model, where prices are known.", ("model",))
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SECONDS = Histogram(
    "coxswain_models_seconds", "Seconds of model calls until their end, by model.", ("model",), buckets=_BUCKETS
)
_FIRST_PART_SECONDS = Histogram(
    "coxswain_models_first_part_seconds",
    "Seconds until the first part of streamed answers, by model.",
    ("model",),
    buckets=_BUCKETS,
)
# Each look-up takes a lock and makes texts of the labels.
_calls, _tokens, _cost = (functools.cache(counter.labels) for counter in (_CALLS, _TOKENS, _COST))
_seconds, _first_part_seconds = (functools.cache(histogram.labels) for histogram in (_SECONDS, _FIRST_PART_SECONDS))


class CallMeter:
    """Counts what one call uses: of the upstream that answers, and of those whose answers are lost on the way."""

    def __init__(
        self, principal: Principal, labels: Mapping[str, str], recorder: UsageRecorder, budgets: Budgets
    ) -> None:
        self._principal = principal
        self._labels = labels
        self._recorder = recorder
        self._budgets = budgets
        self._called_at = utc_now()
        self._began = time.perf_counter()
        self._place: Model | None = None
        self.tokens = UsedTokens()
        """What traces show of them."""

    def answers(self, place: Model) -> None:
        """Take note of the deployment that answers: what is used from now on has its prices."""
        self._place = place

    def first_part(self, model: Model) -> None:
        """Take note of the first part of a streamed answer."""
        _first_part_seconds(model.counted_as).observe(self.seconds)

    @property
    def seconds(self) -> float:
        """How long the call has taken until now."""
        return time.perf_counter() - self._began

    def used(self, model: Model, usage: Usage) -> Usage:
        """Record what an answer of a model used, and return it with its cost.

        A model with several deployments stands for the one that answers.
        """
        place = self._place if self._place is not None and model.spec.deployments else model
        priced = usage.at_cost(place.prices.cost(usage))
        record = UsageRecord(
            id=new_id(),
            group_id=self._principal.group_id,
            model=model.name,
            execution_id=self._principal.execution_id,
            called_at=self._called_at,
            usage=priced,
            subject=self._principal.subject,
            labels=self._labels,
        )
        self._recorder.record(record)
        self._budgets.spent(record)
        _count(model, priced)
        self.tokens.add(place, priced)
        return priced


class Metering:
    """Admits calls, gives them their price and has them recorded."""

    def __init__(self, recorder: UsageRecorder, budgets: Budgets) -> None:
        self._recorder = recorder
        self._budgets = budgets

    def call(
        self,
        principal: Principal,
        model: Model,
        expected: Callable[[], Usage],
        labels: Mapping[str, str],
        *,
        operation: Operation = "chat",
    ) -> "_MeteredCall":
        """Admit a call of a model, and measure it until the block of `async with` ends.

        `expected` returns about what the call will use: so much of its limits is set aside. Work whose answer is
        lost is recorded by itself.

        Raises:
            ResourceExhausted: a limit is reached.
            FailedPrecondition: its cost is limited, and the model has no price.
        """
        return _MeteredCall(
            self._budgets,
            principal,
            model,
            expected,
            CallMeter(principal, labels, self._recorder, self._budgets),
            operation,
        )

    async def allows(self, principal: Principal, model: Model) -> bool:
        """Return whether the limits on a model's calls leave room for one; see `Budgets.allow`."""
        return await self._budgets.allow(principal, model)


class _MeteredCall:
    """A call from its admission to its end."""

    __slots__ = ("_budgets", "_expected", "_meter", "_model", "_operation", "_principal", "_reservation", "_span")

    def __init__(
        self,
        budgets: Budgets,
        principal: Principal,
        model: Model,
        expected: Callable[[], Usage],
        meter: CallMeter,
        operation: Operation,
    ) -> None:
        self._budgets = budgets
        self._principal = principal
        self._model = model
        self._expected = expected
        self._meter = meter
        self._operation = operation

    async def __aenter__(self) -> CallMeter:
        self._span = model_span(self._operation, self._model)
        self._meter.tokens.span = self._span.__enter__()
        try:
            self._reservation = await self._budgets.admit(self._principal, self._model, self._expected)
        except BaseException as error:
            self._span.__exit__(type(error), error, None)
            self._count(error)
            raise
        meter, expected = self._meter, self._expected
        listen_for_work(meter.used, lambda: expected().input_tokens, meter.answers)
        return meter

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, trace)
        self._reservation.release()
        _seconds(self._model.counted_as).observe(self._meter.seconds)
        self._count(error)

    def _count(self, error: BaseException | None) -> None:
        if error is None:
            outcome = "OK"
        elif isinstance(error, CoxswainError):
            outcome = error.code
        else:
            outcome = "INTERNAL" if isinstance(error, Exception) else "CANCELLED"
        _calls(self._model.counted_as, outcome).inc()


def expected_usage(model: Model, completion: Completion) -> Usage:
    """Return about what a conversation will use, before it is answered."""
    output = completion.sampling.max_output_tokens or _USUAL_OUTPUT_TOKENS
    if model.spec.max_output_tokens:
        output = min(output, model.spec.max_output_tokens)
    return Usage(estimate_prompt_tokens(completion.messages), output, estimated=True)


def estimate_usage(completion: Completion, answer: Answer) -> Usage:
    """Return about what an answer used whose upstream does not say."""
    written = (answer.text, answer.reasoning, *(call.name + call.arguments_json for call in answer.tool_calls))
    return Usage(
        input_tokens=estimate_prompt_tokens(completion.messages),
        output_tokens=sum(map(estimate_tokens, written)),
        reasoning_tokens=estimate_tokens(answer.reasoning),
        estimated=True,
    )


class WrittenTokens:
    """Keeps what a stream has written until its tokens have to be estimated: most upstreams count them at the end."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._tokens = 0

    def add(self, delta: Delta) -> None:
        """Add what a delta writes."""
        if isinstance(delta, _TEXTS):
            self._pieces.append(delta.text)
        elif isinstance(delta, ToolCallDelta):
            self._pieces += (delta.name, delta.arguments_json)
        if len(self._pieces) >= _MOST_PIECES:
            self.count()

    def count(self) -> int:
        """Return about how many tokens have been written."""
        self._tokens += sum(map(estimate_tokens, self._pieces))
        self._pieces.clear()
        return self._tokens


def _count(model: Model, usage: Usage) -> None:
    label = model.counted_as
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.cache_write_input_tokens),
        ("reasoning", usage.reasoning_tokens),
    ):
        if tokens:
            _tokens(label, kind).inc(tokens)
    if usage.cost:
        _cost(label).inc(usage.cost)
