"""Calls by their ids: each is made once, whoever asks for it how often."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.counts import from_the_start
from services.common.errors import CoxswainError, Internal, Unavailable
from services.common.grpc.call import current_call, enter_call
from services.common.periodic import every
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.domain.tool_outcome import Failed, Outcome, Unknown
from services.orchestrator.tool_gateway.acting import acting
from services.orchestrator.tool_gateway.ports import SourceAnswer
from services.orchestrator.tool_gateway.usecases.call_board import CallBoard, CallEvent, Ended
from services.orchestrator.tool_gateway.usecases.call_progress import CallTime, RunningCall
from services.orchestrator.tool_gateway.usecases.call_runner import CallOrder, CallRunner
from services.orchestrator.tool_gateway.usecases.call_store import CallStore

logger = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
# What an adapter gets to cancel a call at its source.
_CANCEL_SECONDS = 10.0
_LOST = Unknown("the process that made the call has ended, and the source cannot tell what became of the call")
_CANCELLED = Failed("TOOL_CANCELLED", "the call was cancelled before anything was sent")

_CALLS = from_the_start(
    Counter("coxswain_tools_calls_total", "Tool calls by how they ended.", ("outcome",)),
    ("RETURNED", "FAILED", "UNKNOWN"),
)
_RUNNING = Gauge("coxswain_tools_running", "Tool calls that this process makes or follows now.")
_SECONDS = Histogram("coxswain_tools_call_seconds", "Seconds of a tool call from its request to its outcome.")


@dataclass(slots=True)
class _Run:
    """One call in this process."""

    board: CallBoard = field(default_factory=CallBoard)
    call: RunningCall | None = None
    """What is being made; None while another process makes it."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class ToolCalls:
    """Makes calls, follows them, cancels them and passes answers on to them."""

    def __init__(
        self,
        store: CallStore,
        runner: CallRunner,
        *,
        lease_seconds: float,
        question_seconds: float,
    ) -> None:
        self._store = store
        self._runner = runner
        self._lease_seconds = lease_seconds
        self._question_seconds = question_seconds
        self._runs: dict[CallKey, _Run] = {}
        self._unstored: dict[CallKey, Outcome | None] = {}
        """How calls of this process have ended of which the database could not be told; None: nothing was sent."""
        self._storing = asyncio.Lock()
        self._running = BackgroundTasks()
        self._background = BackgroundTasks()

    def start(self) -> None:
        """Begin to renew leases, and to look for what other processes want of the calls here."""
        self._background.start(every(self._lease_seconds / 3, self._renew, name="tool_call_leases"))
        self._background.start(every(_POLL_SECONDS, self._serve_others, name="tool_call_wishes"))

    async def close(self) -> None:
        """End the calls that still run; others may find out what becomes of them."""
        for run in self._runs.values():
            if run.call is not None:
                run.call.goes_on = True
        await self._running.stop()
        await self._background.stop()
        try:
            await self._store_ends()
            await self._store.release()
        except CoxswainError as error:
            logger.warning("tool_calls_not_released", reason=error.reason)

    async def execute(self, order: CallOrder) -> AsyncIterator[CallEvent]:
        """Make a call, unless it has been made or is being made, and yield what happens to it.

        The call goes on when nobody follows it any more.

        Raises:
            Unavailable: the database is away, or this process ends.
        """
        key = CallKey(order.request.principal.group_id, order.request.call_id)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = _Run()
            self._running.start(self._run(key, order, run))
        async for event in run.board.events():
            yield event

    async def cancel(self, key: CallKey, execution_id: str) -> Outcome:
        """Cancel a call and return how it has ended; one that was not sent yet is never made.

        Raises:
            Unavailable: the database is away.
        """
        run = self._runs.get(key)
        if run is not None:
            run.cancelled.set()
            return (await run.board.wait_end()).outcome
        if key in self._unstored:
            await self._store_end(key)
        if await self._store.claim(key, execution_id, "", _CANCELLED):
            return _CANCELLED
        known = await self._store.find(key)
        if known is not None and known.ended_at is None and known.replica != self._store.replica:
            await self._store.request_cancel(key)
            known = await self._follow(known, None)
        return _LOST if known is None else self._store.outcome(known) or _LOST

    async def answer(self, key: CallKey, number: int, answer: SourceAnswer) -> bool:
        """Pass a person's answer on to the source that asked; False if that question is no longer open."""
        run = self._runs.get(key)
        if run is not None and run.call is not None:
            return run.call.take_answer(number, answer)
        return await self._store.leave_answer(key, number, answer)

    async def _run(self, key: CallKey, order: CallOrder, run: _Run) -> None:
        _leave_caller()
        began = asyncio.get_running_loop().time()
        _RUNNING.inc()
        end: Ended | CoxswainError = Unavailable("the tool gateway ends; ask again for the call")
        try:
            async with acting(order.request.principal, order.grant_id, order.request.execution_id):
                end = await self._end_of(key, order, run)
        except CoxswainError as error:
            end = error
        except Exception:
            logger.exception("tool_call_failed", tool=order.name)
            end = Internal("the tool gateway failed; its log says why")
        finally:
            self._runs.pop(key, None)
            _RUNNING.dec()
            if isinstance(end, Ended):
                _CALLS.labels(end.outcome.kind).inc()
                _SECONDS.observe(asyncio.get_running_loop().time() - began)
            run.board.end(end)

    async def _end_of(self, key: CallKey, order: CallOrder, run: _Run) -> Ended:
        while True:
            if key in self._unstored:
                await self._store_end(key)
            known = await self._store.find(key)
            if run.cancelled.is_set() and known is None:
                if await self._store.claim(key, order.request.execution_id, order.source_name, _CANCELLED):
                    return Ended(_CANCELLED, replayed=False)
                # Another process has been faster, and makes the call.
                continue
            if known is None:
                outcome = await self._make(key, order, run, None)
            elif (kept := self._store.outcome(known)) is not None and not isinstance(kept, Unknown):
                return Ended(kept, replayed=True)
            elif kept is None and known.leased_until > utc_now() and known.replica != self._store.replica:
                await self._follow(known, run)
                continue
            elif not await self._store.take_over(known, order.request.execution_id):
                continue
            else:
                outcome = await self._make(key, order, run, known)
            if outcome is not None:
                return Ended(outcome, replayed=known is not None)

    async def _make(self, key: CallKey, order: CallOrder, run: _Run, known: GatewayCall | None) -> Outcome | None:
        """Make a call, or find out what became of one that is `known`; None if another process is faster."""
        handle = None if known is None else self._store.handle(known)
        call = run.call = RunningCall(
            key,
            order.request.execution_id,
            order.source_name,
            store=self._store,
            board=run.board,
            time=CallTime(order.timeout, order.max_timeout),
            question_seconds=self._question_seconds,
            sent=known is not None,
            handle=handle or "",
            asked=None if known is None else self._store.asked(known),
        )
        try:
            outcome = await self._made(run, call, self._runner.make(order, call, handle=handle))
        except asyncio.CancelledError:
            # This process ends.
            if await call.settle():
                await self._take_back(call)
            raise
        except CoxswainError:
            # What comes of the call is not known here: whoever asks next finds out.
            if not await call.settle() and call.is_sent and not call.is_lost:
                await self._store.let_go(call.key)
            raise
        finally:
            run.call = None
        has_row = await call.settle()
        if call.is_lost:
            return None
        if isinstance(outcome, Unknown) and known is not None and not handle:
            # What was seen at first says more.
            outcome = self._store.outcome(known) or _LOST
        return outcome if await self._stored(call, outcome, has_row=has_row) else None

    async def _made(self, run: _Run, call: RunningCall, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        making, cancelled = asyncio.create_task(work), asyncio.create_task(run.cancelled.wait())
        try:
            await asyncio.wait({making, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()
            if run.cancelled.is_set() and not call.is_sent:
                call.is_over = True
            if not making.done():
                making.cancel()
                await asyncio.wait({making}, timeout=_CANCEL_SECONDS)
        if making.done() and not making.cancelled():
            return making.result()
        if not call.is_sent:
            return _CANCELLED
        return Unknown("the call was cancelled after it had been sent")

    async def _stored(self, call: RunningCall, outcome: Outcome, *, has_row: bool) -> bool:
        """Store an outcome that others may want; False if another process has the call by now.

        `has_row` says that there may be a row of a call of which nothing was sent.
        """
        # Nothing has happened: the next one who asks may try again.
        unmade = isinstance(outcome, Failed) and (outcome.temporary or not call.is_sent) and outcome is not _CANCELLED
        if unmade:
            if call.is_sent or has_row:
                await self._take_back(call)
            return True
        try:
            if call.is_sent or has_row:
                return await self._store.end(call.key, outcome)
            return await self._store.claim(call.key, call.execution_id, call.source, outcome)
        except Unavailable as error:
            self._keep_end(call.key, outcome, error)
            return True

    async def _take_back(self, call: RunningCall) -> None:
        """Remove the row of a call that was not made."""
        try:
            await self._store.forget(call.key)
        except Unavailable as error:
            self._keep_end(call.key, None, error)

    def _keep_end(self, key: CallKey, outcome: Outcome | None, error: CoxswainError) -> None:
        # Who follows the call gets its outcome; who asks later has to as well.
        self._unstored[key] = outcome
        logger.warning("tool_outcome_not_stored", reason=error.reason)

    async def _store_ends(self) -> None:
        for key in list(self._unstored):
            await self._store_end(key)

    async def _store_end(self, key: CallKey) -> None:
        """Store how a call has ended, of which the database could not be told before. Raises Unavailable."""
        # One after the other: a row that is removed a second time may be that of the next attempt by then.
        async with self._storing:
            if key not in self._unstored:
                return
            outcome = self._unstored[key]
            if outcome is None:
                await self._store.forget(key)
            else:
                await self._store.end(key, outcome)
            del self._unstored[key]

    async def _follow(self, known: GatewayCall, run: _Run | None) -> GatewayCall | None:
        """Wait until a call of another process ends, or its lease does; return its row, None if it is gone."""
        key = known.key
        following: GatewayCall | None = known
        while following is not None and following.ended_at is None and following.leased_until > utc_now():
            if run is not None:
                run.board.ask(self._store.asked(following))
                if run.cancelled.is_set() and not following.cancel_requested:
                    await self._store.request_cancel(key)
            await asyncio.sleep(_POLL_SECONDS)
            following = await self._store.find(key)
        return following

    async def _renew(self) -> None:
        await self._store_ends()
        if self._runs:
            await self._store.renew()

    async def _serve_others(self) -> None:
        if not self._runs:
            return
        for key, cancel, answer in await self._store.wanted():
            run = self._runs.get(key)
            if run is None:
                continue
            if answer is not None and run.call is not None:
                run.call.take_answer(*answer)
            if cancel:
                run.cancelled.set()


def _leave_caller() -> None:
    """Let the rest of this task take as long as it needs, and act as no one unless it says as whom."""
    with contextlib.suppress(LookupError):
        enter_call(replace(current_call(), deadline=None, principal=None))
