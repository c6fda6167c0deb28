"""The worker host: puts together what takes executions and runs them, and ends it in order."""

import asyncio
import json
import os
import secrets
import socket

import structlog

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import ToolGatewayServiceStub
from services.common.background import BackgroundTasks
from services.common.errors import CoxswainError
from services.common.periodic import every
from services.common.runtime import Runtime
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.hints.remote import RemoteHintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.crew_calls import Stubs
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_home import CrewHome
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.host.current_tools import SourceVersions
from services.orchestrator.worker.host.dispatcher import Dispatcher
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from services.orchestrator.worker.host.metrics import CREW_MEMORY, SILENCE, SLOTS, proportional_memory
from services.orchestrator.worker.host.model_lookup import ModelLookup
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_store import RunStore
from services.orchestrator.worker.host.segment_recovery import SegmentRecovery
from services.orchestrator.worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

_REVOKED_SECONDS = 2.0
IDLE_READS = 6
"""Hosts that run nothing leave it to `SegmentRecovery` of the oldest one to find what waits although no hint came."""
_MOST_SPARES = 4
"""Crew processes that are forked ahead: with a batch, several slots become free at the same moment."""


class WorkerHost:
    """One host. `start`, then `drain`, after which the process has to exit at once."""

    def __init__(self, settings: WorkerSettings, orchestrator: OrchestratorSettings, runtime: Runtime) -> None:
        # New with each start: a known one would take back what an earlier process still works on.
        self.executor_id = f"{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._store = RunStore(runtime.database)
        direct = runtime.direct_database
        self._bus: HintBus = (
            RemoteHintBus(runtime.peers.channel("orchestrator"), self.executor_id)
            if direct is None or direct.dialect == "sqlite"
            else PostgresHintBus(direct)
        )
        self._home = CrewHome(runtime.data_dir / "crewai")
        self._fork_server = ForkServer(
            crew_environment(self._home.path, settings.crew_limits, containment=settings.containment),
            require_containment=settings.containment == "require",
        )
        self._lease = LeaseKeeper(
            LeaseConnection(
                (direct or runtime.database).url,
                runtime.database.schema,
                self.executor_id,
                settings.lease_seconds,
            ),
            ttl=settings.lease_seconds,
            interval=settings.heartbeat_seconds,
            on_lost=self._stop_all,
        )
        self._pruner = ChunkPruner(self._store, settings.chunk_retention_seconds)
        models, memory = runtime.peers.channel("models"), runtime.peers.channel("memory")
        tools = runtime.peers.channel("tools")
        self._checker = SchemaChecker()
        self._sources = SourceVersions(
            lambda group_id: retry_while_absent(
                lambda: self._store.source_versions(group_id), settings.peer_retry_seconds
            )
        )
        context = RunContext(
            store=self._store,
            fork_server=self._fork_server,
            stubs=Stubs(
                InferenceServiceStub(models),
                MemoryServiceStub(memory),
                ToolGatewayServiceStub(tools),
                tools.channel_ready,
            ),
            auth=AuthServiceStub(runtime.peers.channel("auth")),
            models=ModelLookup(
                ModelServiceStub(models), MemoryServiceStub(memory), retry_seconds=settings.peer_retry_seconds
            ),
            hints=self._bus,
            pruner=self._pruner,
            settings=settings,
            default_model=orchestrator.default_model,
            max_message_bytes=runtime.settings.max_message_bytes,
            artifact_limits=orchestrator.artifact_limits,
            checker=self._checker,
            sources=self._sources,
        )
        self._dispatcher = Dispatcher(
            self.executor_id,
            context,
            self._lease,
            # Through a pooler alone, hints of one replica of the API do not reach those who listen at another one.
            idle_reads=1 if direct is None else IDLE_READS,
        )
        self._recovery = SegmentRecovery(
            self._store,
            LeaseStore(runtime.database),
            self.executor_id,
            self._bus,
            look_seconds=settings.sweep_seconds,
            read_seconds=settings.safety_read_seconds,
        )
        self._background = BackgroundTasks()
        self._measure()

    async def start(self) -> None:
        """Warm up, then begin to take executions.

        Raises:
            NotContained: crew processes have to be contained and cannot be.
            ForkServerLost: CrewAI could not be loaded; standard error says why.
        """
        self._fork_server.start()
        self._background.start(asyncio.to_thread(self._home.remove_left))
        await self._bus.start()
        self._background.start(self._lease.run())
        await self._fork_server.warm()
        self._fork_server.keep_spares(min(self._settings.slots, _MOST_SPARES))
        await self._lease.held.wait()
        recovery = self._recovery
        for work in (
            self._pruner.run(),
            self._dispatcher.run(),
            every(_REVOKED_SECONDS, self._store.store_revoked, name="store_revoked_grants"),
            every(lambda: recovery.seconds_to_look, recovery.take_over, name="take_over", first_pause=False),
            recovery.keep_waking(),
        ):
            self._background.start(work)
        logger.info("worker_ready", executor_id=self.executor_id)

    def _stop_all(self) -> None:
        self._dispatcher.stop_all()

    def _measure(self) -> None:
        SLOTS.labels("busy").set_function(lambda: self._dispatcher.running)
        SLOTS.labels("free").set_function(lambda: self._dispatcher.room.free)
        SLOTS.labels("reserved").set_function(lambda: self._dispatcher.room.reserved)
        SILENCE.set_function(lambda: self.silent_seconds)
        CREW_MEMORY.set_function(lambda: proportional_memory(self._fork_server.memory_files))

    @property
    def silent_seconds(self) -> float:
        """How long this host has not shown that it works."""
        return self._lease.silent_seconds

    def announce(self, *, repeatedly: bool = False) -> None:
        """Print one line of JSON that says this host is ready, then (`repeatedly`) others that say it works."""
        self._print("worker_ready")
        if repeatedly:
            self._background.start(every(self._settings.heartbeat_seconds, self._show_life, name="show_life"))

    async def _show_life(self) -> None:
        if self.silent_seconds < self._settings.lease_seconds:
            self._print("worker_works")

    def _print(self, event: str) -> None:
        print(json.dumps({"event": event, "executor_id": self.executor_id}), flush=True)  # noqa: T201

    async def drain(self) -> None:
        """Take nothing more, let what runs end for a while, and leave the rest to other hosts at once."""
        await self._dispatcher.drain(self._settings.drain_seconds)
        try:
            await self._dispatcher.hand_over()
            await self._store.store_revoked()
        except CoxswainError as error:
            logger.warning("not_handed_over", reason=error.reason)
        await self._background.stop()
        await self._checker.close()
        await self._sources.close()
        await self._lease.give_up()
        await asyncio.to_thread(self._home.remove)
