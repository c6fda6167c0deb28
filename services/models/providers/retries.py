"""Retrying what may succeed a moment later."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, DeadlineExceeded
from services.common.grpc.call import current_call
from services.models.domain.model import Model

logger = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long and how often an upstream is tried."""

    request_timeout: float
    """Seconds for a call whose caller sets no deadline."""
    max_attempts: int
    pauses: Backoff
    longest: float
    """Longest pause, in seconds, that an upstream may ask for and get."""

    def deadline(self) -> float:
        """Return when the call being served has to end, by the event loop's clock."""
        remaining = current_call().time_remaining()
        return asyncio.get_running_loop().time() + (self.request_timeout if remaining is None else remaining)


class RetryableError(Exception):
    """A failure that may pass, and the seconds the upstream asks to wait."""

    def __init__(self, failure: CoxswainError, wait: float = 0.0) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.wait = wait


async def with_retries(model: Model, attempt: Callable[[], Awaitable[T]], limits: RetryLimits, deadline: float) -> T:
    """Return the result of the first attempt that succeeds.

    Raises:
        CoxswainError: `attempt` raised it, or its `RetryableError` held it when attempts or time had run out.
    """
    attempts = 0
    while True:
        attempts += 1
        try:
            return await attempt()
        except RetryableError as error:
            pause = limits.pauses.pause(attempts, at_least=error.wait)
            out_of_time = asyncio.get_running_loop().time() + pause >= deadline
            if attempts >= limits.max_attempts or error.wait > limits.longest or out_of_time:
                raise error.failure from error.__cause__
            logger.info("upstream_retried", model=model.name, reason=error.failure.reason, attempt=attempts)
        await asyncio.sleep(pause)


def too_late(model: Model) -> DeadlineExceeded:
    """Return the failure of an upstream that has not answered in time."""
    return DeadlineExceeded(
        f'the upstream of "{model.name}" did not answer within the time allowed',
        reason="UPSTREAM_UNAVAILABLE",
        metadata={"model": model.name},
    )
