"""Puts the orchestrator's API together. Workers are a deployable of their own: `services/orchestrator/worker`."""

import asyncio

from coxswain.orchestrator.v1.crew_service_pb2_grpc import add_CrewServiceServicer_to_server
from coxswain.orchestrator.v1.execution_service_pb2_grpc import add_ExecutionServiceServicer_to_server
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import add_ScheduleServiceServicer_to_server
from coxswain.orchestrator.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server
from coxswain.orchestrator.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server
from services.common.grpc.server import Registry
from services.common.runtime import Runtime
from services.orchestrator.gateways import RemoteGrants, RemoteModels
from services.orchestrator.hints.bus import HintBus, LocalHintBus
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.repositories.leases import Leases
from services.orchestrator.repositories.store import SqlStore
from services.orchestrator.servicers.crews import CrewServicer
from services.orchestrator.servicers.executions import ExecutionServicer
from services.orchestrator.servicers.schedules import ScheduleServicer
from services.orchestrator.servicers.tools import ToolServicer
from services.orchestrator.servicers.workers import WorkerServicer
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.usecases.crew_validation import CrewValidation
from services.orchestrator.usecases.crews import CrewUseCases
from services.orchestrator.usecases.endings import Endings
from services.orchestrator.usecases.executions import ExecutionUseCases
from services.orchestrator.usecases.feed import ExecutionFeed
from services.orchestrator.usecases.housekeeping import Housekeeping
from services.orchestrator.usecases.scheduler import Scheduler
from services.orchestrator.usecases.schedules import ScheduleUseCases
from services.orchestrator.usecases.starts import ExecutionStarts


class OrchestratorService:
    """The orchestrator's API."""

    def __init__(self, settings: OrchestratorSettings, runtime: Runtime) -> None:
        store = SqlStore(runtime.database)
        grants = RemoteGrants(runtime.peers)
        on_postgres = runtime.database.dialect == "postgresql"
        self._bus: HintBus = PostgresHintBus(runtime.database) if on_postgres else LocalHintBus()
        self._feed = ExecutionFeed(
            store,
            self._bus,
            safety_read_seconds=settings.watch_safety_read_seconds,
            tail_bytes=settings.watch_tail_bytes,
        )
        endings = Endings(store, grants, self._bus)
        self._housekeeping = Housekeeping(
            store, endings, settings.housekeeping_seconds, settings.request_retention_seconds
        )
        self._scheduling: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []
        validation = CrewValidation(
            RemoteModels(runtime.peers), TOOLS, default_model=settings.default_model, max_bytes=settings.max_crew_bytes
        )
        self._crews = CrewServicer(CrewUseCases(store, validation))
        starts = ExecutionStarts(store, validation, grants, self._bus, max_inputs_bytes=settings.max_inputs_bytes)
        self._executions = ExecutionServicer(ExecutionUseCases(store, grants, self._bus, self._feed, endings), starts)
        self._schedules = ScheduleServicer(ScheduleUseCases(store, starts, grants))
        self._scheduler = Scheduler(store, starts, grants, settings.schedule_poll_seconds)
        self._workers = WorkerServicer(Leases(runtime.database), self._bus)

    def register(self, registry: Registry) -> None:
        """See `Service`."""
        registry.add(add_CrewServiceServicer_to_server, self._crews)
        registry.add(add_ExecutionServiceServicer_to_server, self._executions)
        registry.add(add_ToolServiceServicer_to_server, ToolServicer(TOOLS))
        registry.add(add_ScheduleServiceServicer_to_server, self._schedules)
        registry.add(add_WorkerServiceServicer_to_server, self._workers)

    async def start(self) -> None:
        """See `Service`."""
        await self._bus.start()
        await self._feed.start()
        self._scheduling = asyncio.create_task(self._scheduler.run())
        self._background = [asyncio.create_task(self._housekeeping.run()), self._scheduling]

    async def drain(self) -> None:
        """See `Service`."""
        self._feed.drain()
        self._workers.drain()
        # What is due is another replica's now, or the next process's.
        if self._scheduling is not None:
            self._scheduling.cancel()

    async def close(self) -> None:
        """See `Service`."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._feed.close()
        await self._bus.close()


def build(settings: OrchestratorSettings, runtime: Runtime) -> OrchestratorService:
    """Return the orchestrator's API on what the process offers."""
    return OrchestratorService(settings, runtime)
