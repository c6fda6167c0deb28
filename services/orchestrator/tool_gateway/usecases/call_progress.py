"""Where a running call tells what happens to it: its row, its followers, its time."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import structlog

from services.common.errors import CoxswainError
from services.common.storable import storable
from services.orchestrator.domain.gateway_call import CallKey
from services.orchestrator.tool_gateway.ports import NotSent, OutcomeUnknown, SourceAnswer, SourceQuestion, StillAsked
from services.orchestrator.tool_gateway.usecases.call_board import Asked, CallBoard, Sign
from services.orchestrator.tool_gateway.usecases.call_store import CallStore

logger = structlog.get_logger(__name__)

_SIGN_CHARACTERS = 2000
_QUESTION_CHARACTERS = 4096


class CallTime:
    """The time limits of a call: one without a sign, which each sign extends, and one in all. Questions stop both."""

    def __init__(self, quiet_seconds: float, total_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._quiet = quiet_seconds
        self._total = total_seconds
        self._ends_at = self._loop.time() + total_seconds
        self._limit: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """End the block with TimeoutError when a limit is reached."""
        async with asyncio.timeout_at(self._next()) as self._limit:
            yield

    @property
    def ran_out(self) -> bool:
        """Whether a limit was reached."""
        return self._limit is not None and self._limit.expired()

    @property
    def remaining(self) -> float:
        """The seconds left in all."""
        return max(0.0, self._ends_at - self._loop.time())

    @property
    def text(self) -> str:
        """Which limit was reached."""
        if self._loop.time() >= self._ends_at:
            return f"it did not end within {self._total:g} s"
        return f"it gave no sign for {self._quiet:g} s"

    def sign(self) -> None:
        """The call goes on."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._next())

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock while the block runs."""
        began = self._loop.time()
        if self._limit is not None:
            self._limit.reschedule(None)
        try:
            yield
        finally:
            self._ends_at += self._loop.time() - began
            self.sign()

    def _next(self) -> float:
        return min(self._loop.time() + self._quiet, self._ends_at)


class RunningCall:
    """See `CallProgress`."""

    def __init__(
        self,
        key: CallKey,
        execution_id: str,
        source: str,
        *,
        store: CallStore,
        board: CallBoard,
        time: CallTime,
        question_seconds: float,
        sent: bool = False,
        handle: str = "",
        asked: Asked | None = None,
    ) -> None:
        """`sent`, `handle` and `asked`, its open question, are what is known of a call that another process made."""
        self.key = key
        self.execution_id = execution_id
        self.source = source
        self.board = board
        self.time = time
        self.is_sent = sent
        self.known_handle = handle
        self.is_lost = False
        """Whether another process makes or follows the call by now."""
        self.is_over = False
        """Whether an outcome has been decided on: nothing may be sent any more."""
        self.goes_on = False
        self.claimed = asyncio.Event()
        self._store = store
        self._question_seconds = question_seconds
        self._number = asked.number if asked is not None else 0
        """Of the last question. What another process has asked is asked again under a number of its own."""
        self._answer: asyncio.Future[SourceAnswer] | None = None
        self._claiming = asyncio.Lock()
        self._claim: asyncio.Task[bool] | None = None

    async def sent(self) -> None:
        """See `CallProgress`.

        Raises:
            NotSent: another process makes the call, or it was cancelled.
        """
        async with self._claiming:
            if self.is_sent:
                return
            if self.is_over:
                raise NotSent("the call is over")
            # Who is cut off while it is being stored has to know later whether it was.
            self._claim = asyncio.create_task(self._store.claim(self.key, self.execution_id, self.source))
            if not await asyncio.shield(self._claim):
                self.is_lost = True
                raise NotSent("another process makes this call")
            if self.is_over:
                raise NotSent("the call is over")
            self.is_sent = True
            self.claimed.set()

    async def settle(self) -> bool:
        """Let nothing be sent any more, and return whether there may be a row of a call of which nothing was sent."""
        self.is_over = True
        if self.is_sent or self._claim is None:
            return False
        try:
            has_row = await self._claim
        except CoxswainError:
            # It may have been stored all the same.
            return True
        self.is_lost = not has_row
        return has_row

    async def handle(self, handle: str) -> None:
        """See `CallProgress`. Once the call has been sent, a handle that cannot be stored is for this process alone.

        Raises:
            OutcomeUnknown: another process follows the call by now.
            Unavailable: nothing has been sent, and the database is away.
        """
        was_sent = self.is_sent
        await self.sent()
        try:
            kept = await self._store.keep_handle(self.key, handle)
        except CoxswainError as error:
            if not was_sent:
                raise
            # The source has acted: what would help after a crash must not end the call before its result is there.
            self._not_stored(error)
            kept = True
        if not kept:
            self.is_lost = True
            raise OutcomeUnknown("another process follows this call")
        self.known_handle = handle
        self.time.sign()

    async def progress(self, text: str, fraction: float | None = None) -> None:
        """See `CallProgress`."""
        self.time.sign()
        if fraction is not None:
            fraction = None if math.isnan(fraction) else min(1.0, max(0.0, fraction))
        self.board.show(Sign(storable(text)[:_SIGN_CHARACTERS], fraction))

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        """See `CallProgress`."""
        self._number = max(self._number, self.board.last_number) + 1
        asked = Asked(
            self._number,
            replace(question, text=storable(question.text)[:_QUESTION_CHARACTERS]),
        )
        self._answer = asyncio.get_running_loop().create_future()
        with self.time.stopped():
            await self._store.ask(self.key, asked)
            self.board.ask(asked)
            try:
                async with asyncio.timeout(self._question_seconds):
                    return await self._answer
            except TimeoutError:
                if durable:
                    raise StillAsked from None
                return SourceAnswer("cancel")
            finally:
                self._answer = None
                self.board.ask(None)
                await self._close_question()

    async def _close_question(self) -> None:
        """Store that no question is open; one that stays in the row is asked again by whoever takes the call over."""
        try:
            await self._store.ask(self.key, None)
        except CoxswainError as error:
            self._not_stored(error)

    def _not_stored(self, error: CoxswainError) -> None:
        logger.warning("tool_call_state_not_stored", source=self.source, reason=error.reason)

    def take_answer(self, number: int, answer: SourceAnswer) -> bool:
        """Pass a person's answer on; False if that question is not open."""
        if self._answer is None or self._answer.done() or number != self._number:
            return False
        self._answer.set_result(answer)
        return True
