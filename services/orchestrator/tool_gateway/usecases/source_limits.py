"""How many calls a source gets: at once, in a minute, and none for a while when it fails. All of it for each group."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from prometheus_client import Gauge

from services.common.circuit_breaker import CircuitBreaker, Trial
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.tool_gateway.ports import CallRefused

logger = structlog.get_logger(__name__)

_LONGEST_PAUSE_SECONDS = 600.0
_MINUTE = timedelta(minutes=1)
_WAITING = Gauge("coxswain_tools_waiting", "Tool calls that wait for their turn at a source.")
_OPEN = Gauge("coxswain_tools_circuits_open", "Sources, counted for each group, that are left alone after failures.")


class SourceKey(NamedTuple):
    """One group's use of one source, or of one built-in tool."""

    group_id: str
    source: str


@dataclass(slots=True)
class _Turns:
    """Who uses a source now."""

    free: int
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    calls: int = 0
    """Those that run and those that wait."""
    unsent: int = 0
    """Calls that were let through and are in no row yet."""


class SourceLimits:
    """Lets calls through to sources, or refuses them with the reason."""

    def __init__(
        self,
        database: Database,
        *,
        at_once: int,
        waiting: int,
        outage_threshold: int,
        outage_pause: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """See `ToolGatewaySettings`; times are in seconds."""
        self._database = database
        self._at_once = at_once
        self._waiting = waiting
        self._now = now
        self._turns: dict[SourceKey, _Turns] = {}
        self._circuits: CircuitBreaker[SourceKey] = CircuitBreaker(
            threshold=outage_threshold,
            pause=outage_pause,
            longest=_LONGEST_PAUSE_SECONDS,
            on_open=_opened,
            on_close=_closed,
        )
        self._uncounted: CircuitBreaker[SourceKey] = CircuitBreaker(threshold=0, pause=1.0, longest=1.0)

    @contextlib.asynccontextmanager
    async def turn(self, key: SourceKey, *, wait_seconds: float) -> AsyncIterator[None]:
        """Hold one of the places at a source while the block runs, waiting for it where others are first.

        Raises:
            CallRefused: TOOL_RATE_LIMITED, too many calls wait, or none ended in time.
        """
        turns = self._turns.setdefault(key, _Turns(self._at_once))
        if not turns.free and len(turns.waiting) >= self._waiting:
            raise CallRefused(
                f"{self._at_once} calls run and {len(turns.waiting)} wait for {key.source} already; call it later",
                reason="TOOL_RATE_LIMITED",
            )
        turns.calls += 1
        try:
            await self._wait(key, turns, wait_seconds)
            try:
                yield
            finally:
                self._pass_on(turns)
        finally:
            turns.calls -= 1
            if not turns.calls:
                self._turns.pop(key, None)

    async def _wait(self, key: SourceKey, turns: _Turns, seconds: float) -> None:
        if turns.free:
            turns.free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turns.waiting.append(place)
        _WAITING.inc()
        try:
            async with asyncio.timeout(seconds):
                await place
        except TimeoutError:
            raise CallRefused(
                f"no call to {key.source} ended within {seconds:g} s, and {self._at_once} run at once; call it later",
                reason="TOOL_RATE_LIMITED",
            ) from None
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on(turns)
            raise
        finally:
            _WAITING.dec()
            if place in turns.waiting:
                turns.waiting.remove(place)

    def _pass_on(self, turns: _Turns) -> None:
        """Give a place to whoever waits longest."""
        while turns.waiting:
            place = turns.waiting.pop(0)
            if not place.done():
                place.set_result(None)
                return
        turns.free += 1

    @contextlib.asynccontextmanager
    async def rate(self, key: SourceKey, per_minute: int) -> AsyncIterator[None]:
        """Let a call through that is within its rate; the block ends when its row is stored, or it is over.

        Raises:
            CallRefused: TOOL_RATE_LIMITED, there were so many calls within a minute.
        """
        turns = self._turns.setdefault(key, _Turns(self._at_once))
        async with self._database.read() as connection:
            sent = await GatewayCallRepository(connection).sent_since(key.group_id, key.source, self._now() - _MINUTE)
        if len(sent) + turns.unsent >= per_minute:
            oldest = sent[-per_minute] if len(sent) >= per_minute else self._now()
            wait = max(1.0, (oldest + _MINUTE - self._now()).total_seconds())
            raise CallRefused(
                f"{key.source} may be called {per_minute} times a minute; call it again in {wait:.0f} s",
                reason="TOOL_RATE_LIMITED",
            )
        turns.unsent += 1
        try:
            yield
        finally:
            turns.unsent -= 1

    def attempt(self, key: SourceKey, *, first: bool, counted: bool) -> Trial[SourceKey]:
        """Begin an attempt at a source; whoever has begun a call may go on with it.

        One that is not `counted` says nothing of the next one: the gateway's own tools go to many places.

        Raises:
            CallRefused: TOOL_UNAVAILABLE, it is the first attempt, and the source is left alone for a while.
        """
        if not counted:
            return self._uncounted.begin(key)
        if first and (seconds := self._circuits.refusal(key)):
            raise CallRefused(
                f"{key.source} failed several times in a row and is left alone for another {seconds:.0f} s; "
                f"the last time: {self._circuits.cause(key)}",
                reason="TOOL_UNAVAILABLE",
            )
        return self._circuits.begin(key)


def _opened(key: SourceKey, pause: float, was_closed: bool) -> None:
    if was_closed:
        _OPEN.inc()
    logger.warning("tool_source_left_alone", group_id=key.group_id, source=key.source, seconds=round(pause, 1))


def _closed(key: SourceKey, forgotten: bool) -> None:
    _OPEN.dec()
    if not forgotten:
        logger.info("tool_source_used_again", group_id=key.group_id, source=key.source)
