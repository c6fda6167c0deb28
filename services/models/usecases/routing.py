"""Which models a call asks: the one it names, and others in its place where that one cannot answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

import structlog
from prometheus_client import Counter

from services.common.counts import from_the_start
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.common.grpc.call import current_call, enter_call
from services.models.domain.answer import Answer, Delta, FinishDelta, FinishReason, UsageDelta
from services.models.domain.model import Model
from services.models.usecases.catalogue import Catalogue

logger = structlog.get_logger(__name__)

_MOST_MODELS = 8
# The model's lists of others, by the reason of its failure.
_OCCASIONS = {
    "UPSTREAM_UNAVAILABLE": "on_outage",
    "UPSTREAM_BAD_RESPONSE": "on_outage",
    "UPSTREAM_RATE_LIMITED": "on_outage",
    "UPSTREAM_QUOTA_EXHAUSTED": "on_outage",
    "UPSTREAM_SHARE_EXCEEDED": "on_outage",
    "CONTEXT_WINDOW_EXCEEDED": "on_context_window",
    "CONTENT_FILTERED": "on_content_filter",
}
_FALLBACKS = from_the_start(
    Counter("coxswain_models_fallbacks_total", "Fallbacks that were asked, by reason.", ("reason",)), _OCCASIONS
)

Fits = Callable[[Model], object]
"""Raises a `CoxswainError` when a model cannot take the call."""


class Routing:
    """Asks models one after the other until one answers.

    Names are looked up as the calling group sees them. A model that others can replace gets half of the time that is
    left until its answer begins; the last one gets all of it.
    """

    def __init__(self, catalogue: Catalogue, request_timeout: float) -> None:
        """`request_timeout` is in seconds, for calls whose caller sets no deadline."""
        self._catalogue = catalogue
        self._request_timeout = request_timeout

    async def complete(
        self, group_id: str, model: Model, fits: Fits, ask: Callable[[Model, float | None], Awaitable[Answer]]
    ) -> Answer:
        """Return the first answer of `ask`, which gets a model and, by the event loop's clock, when to begin it.

        Raises:
            CoxswainError: the failure of the first model, when no other answered.
        """
        if not model.spec.fallbacks.given:
            return await ask(model, None)
        turns = self._turns(group_id, model, fits)
        withheld: Answer | None = None
        while True:
            answer_by = await turns.answer_by()
            try:
                answer = await ask(turns.model, answer_by)
            except CoxswainError as failure:
                if not await turns.failed(failure):
                    if withheld is not None:
                        return withheld
                    raise turns.failure from turns.failure.__cause__
                continue
            if turns.answered_by:
                answer = replace(answer, answered_by=turns.answered_by)
            if answer.finish_reason is not FinishReason.CONTENT_FILTER:
                return answer
            withheld = withheld or answer
            if not await turns.withheld():
                return withheld

    def stream(
        self, group_id: str, model: Model, fits: Fits, ask: Callable[[Model, float | None], AsyncGenerator[Delta, None]]
    ) -> AsyncGenerator[Delta, None]:
        """Yield the first answer of which `ask` yields anything; see `complete`."""
        if not model.spec.fallbacks.given:
            return ask(model, None)
        return self._stream(group_id, model, fits, ask)

    async def _stream(
        self, group_id: str, model: Model, fits: Fits, ask: Callable[[Model, float | None], AsyncGenerator[Delta, None]]
    ) -> AsyncGenerator[Delta, None]:
        turns = self._turns(group_id, model, fits)
        withheld: list[Delta] = []
        while True:
            answer_by = await turns.answer_by()
            # Until something of the answer itself comes, another model may take over.
            held: list[Delta] = []
            begun = False
            try:
                async with aclosing(ask(turns.model, answer_by)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, FinishDelta) and turns.answered_by:
                            delta = replace(delta, answered_by=turns.answered_by)
                        if not begun:
                            held.append(delta)
                            begun = _is_of_an_answer(delta)
                            if begun:
                                for early in held:
                                    yield early
                            continue
                        yield delta
                if begun:
                    return
                withheld = withheld or held
                goes_on = await turns.withheld()
            except CoxswainError as failure:
                if begun:
                    raise
                goes_on = await turns.failed(failure)
            if not goes_on and withheld:
                for delta in withheld:
                    yield delta
                return
            if not goes_on:
                raise turns.failure from turns.failure.__cause__

    def _turns(self, group_id: str, model: Model, fits: Fits) -> "_Turns":
        call = current_call()
        deadline = call.deadline
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._request_timeout
            # All models of a call share its time.
            enter_call(replace(call, deadline=deadline))
        return _Turns(self._catalogue, group_id, model, fits, deadline)


def _is_of_an_answer(delta: Delta) -> bool:
    if isinstance(delta, FinishDelta):
        return delta.reason is not FinishReason.CONTENT_FILTER
    return not isinstance(delta, UsageDelta)


class _Turns:
    """Whose turn it is in one call."""

    def __init__(self, catalogue: Catalogue, group_id: str, first: Model, fits: Fits, deadline: float) -> None:
        self.model = first
        self._catalogue = catalogue
        self._group_id = group_id
        self._fits = fits
        self._deadline = deadline
        self._asked = [first]
        self._usable: dict[str, Model | None] = {}
        self._first_failure: CoxswainError | None = None
        self._occasions: list[str] = []
        """What has happened in this call, the latest first."""

    @property
    def answered_by(self) -> str:
        """The name of the model whose turn it is; empty for the one that the call names."""
        return "" if self.model is self._asked[0] else self.model.name

    @property
    def _is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._deadline

    @property
    def failure(self) -> CoxswainError:
        """The failure of the first model that failed, with the names of those that were asked after it."""
        assert self._first_failure is not None
        failure, others = self._first_failure, [model.name for model in self._asked[1:]]
        if self._is_over and isinstance(failure, Unavailable):
            # The first model was given up for another one, and then there was no time left: so the call is too late.
            failure = self._first_failure = _too_late(failure)
        if others and "fallbacks" not in failure.metadata:
            failure.metadata["fallbacks"] = ",".join(others)
            failure.message += f"; no fallback could answer either ({', '.join(others)})"
        return failure

    async def answer_by(self) -> float | None:
        """Return when this model's answer has to have begun, so that another one has time for its own."""
        if await self._next("on_outage") is None:
            return None
        now = asyncio.get_running_loop().time()
        return now + (self._deadline - now) / 2

    async def failed(self, failure: CoxswainError) -> bool:
        """Give the turn to the next model after a failure; return whether there is one.

        A fallback that fails for a reason of its own is one that cannot help.
        """
        self._first_failure = self._first_failure or failure
        return await self._give_turn(failure.reason)

    async def withheld(self) -> bool:
        """Give the turn to the next model after an answer that was withheld; return whether there is one."""
        return await self._give_turn("CONTENT_FILTERED")

    async def _give_turn(self, reason: str) -> bool:
        occasion = _OCCASIONS.get(reason, "")
        if occasion:
            self._occasions = [occasion, *(earlier for earlier in self._occasions if earlier != occasion)]
        if self._is_over:
            return False
        for occasion in self._occasions:
            if (other := await self._next(occasion)) is not None:
                _FALLBACKS.labels(reason).inc()
                logger.info("fallback_asked", model=self.model.name, fallback=other.name, reason=reason)
                self._asked.append(other)
                self.model = other
                return True
        return False

    async def _next(self, occasion: str) -> Model | None:
        """Return the next model to ask on an occasion: those of the first model come before those of later ones."""
        if len(self._asked) >= _MOST_MODELS:
            return None
        asked = {model.name for model in self._asked}
        for model in self._asked:
            for name in getattr(model.spec.fallbacks, occasion):
                if name not in asked and (other := await self._find(name)) is not None:
                    return other
        return None

    async def _find(self, name: str) -> Model | None:
        """Return a model that can take the call."""
        if name not in self._usable:
            try:
                model = await self._catalogue.find_enabled(self._group_id, name)
                self._fits(model)
            except CoxswainError as failure:
                logger.info("fallback_passed_over", fallback=name, reason=failure.reason)
                self._usable[name] = None
            else:
                self._usable[name] = model
        return self._usable[name]


def _too_late(failure: Unavailable) -> DeadlineExceeded:
    late = DeadlineExceeded(failure.message, reason=failure.reason, metadata=failure.metadata)
    late.__cause__ = failure.__cause__
    return late
