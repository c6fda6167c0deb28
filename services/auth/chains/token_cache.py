"""Tokens that somebody issues: asked for once for all who wait, renewed before they expire."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import structlog

from services.auth.chains.link import Answer
from services.auth.identity.cache import EXPIRY_MARGIN
from services.common.clock import utc_now
from services.common.errors import Unavailable

logger = structlog.get_logger(__name__)

_SIZE = 1_000
_EARLY = timedelta(minutes=20)
_RETRY = timedelta(seconds=30)

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and when it expires."""

    token: str = field(repr=False)
    expires_at: datetime
    origin: str = ""
    """Where it belongs, when whoever issued it decides that."""
    detail: str = ""
    """What an explanation says of it."""


class NoTokenError(Exception):
    """No token is issued; the answer says why and is remembered for a short time."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


@dataclass(slots=True)
class _Kept:
    token: IssuedToken
    renew_at: datetime


class TokenCache(Generic[Key]):
    """Keeps tokens until 40 s before they expire and renews them in the background before that."""

    def __init__(self, *, refused: timedelta, clock: Callable[[], datetime] = utc_now) -> None:
        """A refusal is remembered for `refused`."""
        self._refused_for = refused
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}
        self._refusals: dict[Key, tuple[datetime, Answer]] = {}
        self._asking: dict[Key, asyncio.Task[IssuedToken]] = {}

    async def get(self, key: Key, issue: Callable[[], Awaitable[IssuedToken]]) -> IssuedToken:
        """Return the token of `key`, from `issue` when there is none that is still good.

        Raises:
            NoTokenError: `issue` was refused, now or a moment ago.
            Unavailable: whoever issues it does not answer.
        """
        now = self._clock()
        kept = self._kept.get(key)
        if kept is not None and kept.token.expires_at - EXPIRY_MARGIN > now:
            if kept.renew_at <= now and key not in self._asking:
                kept.renew_at = now + _RETRY
                self._ask(key, issue)
            return kept.token
        refusal = self._refusals.get(key)
        if refusal is not None and refusal[0] > now:
            raise NoTokenError(refusal[1])
        return await asyncio.shield(self._asking.get(key) or self._ask(key, issue))

    def _ask(self, key: Key, issue: Callable[[], Awaitable[IssuedToken]]) -> asyncio.Task[IssuedToken]:
        asking = self._asking[key] = asyncio.create_task(self._issued(key, issue))
        asking.add_done_callback(lambda done: self._asked(key, done))
        return asking

    async def _issued(self, key: Key, issue: Callable[[], Awaitable[IssuedToken]]) -> IssuedToken:
        try:
            token = await issue()
        except NoTokenError as refusal:
            self._make_room()
            # What was good may have been withdrawn: a refusal counts from now on.
            self._kept.pop(key, None)
            self._refusals[key] = self._clock() + self._refused_for, refusal.answer
            raise
        now = self._clock()
        self._make_room()
        self._refusals.pop(key, None)
        self._kept[key] = _Kept(token, token.expires_at - min((token.expires_at - now) / 2, _EARLY))
        return token

    def _make_room(self) -> None:
        if len(self._kept) + len(self._refusals) >= _SIZE:
            now = self._clock()
            self._kept = {key: kept for key, kept in self._kept.items() if kept.token.expires_at > now}
            self._refusals.clear()
            while len(self._kept) >= _SIZE:
                del self._kept[next(iter(self._kept))]

    def _asked(self, key: Key, done: asyncio.Task[IssuedToken]) -> None:
        del self._asking[key]
        # Nobody may be waiting: a renewal in the background tells the log.
        if not done.cancelled() and isinstance(error := done.exception(), Unavailable):
            logger.warning("a token could not be renewed", why=error.message)

    async def close(self) -> None:
        """Stop asking."""
        for asking in list(self._asking.values()):
            asking.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
