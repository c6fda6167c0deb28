"""Puts the tool gateway together."""

import os
import secrets
import socket

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import add_ToolGatewayServiceServicer_to_server
from services.common.background import BackgroundTasks
from services.common.egress import AddressPolicy
from services.common.environment import read_settings
from services.common.grpc.server import Registry
from services.common.http import EgressClient
from services.common.identity.row_seal import RowSeal
from services.common.periodic import every
from services.common.runtime import Runtime
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.acting import ActingPrincipal
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import Sources
from services.orchestrator.tool_gateway.registry import Outside, adapters, builtin_checks, builtin_tools
from services.orchestrator.tool_gateway.servicers.tool_gateway import ToolGatewayServicer
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.tool_gateway.sources import StoredSources
from services.orchestrator.tool_gateway.usecases.artifact_uploads import ArtifactUploads
from services.orchestrator.tool_gateway.usecases.builtin_problems import BuiltinProblems
from services.orchestrator.tool_gateway.usecases.call_runner import CallRunner
from services.orchestrator.tool_gateway.usecases.call_store import CallStore
from services.orchestrator.tool_gateway.usecases.source_limits import SourceLimits
from services.orchestrator.tool_gateway.usecases.source_tools import SourceTools
from services.orchestrator.tool_gateway.usecases.tool_calls import ToolCalls

_HOUSEKEEPING_SECONDS = 300.0
_TESTS_LONGER_SECONDS = 24 * 3600.0
"""How much longer tests of tools are kept than the request_ids that name them: those may be removed late."""
_STATEMENT_SECONDS = 2
"""Processor time to read a statement; documents get more."""


class ToolGatewayService:
    """Calls tools on behalf of executions."""

    def __init__(self, settings: ToolGatewaySettings, runtime: Runtime, sources: Sources | None = None) -> None:
        """`sources` are those of groups; by default those that are stored."""
        database = runtime.database
        auth = AuthServiceStub(runtime.peers.channel("auth"))
        acting = ActingPrincipal(auth)
        policy = AddressPolicy(settings.egress_allowed_networks, setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")
        self._egress = EgressClient(policy, connect_timeout=settings.connect_seconds)
        self._credentials = SourceCredentials(auth, acting, self._egress)
        self._parsers = BoundedParser(), BoundedParser(cpu_seconds=_STATEMENT_SECONDS), BoundedParser()
        outside = Outside(self._egress, policy, self._credentials, settings, *self._parsers)
        self._adapters = adapters(outside)
        self._builtin = builtin_tools(outside)
        # New with each start: the calls of an earlier process are not this one's.
        replica = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        seal = RowSeal(runtime.identity, "seal outcomes of tools")
        self._store = CallStore(database, seal, replica, lease_seconds=settings.lease_seconds)
        limits = SourceLimits(
            database,
            at_once=settings.calls_per_source,
            waiting=settings.waiting_calls_per_source,
            outage_threshold=settings.outage_threshold,
            outage_pause=settings.outage_pause_seconds,
        )
        of_api = read_settings(OrchestratorSettings)
        self._uploads = ArtifactUploads(database, max_bytes=of_api.artifact_file_bytes)
        # While a request_id may still be known, a repeated test must not be made again.
        self._tests_seconds = of_api.request_retention_seconds + _TESTS_LONGER_SECONDS
        runner = CallRunner(
            self._adapters,
            self._builtin,
            limits,
            max_result_bytes=settings.max_result_bytes,
            files=self._uploads,
        )
        self._calls = ToolCalls(
            self._store,
            runner,
            lease_seconds=settings.lease_seconds,
            question_seconds=settings.question_seconds,
        )
        self._sources = sources or StoredSources(database)
        self._source_tools = SourceTools(
            self._sources, self._adapters, self._credentials, timeout_seconds=settings.default_timeout_seconds
        )
        self._problems = BuiltinProblems(builtin_checks(outside, self._builtin))
        self._settings = settings
        self._background = BackgroundTasks()

    def register(self, registry: Registry) -> None:
        """See `Service`."""
        servicer = ToolGatewayServicer(self._calls, self._source_tools, self._problems, self._sources, self._settings)
        registry.add(add_ToolGatewayServiceServicer_to_server, servicer)

    async def start(self) -> None:
        """See `Service`."""
        self._calls.start()
        self._background.start(every(_HOUSEKEEPING_SECONDS, self._drop_outcomes, name="tool_outcomes"))

    async def drain(self) -> None:
        """See `Service`; calls that run get the time that streams get."""

    async def close(self) -> None:
        """See `Service`."""
        await self._background.stop()
        await self._calls.close()
        # One may serve several kinds.
        for adapter in {id(adapter): adapter for adapter in self._adapters.values()}.values():
            await adapter.close()
        for parser in self._parsers:
            await parser.close()
        await self._credentials.close()
        await self._egress.close()

    async def _drop_outcomes(self) -> None:
        await self._store.drop_outcomes(self._settings.outcome_retention_seconds, self._tests_seconds)
        await self._uploads.forget(self._settings.outcome_retention_seconds)


def build(settings: ToolGatewaySettings, runtime: Runtime) -> ToolGatewayService:
    """Return the tool gateway on what the process offers."""
    return ToolGatewayService(settings, runtime)
