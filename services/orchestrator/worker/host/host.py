"""The worker host: puts ready executions into the queue of segments, and runs the segments it gets from there."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from pathlib import Path

import structlog

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from services.common.background import BackgroundTasks
from services.common.errors import CoxswainError
from services.common.periodic import every, once
from services.common.runtime import Runtime
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.hints.remote import RemoteHintBus
from services.orchestrator.repositories.executions import Ready
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.worker.host.calls import Stubs
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_home import CrewHome
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.model_lookup import ModelLookup
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.run import ExecutionRun
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_store import RunStore
from services.orchestrator.worker.host.segment_recovery import SegmentRecovery
from services.orchestrator.worker.host.stop_signal import Cancelled, LeaseLost, Lost
from services.orchestrator.worker.queue.dbos_queue import Segment, SegmentQueue
from services.orchestrator.worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

_PAGE = 100
_REPAIR_SECONDS = 15.0
_FORGET_SECONDS = 600.0
_RUN_AGAIN_SECONDS = 1.0
_STOP_SECONDS = 5.0
_FOREVER = float("inf")


class WorkerHost:
    """One host. `start`, then `drain`, after which the process has to exit at once."""

    def __init__(self, settings: WorkerSettings, orchestrator: OrchestratorSettings, runtime: Runtime) -> None:
        # New with each start: a known one would take back what an earlier process still works on.
        self.executor_id = f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._store = RunStore(runtime.database)
        self._queue = SegmentQueue(
            _queue_url(settings, runtime),
            self.executor_id,
            slots=settings.slots,
            group_limit=settings.group_limit,
            poll_seconds=settings.poll_seconds,
        )
        self._bus: HintBus = (
            PostgresHintBus(runtime.database)
            if runtime.database.dialect == "postgresql"
            else RemoteHintBus(runtime.peers.channel("orchestrator"), self.executor_id)
        )
        self._home = CrewHome(runtime.data_dir / "crewai")
        self._fork_server = ForkServer(crew_environment(self._home.path))
        self._lease = LeaseKeeper(
            self._store,
            self.executor_id,
            ttl=settings.lease_seconds,
            interval=settings.heartbeat_seconds,
            on_lost=self._stop_everything,
        )
        self._pruner = ChunkPruner(self._store, settings.chunk_retention_seconds)
        models, memory = runtime.peers.channel("models"), runtime.peers.channel("memory")
        self._context = RunContext(
            store=self._store,
            fork_server=self._fork_server,
            stubs=Stubs(InferenceServiceStub(models), MemoryServiceStub(memory)),
            auth=AuthServiceStub(runtime.peers.channel("auth")),
            models=ModelLookup(
                ModelServiceStub(models), MemoryServiceStub(memory), retry_seconds=settings.peer_retry_seconds
            ),
            hints=self._bus,
            pruner=self._pruner,
            settings=settings,
            default_model=orchestrator.default_model,
        )
        self._runs: dict[str, ExecutionRun] = {}
        self._segments: set[Segment] = set()
        self._recovery = SegmentRecovery(self._queue, self._store, self.executor_id, self._segments)
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._handing_over = False
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """Warm up, then begin to take segments.

        Raises:
            ForkServerLost: CrewAI could not be loaded; standard error says why.
        """
        self._fork_server.start()
        await self._bus.start()
        self._background.start(self._lease.run())
        await self._fork_server.warm()
        await self._lease.held.wait()
        await self._queue.launch(self._run_segment)
        for work in (
            self._pruner.run(),
            self._listen(),
            every(self._settings.sweep_seconds, self._recovery.take_over, name="take_over"),
            every(_REPAIR_SECONDS, self._recovery.repair, name="repair_segments"),
            every(_FORGET_SECONDS, self._recovery.forget_finished, name="forget_segments"),
        ):
            self._background.start(work)
        logger.info("worker_ready", executor_id=self.executor_id)

    def announce(self) -> None:
        """Print one line of JSON that says this host is ready."""
        print(json.dumps({"event": "worker_ready", "executor_id": self.executor_id}), flush=True)  # noqa: T201

    async def drain(self) -> None:
        """Take nothing more, let what runs end for a while, and leave the rest to other hosts at once."""
        self._draining = True
        self._queue.stop_taking()
        logger.info("worker_draining", running=len(self._segments))
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.info("worker_hands_over", running=len(self._segments))
        self._handing_over = True
        self._stop_everything()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), _STOP_SECONDS)
        await self._background.stop()
        try:
            await self._lease.give_up()
        except CoxswainError as error:
            logger.warning("lease_not_given_up", reason=error.reason)
        await asyncio.to_thread(self._home.remove)

    # ---- segments

    async def _run_segment(self, segment: Segment) -> None:
        """Run a segment until its execution has ended or rests, or is another host's."""
        if self._draining:
            # It was taken just before; it goes to another host together with this one's lease.
            await asyncio.Event().wait()
        self._segments.add(segment)
        self._idle.clear()
        try:
            while await self._run_claimed(segment):
                pass
        finally:
            self._segments.discard(segment)
            if not self._segments:
                self._idle.set()

    async def _run_claimed(self, segment: Segment) -> bool:
        """Claim a segment's execution and run it; return whether to try again."""
        await self._lease.held.wait()
        execution_id = segment.execution_id
        try:
            claim = await retry_while_absent(lambda: self._store.claim(execution_id, segment.generation), _FOREVER)
            if claim is None:
                return False
            claimed = claim.execution
            self._bus.publish(Hint(HintKind.EVENTS_STORED, claimed.id, claimed.last_sequence, claimed.group_id))
            run = self._runs[execution_id] = ExecutionRun(claim, self._context)
            self._stopped.clear()
            try:
                if claim.execution.cancel_requested_at is not None:
                    run.stop(Cancelled())
                if not self._lease.held.is_set():
                    run.stop(LeaseLost())
                await run.run()
            finally:
                if self._runs.get(execution_id) is run:
                    del self._runs[execution_id]
                if not self._runs:
                    self._stopped.set()
        except LeaseLost:
            if self._handing_over:
                await asyncio.Event().wait()  # the next host has it
            await self._lease.held.wait()
            return await self._still_held(segment)
        except Lost:
            return False
        except Exception:
            logger.exception("segment_failed", segment=segment.id)
            await asyncio.sleep(_RUN_AGAIN_SECONDS)
            return await self._still_held(segment)
        return False

    async def _still_held(self, segment: Segment) -> bool:
        return await retry_while_absent(lambda: self._queue.holds(segment), _FOREVER)

    def _stop_everything(self) -> None:
        for run in self._runs.values():
            run.stop(LeaseLost())

    # ---- what comes from outside

    async def _listen(self) -> None:
        """Queue what is ready and cancel what is to be cancelled: on hints, and regularly without."""
        with self._bus.subscribe(HintKind.EXECUTION_READY, HintKind.CANCEL_REQUESTED) as subscription:
            while True:
                await once(self._hand_over, "hand_over")
                await once(self._cancel, "cancel")
                await subscription.take(self._settings.safety_read_seconds)

    async def _hand_over(self) -> None:
        while not self._draining:
            ready = await self._store.ready(_PAGE)
            for execution in ready:
                await self._submit(execution)
            if len(ready) < _PAGE:
                return

    async def _submit(self, execution: Ready) -> None:
        segment = Segment(execution.execution_id, execution.generation)
        await self._queue.submit(segment, group_id=execution.group_id, priority=execution.priority)
        await self._store.handed_over(execution)

    async def _cancel(self) -> None:
        if not self._runs:
            return
        for execution_id in await self._store.cancellations(list(self._runs)):
            run = self._runs.get(execution_id)
            if run is not None:
                run.stop(Cancelled())


def _queue_url(settings: WorkerSettings, runtime: Runtime) -> str:
    if settings.database_url:
        return settings.database_url
    if runtime.database.dialect == "sqlite":
        file: Path = runtime.data_dir / "orchestrator-durable.db"
        return f"sqlite:///{file}"
    return runtime.database.url.render_as_string(hide_password=False)
