"""Issued tokens: requested once for all who wait, renewed before they expire."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import structlog

from services.auth.chains.link import Answer
from services.auth.identity.cache import EXPIRY_MARGIN
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.errors import Unavailable

logger = structlog.get_logger(__name__)

_SIZE = 1_000
_EARLY = timedelta(minutes=20)
_RETRY = timedelta(seconds=30)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and when it expires."""

    token: str = field(repr=False)
    expires_at: datetime
    origin: str = ""
    """The origin it belongs to, when its issuer decides that."""
    detail: str = ""
    """Its description in an explanation."""


class NoTokenError(Exception):
    """No token is issued; the answer says why and is remembered for a short time."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@dataclass(slots=True)
class _Kept:
    token: IssuedToken
    renew_at: datetime


class TokenCache(Generic[K]):
    """Keeps tokens until 40 s before they expire and renews them in the background before that."""

    def __init__(self, *, refused: timedelta, clock: Callable[[], datetime] = utc_now) -> None:
        """A refusal is remembered for `refused`."""
        self._clock = clock
        self._tokens: AsyncCache[K, _Kept] = AsyncCache(
            _SIZE,
            lambda kept: (kept.token.expires_at - EXPIRY_MARGIN - clock()).total_seconds(),
            clock=lambda: clock().timestamp(),
            refused=NoTokenError,
            refused_seconds=refused.total_seconds(),
        )

    async def get(self, key: K, issue: Callable[[], Awaitable[IssuedToken]]) -> IssuedToken:
        """Return the token of `key`, from `issue` when there is none that is still good.

        Raises:
            NoTokenError: `issue` was refused, now or a moment ago.
            Unavailable: the issuer does not answer.
        """

        async def load() -> _Kept:
            token = await issue()
            now = self._clock()
            return _Kept(token, token.expires_at - min((token.expires_at - now) / 2, _EARLY))

        kept = self._tokens.peek(key)
        if kept is None:
            return (await self._tokens.get(key, load)).token
        if kept.renew_at <= self._clock():
            kept.renew_at = self._clock() + _RETRY
            self._tokens.load(key, load).add_done_callback(_log_failure)
        return kept.token

    async def close(self) -> None:
        """End the running requests."""
        await self._tokens.close()


def _log_failure(renewal: asyncio.Task[_Kept]) -> None:
    # No caller waits for a renewal in the background.
    if not renewal.cancelled() and isinstance(error := renewal.exception(), Unavailable):
        logger.warning("token_renewal_failed", error=error.message)
