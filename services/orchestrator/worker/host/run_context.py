"""What the runs of a host share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from coxswain.auth.v1 import auth_service_pb2_grpc
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.artifact import ArtifactLimits
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.crew_calls import Stubs
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.host.current_tools import SourceVersions
from services.orchestrator.worker.host.model_lookup import ModelLookup
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.run_store import RunStore
from services.orchestrator.worker.settings import WorkerSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What runs need of their host."""

    store: RunStore
    fork_server: ForkServer
    stubs: Stubs
    auth: "auth_service_pb2_grpc.AuthServiceAsyncStub"
    models: ModelLookup
    hints: HintBus
    pruner: ChunkPruner
    settings: WorkerSettings
    default_model: str
    max_message_bytes: int
    """The largest message in which the API can say what has come of an execution."""
    artifact_limits: ArtifactLimits
    checker: SchemaChecker
    sources: SourceVersions

    async def read(self, query: Callable[[], Awaitable[T]]) -> T:
        """Return what a query of `store` returns, asked again for a while when the database is away."""
        return await retry_while_absent(query, self.settings.peer_retry_seconds)
