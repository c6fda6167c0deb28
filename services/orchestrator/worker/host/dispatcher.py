"""Takes executions while its host has room, and runs each until it has ended, rests, or is another host's."""

import asyncio
import contextlib
import random
from collections.abc import Iterable

import structlog

from services.common.background import BackgroundTasks
from services.common.grpc.call import BackgroundWork, enter_work
from services.common.ids import new_id
from services.common.periodic import once
from services.common.tracing.spans import SpanKind, Value, span
from services.orchestrator.domain.admission import Room, group_limit_of, room_of
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import Subscription
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.run import ExecutionRun, lost_repeatedly
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_store import Claim
from services.orchestrator.worker.host.stop_signal import Cancelled, LeaseLost, Lost

logger = structlog.get_logger(__name__)

_Key = tuple[str, int]
"""A claim: the execution's id and epoch. A host that was taken for dead may take anew what it still runs."""

_REPAIR_SECONDS = 15.0
_CAPACITY_SECONDS = 15.0
_RUN_AGAIN_SECONDS = 1.0
_STOP_SECONDS = 5.0
_FOREVER = float("inf")
_STEP_SECONDS = 0.004
"""How much later a host looks for each execution it runs: the idlest host takes what has just become ready."""


class Dispatcher:
    """The executions of one host. `run` until the process is to end; then `drain`, and `hand_over` what is left."""

    def __init__(self, executor_id: str, context: RunContext, lease: LeaseKeeper, *, idle_reads: int = 1) -> None:
        """While it runs nothing, a host reads `idle_reads` times less often without a hint."""
        self._executor_id = executor_id
        self._context = context
        self._store = context.store
        self._lease = lease
        self._taken: set[_Key] = set()
        """The claims that occupy a slot."""
        self._at_work: set[_Key] = set()
        """These, and those of executions that have ended or rest and are being tidied up."""
        self._runs: dict[_Key, ExecutionRun] = {}
        self._slot_was_freed = False
        self._subscription: Subscription | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._repair_at = 0.0
        self._capacity_at = 0.0
        self._idle_reads = idle_reads
        self._group_limit = context.settings.group_limit
        self._draining = False
        self._handing_over = False
        self._background = BackgroundTasks()

    async def run(self) -> None:
        """Take what is ready and cancel what is to be cancelled: on hints, with each free slot, regularly without."""
        with self._context.hints.subscribe(HintKind.EXECUTION_READY, HintKind.CANCEL_REQUESTED) as subscription:
            self._subscription = subscription
            while True:
                await self._lease.held.wait()
                done = [
                    await once(self._repair, "repair_executions"),
                    await once(self._follow_capacity, "follow_capacity"),
                    await once(self._take, "take_executions"),
                    await once(self._cancel, "cancel_executions"),
                ]
                seconds = self._context.settings.safety_read_seconds
                # The hints that a failed round has heard do not come again.
                await subscription.take(seconds if self._at_work or not all(done) else seconds * self._idle_reads)

    @property
    def running(self) -> int:
        """How many claims occupy a slot."""
        return len(self._taken)

    @property
    def room(self) -> Room:
        """How many executions more this host can run."""
        settings = self._context.settings
        return room_of(len(self._taken), settings.slots, settings.reserved_slots, self._group_limit)

    def stop_all(self) -> None:
        """Stop what runs because this host cannot be sure that it still has it."""
        for run in self._runs.values():
            run.stop(LeaseLost())

    async def drain(self, seconds: float) -> None:
        """Take nothing more, and let what runs end for a while."""
        self._draining = True
        logger.info("worker_draining", running=len(self._taken))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def hand_over(self) -> None:
        """Stop what still runs, and let other hosts have it at once."""
        if self._taken:
            logger.info("worker_hands_over", running=len(self._taken))
        self._handing_over = True
        self.stop_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _STOP_SECONDS)
        await self._background.stop()
        self._announce(await self._store.hand_over(self._executor_id))

    # ---- taking

    async def _take(self) -> None:
        if not self.room.total or self._draining or not self._lease.held.is_set():
            return
        # What waits when a slot becomes free has waited for it: no idler host has wanted it.
        if not self._slot_was_freed:
            await asyncio.sleep(_STEP_SECONDS * (len(self._taken) + random.random()))  # noqa: S311 - nothing to guess
        self._slot_was_freed = False
        if not await self._store.any_waiting(self.room) or self._draining:
            return
        # Until it is known that all that was taken runs, the rows may say more of this host than is true.
        self._repair_at = 0.0
        # What is being taken is not left behind by a host that stops meanwhile.
        self._idle.clear()
        try:
            for claim in await self._store.take(self._executor_id, self.room):
                self._begin(claim)
        finally:
            self._note_idle()
        self._repair_at = asyncio.get_running_loop().time() + _REPAIR_SECONDS

    def _begin(self, claim: Claim) -> None:
        for (execution_id, _), run in self._runs.items():
            if execution_id == claim.execution.id:
                run.stop(Lost())
        self._taken.add(_key(claim))
        self._at_work.add(_key(claim))
        self._background.start(self._work(claim))

    def _free(self, claim: Claim) -> None:
        """Let the slot of a claim be another one's."""
        if _key(claim) in self._taken:
            self._taken.discard(_key(claim))
            self._slot_was_freed = True
            if self._subscription is not None:
                self._subscription.wake()

    def _note_idle(self) -> None:
        if not self._at_work:
            self._idle.set()

    async def _repair(self) -> None:
        """Give back what the rows say that this host has, although it does not run it.

        Nothing is taken meanwhile, so that what is being taken is left alone.
        """
        now = asyncio.get_running_loop().time()
        if now < self._repair_at:
            return
        taken = {execution_id for execution_id, _ in self._taken}
        # In most cases there is nothing to write.
        if await self._store.held(self._executor_id) - taken:
            given_back = await self._store.give_back_from([self._executor_id], taken)
            for execution_id in given_back:
                logger.warning("execution_given_back", execution_id=execution_id)
            self._announce(given_back)
        self._repair_at = now + _REPAIR_SECONDS

    async def _follow_capacity(self) -> None:
        """Share in the slots that all hosts have now, and say what this one has."""
        now = asyncio.get_running_loop().time()
        if now < self._capacity_at:
            return
        settings = self._context.settings
        if settings.group_share is not None:
            slots = settings.slots + await self._store.slots_beside(self._executor_id)
            self._group_limit = group_limit_of(settings.group_share, slots, settings.group_limit)
        # Not once only: others may have taken this host for dead, and forgotten it.
        await self._store.can_run(self._executor_id, settings.slots, settings.reserved_slots, self._group_limit)
        self._capacity_at = now + _CAPACITY_SECONDS

    def _announce(self, execution_ids: Iterable[str]) -> None:
        for execution_id in execution_ids:
            self._context.hints.publish(Hint(HintKind.EXECUTION_READY, execution_id))

    # ---- running

    async def _work(self, claim: Claim) -> None:
        execution = claim.execution
        enter_work(BackgroundWork(new_id(), execution.id, execution.group_id, execution.subject))
        started = Hint(HintKind.EVENTS_STORED, execution.id, execution.last_sequence, execution.group_id)
        self._context.hints.publish(started)
        try:
            await self._run(claim)
        except LeaseLost:
            if not self._handing_over:
                await self._lease.held.wait()
                await self._give_back(claim)
        except Lost:
            pass
        except Exception:
            logger.exception("execution_run_failed", execution_id=execution.id)
            await asyncio.sleep(_RUN_AGAIN_SECONDS)
            await self._give_back(claim)
        finally:
            self._free(claim)
            self._at_work.discard(_key(claim))
            self._note_idle()

    async def _run(self, claim: Claim) -> None:
        execution = claim.execution
        attributes: dict[str, Value] = {
            "coxswain.execution.id": execution.id,
            "coxswain.execution.claim": execution.epoch,
            "coxswain.execution.lost_hosts": execution.lost_hosts,
        }
        with span("run execution", SpanKind.CONSUMER, attributes, remote_parent=execution.traceparent):
            await self._run_claimed(claim)

    async def _run_claimed(self, claim: Claim) -> None:
        execution = claim.execution
        run = self._runs[_key(claim)] = ExecutionRun(claim, self._context, lambda: self._free(claim))
        try:
            if execution.cancel_requested_at is not None:
                run.stop(Cancelled())
            if execution.lost_hosts >= self._context.settings.max_lost_hosts:
                run.stop(lost_repeatedly(claim))
            if self._handing_over or not self._lease.held.is_set():
                run.stop(LeaseLost())
            await run.run()
        finally:
            del self._runs[_key(claim)]

    async def _give_back(self, claim: Claim) -> None:
        execution = claim.execution
        if await retry_while_absent(lambda: self._store.give_back(execution.id, execution.epoch), _FOREVER):
            self._announce([execution.id])

    async def _cancel(self) -> None:
        # What has ended or rests is cancelled by those who ask for it, while it is still tidied up here.
        running = self._runs.keys() & self._taken
        if not running:
            return
        cancelled = await self._store.cancellations({execution_id for execution_id, _ in running})
        for key in self._runs.keys() & self._taken:
            if key[0] in cancelled:
                self._runs[key].stop(Cancelled())


def _key(claim: Claim) -> _Key:
    return claim.execution.id, claim.execution.epoch
