"""Sending a call to one of a model's deployments: the choice among them, attempts and pauses."""

import asyncio
import functools
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from cachetools import TLRUCache
from prometheus_client import Counter

from services.common.counts import from_the_start
from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc.call import current_principal
from services.common.identity.credentials import OutboundCredential
from services.common.ids import new_id
from services.models.domain.model import OWN_MODELS, Model, Provider
from services.models.providers.circuits import UpstreamCircuits, UpstreamKey, UpstreamTrial, begin_counts
from services.models.providers.lost_work import report_answering, report_lost_work
from services.models.providers.retries import RetryableError, RetryLimits

logger = structlog.get_logger(__name__)

T = TypeVar("T")

_RETRIED = ("UPSTREAM_UNAVAILABLE", "UPSTREAM_RATE_LIMITED")
_RETRIES = from_the_start(
    Counter(
        "coxswain_models_retries_total",
        "Calls of upstreams repeated after a pause, by provider, model and reason.",
        ("provider", "model", "reason"),
    ),
    Provider,
    (OWN_MODELS,),
    _RETRIED,
)
_ATTEMPTS = from_the_start(
    Counter(
        "coxswain_models_upstream_attempts_total",
        "Attempts to call an upstream, by provider and outcome: OK, the reason of a failure, or CANCELLED.",
        ("provider", "outcome"),
    ),
    Provider,
    ("OK", "UPSTREAM_UNAVAILABLE", "UPSTREAM_RATE_LIMITED", "UPSTREAM_CREDENTIAL_REJECTED"),
)
# Each look-up takes a lock and makes texts of the labels.
_attempts = functools.cache(_ATTEMPTS.labels)
_COOL_DOWNS = 10_000
# While another model can take over, it is asked rather than waited for this one.
_ATTEMPTS_BEFORE_FALLBACK = 2
_LONGEST_WAIT_BEFORE_FALLBACK = 5.0
# Reasons of failures that only an upstream at work can cause.
_ANSWERS = frozenset(
    {
        "CONTENT_FILTERED",
        "CONTEXT_WINDOW_EXCEEDED",
        "UPSTREAM_CREDENTIAL_REJECTED",
        "UPSTREAM_QUOTA_EXHAUSTED",
        "UPSTREAM_RATE_LIMITED",
        "UPSTREAM_REJECTED",
    }
)
# These come from a deployment's address, credential or account: another deployment has others.
_OF_THE_DEPLOYMENT = (FailedPrecondition, PermissionDenied, ResourceExhausted, Unauthenticated)


class CallId:
    """The id of one call, made when an upstream is told it first: most are not."""

    __slots__ = ("_id",)

    def __init__(self) -> None:
        self._id = ""

    def __str__(self) -> str:
        self._id = self._id or new_id()
        return self._id


@dataclass(slots=True)
class Attempt:
    """One attempt of a call."""

    model: Model
    """With the address and the upstream's name of the chosen deployment."""
    deadline: float
    """When the call has to end, by the event loop's clock."""
    answer_by: float
    """When the answer has to begin; at most the deadline."""
    call_id: CallId
    """The same for every attempt of one call."""
    deployment: int = 0
    """The number of the chosen deployment."""
    losses: dict[int, Model] = field(default_factory=dict)
    """By deployment, what may have been worked for and is lost unless that one gives it again."""
    credential: OutboundCredential | None = None
    """What the upstream was sent last: its words are not quoted where they repeat it."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of one call at one deployment."""
        return f"{self.call_id}-{self.deployment}"


@dataclass(slots=True, eq=False)
class _Route:
    model: Model
    key: UpstreamKey
    weight: int
    number: int


class Upstreams:
    """Calls upstreams, and remembers for each group which of them fail or ask for a pause.

    Rate limits, outages and lost connections are retried within the deadline, at another deployment first. Credentials,
    addresses and pauses are each deployment's own.
    """

    def __init__(
        self,
        limits: RetryLimits,
        breaker: UpstreamCircuits,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self._limits = limits
        self._breaker = breaker
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - nothing to guess here
        self._cool_until: TLRUCache[UpstreamKey, float] = TLRUCache(_COOL_DOWNS, lambda _key, until, _now: until, clock)

    def deadline(self) -> float:
        """Return when the call being served has to end, by the event loop's clock."""
        return self._limits.deadline()

    @property
    def longest_batch_wait(self) -> float:
        """Seconds that one request of a call that embeds waits in all because upstreams ask for it."""
        return self._limits.longest_batch_wait

    async def call(
        self,
        model: Model,
        attempt: Callable[[Attempt], Awaitable[T]],
        *,
        answer_by: float | None = None,
        deadline: float | None = None,
        longest_wait: float | None = None,
    ) -> T:
        """Return the result of the first attempt that succeeds.

        `answer_by` says, by the event loop's clock, when another model takes over unless the answer has begun; the
        `deadline` is that of the call being served unless it is given, and `longest_wait` the one in the limits.

        Raises:
            CoxswainError: `attempt` raised it, or its `RetryableError` held it when attempts or time had run out; or
                the upstream is left alone after outages.
        """
        result, trial = await self._begin(model, attempt, answer_by, deadline, longest_wait)
        trial.succeeded()
        _attempts(trial.key.provider, "OK").inc()
        return result

    async def stream(
        self,
        model: Model,
        open_stream: Callable[[Attempt], AsyncGenerator[T, None]],
        *,
        answer_by: float | None = None,
    ) -> AsyncGenerator[T, None]:
        """Yield what the first attempt yields that gets as far as its first item; what fails later stays failed.

        Raises:
            CoxswainError: see `call`.
        """

        async def begin(attempt: Attempt) -> tuple[T | None, AsyncGenerator[T, None]]:
            items = open_stream(attempt)
            try:
                return await anext(items, None), items
            except BaseException:
                await items.aclose()
                raise

        (item, items), trial = await self._begin(model, begin, answer_by, None)
        if trial.is_probe:
            # Other calls need not wait for the end of this answer.
            trial.succeeded()
            trial = self._breaker.begin(trial.key)
        failed = False
        try:
            async with aclosing(items):
                while item is not None:
                    yield item
                    item = await anext(items, None)
        except RetryableError as error:
            failed = True
            _judge(trial, error.failure, ours=error.ours)
            raise error.failure from error.__cause__
        except CoxswainError as failure:
            failed = True
            _judge(trial, failure)
            raise
        finally:
            # Also for a caller that has gone away: the upstream did answer.
            trial.succeeded()
            if not failed:
                _attempts(trial.key.provider, "OK").inc()

    async def _begin(
        self,
        model: Model,
        attempt: Callable[[Attempt], Awaitable[T]],
        answer_by: float | None,
        deadline: float | None,
        longest_wait: float | None = None,
    ) -> tuple[T, UpstreamTrial]:
        """Return the first success, and the trial in which to say how it went on."""
        losses: dict[int, Model] = {}
        try:
            return await self._first_success(model, attempt, answer_by, deadline, longest_wait, losses)
        finally:
            for place in losses.values():
                report_lost_work(place)

    async def _first_success(
        self,
        model: Model,
        attempt: Callable[[Attempt], Awaitable[T]],
        answer_by: float | None,
        deadline: float | None,
        longest_wait: float | None,
        losses: dict[int, Model],
    ) -> tuple[T, UpstreamTrial]:
        """See `_begin`; `losses` are left that nothing has made up for."""
        _begin_counts(model.spec.provider.value, model.counted_as)
        deadline = self._limits.deadline() if deadline is None else deadline
        routes = _routes(current_principal().group_id, model)
        most_attempts = self._limits.max_attempts
        longest_wait = self._limits.longest_wait if longest_wait is None else longest_wait
        has_fallback = answer_by is not None
        if has_fallback:
            most_attempts = min(most_attempts, _ATTEMPTS_BEFORE_FALLBACK)
            longest_wait = min(longest_wait, _LONGEST_WAIT_BEFORE_FALLBACK)
        most_attempts = max(most_attempts, len(routes))
        answer_by = deadline if answer_by is None else min(deadline, answer_by)
        call_id = CallId()
        loop = asyncio.get_running_loop()
        attempts = rounds = 0
        waited = 0.0
        circuits_waited_for = False
        failure: CoxswainError | None = None
        while True:
            rounds += 1
            untried = list(routes)
            asked: dict[_Route, float] = {}
            while attempts < most_attempts and (route := self._choose(untried, may_cool=len(untried) == len(routes))):
                if failure is not None and loop.time() >= answer_by:
                    raise failure
                untried.remove(route)
                attempts += 1
                trial = self._breaker.begin(route.key)
                try:
                    result = await attempt(Attempt(route.model, deadline, answer_by, call_id, route.number, losses))
                except RetryableError as error:
                    _judge(trial, error.failure, ours=error.ours)
                    failure = error.failure
                    failure.__cause__ = error.__cause__
                    asked[route] = error.wait
                    if error.wait:
                        self._cool_until[route.key] = self._clock() + error.wait
                except CoxswainError as error:
                    _judge(trial, error)
                    routes.remove(route)
                    if not routes or not isinstance(error, _OF_THE_DEPLOYMENT):
                        raise
                    failure = failure or error
                    logger.warning("deployment_not_usable", model=model.name, reason=error.reason)
                except BaseException as error:
                    trial.gave_up()
                    _attempts(route.key.provider, "INTERNAL" if isinstance(error, Exception) else "CANCELLED").inc()
                    raise
                else:
                    report_answering(route.model)
                    losses.pop(route.number, None)
                    return result, trial
            circuits = [self._breaker.refusal(route.key) for route in routes]
            if failure is None:
                seconds, key = min(
                    zip(circuits, (route.key for route in routes), strict=True), key=lambda each: each[0]
                )
                raise _left_alone(model, seconds, self._breaker.cause(key))
            if all(circuits):
                # A call that was under way when they opened waits once, for the probe.
                if circuits_waited_for or has_fallback:
                    raise failure
                circuits_waited_for = True
            wait = min(
                max(asked[route] if route in asked else self._cooling(route.key), circuit)
                for route, circuit in zip(routes, circuits, strict=True)
            )
            pause = self._limits.pauses.pause(rounds, at_least=wait)
            out_of_time = loop.time() + pause >= answer_by
            # A longer wait is the caller's: it can tell others what it waits for, and do something else meanwhile.
            if attempts >= most_attempts or waited + wait > longest_wait or out_of_time:
                raise failure
            waited += wait
            _RETRIES.labels(model.spec.provider.value, model.counted_as, failure.reason).inc()
            logger.info("upstream_retried", model=model.name, reason=failure.reason, attempt=attempts)
            await asyncio.sleep(pause)

    def _choose(self, routes: Sequence[_Route], *, may_cool: bool) -> _Route | None:
        """Return one of the routes by weight, of those whose upstream has neither failed nor asked for a pause.

        With `may_cool`, one that asked for a pause is better than none.
        """
        if len(routes) == 1 and may_cool:
            route = routes[0]
            return None if self._breaker.refusal(route.key) else route
        usable = [route for route in routes if not self._breaker.refusal(route.key)]
        warm = [route for route in usable if route.key not in self._cool_until]
        if len(warm) == 1:
            return warm[0]
        if warm:
            return self._chance.choices(warm, [route.weight for route in warm])[0]
        if usable and may_cool:
            return min(usable, key=lambda route: self._cooling(route.key))
        return None

    def _cooling(self, key: UpstreamKey) -> float:
        return max(0.0, self._cool_until.get(key, 0.0) - self._clock())


@functools.cache
def _begin_counts(provider: str, counted_as: str) -> None:
    for reason in _RETRIED:
        _RETRIES.labels(provider, counted_as, reason)
    begin_counts(provider, counted_as)


def _routes(group_id: str, model: Model) -> list[_Route]:
    """Return the model as it is at each of its deployments."""
    weights = [deployment.weight or 1 for deployment in model.spec.deployments] or [1]
    return [
        _Route(
            place,
            UpstreamKey(
                group_id, place.spec.provider.value, place.spec.base_url, place.spec.upstream_name, model.counted_as
            ),
            weight,
            number,
        )
        for number, (place, weight) in enumerate(zip(model.places, weights, strict=True))
    ]


def _judge(trial: UpstreamTrial, failure: CoxswainError, *, ours: bool = False) -> None:
    """Count a failure, and say what it tells of the upstream.

    Outages are lost connections, HTTP 5xx, overload and silence. Refusals, rate limits and used-up quotas come from an
    upstream that works; a caller's own deadline, a missing credential and a full share tell nothing.
    """
    _attempts(trial.key.provider, failure.reason).inc()
    if failure.reason in _ANSWERS:
        trial.succeeded()
    elif failure.reason == "UPSTREAM_UNAVAILABLE" and isinstance(failure, Unavailable) and not ours:
        # The upstream's own words, which follow, are for the caller whose request they answered.
        trial.failed(failure.message.partition("; try again")[0])
    else:
        trial.gave_up()


def _left_alone(model: Model, seconds: float, cause: str) -> Unavailable:
    return Unavailable(
        f'the upstream of "{model.name}" has failed several times in a row and is left alone for a while; '
        f"try again in {math.ceil(seconds)} s" + (f" (its last failure: {cause})" if cause else ""),
        reason="UPSTREAM_UNAVAILABLE",
        metadata={"model": model.name},
        retry_after=seconds,
    )
