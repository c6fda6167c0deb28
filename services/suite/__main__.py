"""All services on one port, tool gateway and worker hosts as child processes: `python -m services.suite --help`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.auth.service import build as build_auth
from services.auth.settings import AuthSettings
from services.common.containment.contain import keep_memory_private
from services.common.environment import read_settings
from services.common.hosting import Host
from services.common.metrics_server import serve_metrics
from services.common.ports import refuse_taken_port
from services.common.process_state import ProcessState
from services.common.runner import run, settle
from services.common.settings import PARTS, SERVICES, CommonSettings
from services.common.unknown_variables import log_unknown_variables
from services.memory.service import build as build_memory
from services.memory.settings import MemorySettings
from services.models.service import build as build_models
from services.models.settings import ModelsSettings
from services.orchestrator.service import OrchestratorService
from services.orchestrator.service import build as build_orchestrator
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.worker.default_slots import default_slots
from services.orchestrator.worker.settings import WorkerSettings
from services.suite.data_directory import free_internal_socket, lock_data_directory, private_directory
from services.suite.postgres import start_server
from services.suite.settings import SuiteSettings
from services.suite.tool_gateway import ToolGatewayProcess
from services.suite.workers import WorkerPool

_DEFAULT_PORT = 50051
# Keys and credentials of services: child processes get what they may use from auth, call by call.
_KEPT_FROM_CHILDREN = ("COXSWAIN_AUTH_", "COXSWAIN_MODELS_", "COXSWAIN_MEMORY_", "OPENAI_", "DATABRICKS_")
# What worker hosts get beyond the drain, to hand over what did not end in time.
_HAND_BACK_SECONDS = 5
# What the four services and the tool gateway need beside worker hosts in the same container.
_SERVICES_MIB = 1024
_SLOTS = "COXSWAIN_WORKER_SLOTS"


@dataclass(frozen=True)
class _Settings:
    """Of everything that runs here, child processes included, which read theirs again."""

    auth: AuthSettings = field(default_factory=partial(read_settings, AuthSettings))
    models: ModelsSettings = field(default_factory=partial(read_settings, ModelsSettings))
    memory: MemorySettings = field(default_factory=partial(read_settings, MemorySettings))
    orchestrator: OrchestratorSettings = field(default_factory=partial(read_settings, OrchestratorSettings))
    workers: WorkerSettings = field(default_factory=partial(read_settings, WorkerSettings))
    tools: ToolGatewaySettings = field(default_factory=partial(read_settings, ToolGatewaySettings))
    suite: SuiteSettings = field(default_factory=partial(read_settings, SuiteSettings))


async def serve_suite(common: CommonSettings, state: ProcessState, *, postgres: bool) -> None:
    """Serve until asked to stop, then drain."""
    with contextlib.suppress(OSError):
        keep_memory_private()
    settings = _Settings()
    log_unknown_variables()
    serve_metrics(common, state)
    directory = common.data_dir.absolute()
    port = _DEFAULT_PORT if common.port is None else common.port
    with lock_data_directory(directory, f"{common.host}:{port}"):
        # Databases and keys take seconds to make.
        refuse_taken_port(common.host, port, "COXSWAIN_PORT")
        if not postgres:
            await _serve(common, settings, state, directory, port)
            return
        # Where pgserver keeps its lock; it warns where a machine has no such directory.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(private_directory(directory / "run")))
        # The users that pgserver counts: one that was killed would keep the server from ever being stopped again.
        (directory / "postgres" / ".handle_pids.json").unlink(missing_ok=True)
        server = await asyncio.to_thread(start_server, directory / "postgres")
        try:
            common = common.model_copy(update={"database_url": server.get_uri(), "migrate": common.migrate or "auto"})
            await _serve(common, settings, state, directory, port)
        finally:
            await asyncio.to_thread(server.cleanup)


async def _serve(common: CommonSettings, settings: _Settings, state: ProcessState, directory: Path, port: int) -> None:
    started = time.monotonic()
    internal = free_internal_socket(directory)
    socket, tools_socket = f"unix:{internal}", internal.with_name("tools.sock")
    addresses = {**dict.fromkeys(SERVICES, socket), **dict.fromkeys(PARTS, f"unix:{tools_socket}")}
    host = Host(common, addresses)

    async def start() -> tuple[int, OrchestratorService]:
        auth = await host.add("auth", build_auth, settings.auth)
        await host.add("models", build_models, settings.models)
        await host.add("memory", build_memory, settings.memory)
        orchestrator = await host.add("orchestrator", build_orchestrator, settings.orchestrator)
        public, _ = await host.open(
            public_address=f"{common.host}:{port}", internal_address=socket, identity=auth.identity
        )
        return public, orchestrator

    opened = await state.unless_stopped(start())
    if opened is None:
        await host.close(0)
        return
    port, orchestrator = opened
    environment = _child_environment(common, directory, addresses)
    # Its second listener, of health alone, takes any port.
    tools = ToolGatewayProcess(tools_socket, environment | {"COXSWAIN_TOOLS_PORT": "0"})
    workers = WorkerPool(
        settings.suite.workers,
        _with_slots(environment, settings.suite.workers, settings.workers),
        silence_seconds=settings.workers.lease_seconds,
        on_end=orchestrator.workers.ended,
    )
    try:
        settle()
        address = f"{common.host}:{port}"
        _say(
            f"serving on {address} after {time.monotonic() - started:.1f} s "
            f"(identity: {common.identity_mode}, data: {directory})\n"
            f"  try: grpcurl -plaintext {address} list\n"
            f"       grpcurl -plaintext {address} coxswain.auth.v1.AuthService/WhoAmI"
        )
        tools.start()
        workers.start()
        warm = asyncio.create_task(_announce_warm(workers, started)) if workers.count else None
        state.take_work()
        await state.stop.wait()
        if warm is not None:
            warm.cancel()
        _say("draining: running work gets its time; signal again to end at once")
        state.stop.clear()
        drain = asyncio.create_task(_drain(host, workers, tools, common.drain_seconds))
        impatient = asyncio.create_task(state.stop.wait())
        await asyncio.wait((drain, impatient), return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            drain.cancel()
            await asyncio.wait((drain,))
            await host.close(0)
        impatient.cancel()
    finally:
        workers.kill()
        tools.kill()
    _say("stopped")


async def _announce_warm(workers: WorkerPool, started: float) -> None:
    await workers.wait_warm()
    _say(f"workers warm ({workers.count}) after {time.monotonic() - started:.1f} s")


async def _drain(host: Host, workers: WorkerPool, tools: ToolGatewayProcess, grace: float) -> None:
    # Workers first: what they finish needs every service, and the tool gateway needs auth.
    await workers.stop(grace + _HAND_BACK_SECONDS)
    await tools.stop(grace)
    await host.close(grace)


def _child_environment(common: CommonSettings, directory: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_FROM_CHILDREN)}
    environment.setdefault("COXSWAIN_WORKER_DRAIN_SECONDS", str(common.drain_seconds))
    environment |= {f"COXSWAIN_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    environment |= {
        "COXSWAIN_DATA_DIR": str(directory),
        "COXSWAIN_KEYS_DIR": str(common.keys_directory.absolute()),
        "COXSWAIN_IDENTITY_MODE": common.identity_mode,
        "COXSWAIN_HOST": common.host,
        # The port is this process's: a host that tried to serve there too could not start.
        "COXSWAIN_METRICS_PORT": "0",
    }
    if common.database_url:
        environment["COXSWAIN_DATABASE_URL"] = common.database_url
    return environment


def _with_slots(environment: Mapping[str, str], hosts: int, settings: WorkerSettings) -> dict[str, str]:
    """Return the environment of worker hosts, with the slots that fit a host's share unless their number is chosen."""
    if environment.get(_SLOTS, "0") not in {"", "0"}:
        return dict(environment)
    slots = default_slots(
        settings.crew_memory_mib, settings.reserved_slots, hosts=max(1, hosts), others_mib=_SERVICES_MIB
    )
    return {**environment, _SLOTS: str(slots)}


def _say(text: str) -> None:
    print(f"coxswain: {text}", flush=True)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m services.suite",
        description="Serves auth, models, memory and orchestrator on one port, with the tool gateway and worker hosts "
        "as child processes.",
        epilog="COXSWAIN_HOST, _PORT, _DATA_DIR, _DATABASE_URL and _WORKERS say where and how: docs/settings.md.",
    )
    parser.add_argument(
        "--db",
        choices=["sqlite", "postgres"],
        default="sqlite",
        help="postgres runs a PostgreSQL server of its own below the data directory (default: sqlite)",
    )
    arguments = parser.parse_args()
    run(partial(serve_suite, postgres=arguments.db == "postgres"), "suite")


if __name__ == "__main__":
    main()
