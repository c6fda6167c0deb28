"""The main function of a service that runs alone: `serve("auth", build, AuthSettings)`."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
import uvloop
from pydantic_settings import BaseSettings

from services.common.audit import configure_audit, stop_audit
from services.common.containment.contain import keep_memory_private
from services.common.environment import read_settings
from services.common.file_modes import close_to_others
from services.common.grpc.call import log_fields
from services.common.hosting import Build, Host, ServiceT
from services.common.logging import configure_logging
from services.common.metrics_server import serve_metrics
from services.common.ports import refuse_taken_port, reserved_port
from services.common.process_group import Membership, ProcessGroup
from services.common.process_state import ProcessState
from services.common.service import IdentityProvider
from services.common.settings import (
    PARTS,
    SERVICES,
    CommonSettings,
    ServiceSettings,
    internal_port,
    message_bytes,
    peer_address,
    public_port,
)
from services.common.startup import StartError
from services.common.tracing.spans import switch_off, switch_on
from services.common.unknown_variables import log_unknown_variables

logger = structlog.get_logger(__name__)

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def run(main: Callable[[CommonSettings, ProcessState], Coroutine[Any, Any, None]], name: str) -> None:
    """Run a process until SIGTERM or SIGINT, which ask `main` to stop by the state it is given. Ends the process."""

    async def supervised() -> str:
        state = ProcessState()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, state.begin_stop)
        watch = loop.create_task(state.watch_loop())
        try:
            await main(common, state)
        except StartError as error:
            # Not raised further: its traceback holds gRPC servers, which can only be released while the loop runs.
            return str(error)
        finally:
            watch.cancel()
        return ""

    # Whatever mode the data directory was made with: databases, keys and logs beside them are the owner's alone.
    os.umask(0o077)
    try:
        common = read_settings(CommonSettings)
        close_to_others(common.data_dir.absolute())
        configure_logging(common.log_level, service=name, about=log_fields)
        configure_audit(common.audit_log, common.data_dir, service=name)
        _configure_traces(common, name)
        obstacle = uvloop.run(supervised())
    except StartError as error:
        obstacle = str(error)
    finally:
        switch_off()
        stop_audit()
    if obstacle:
        print(f"{name} cannot start: {obstacle}", file=sys.stderr)
        sys.exit(2)


def _configure_traces(common: CommonSettings, name: str) -> None:
    if common.traces == "otlp":
        from services.common.tracing.otlp import OtlpTracer

        switch_on(OtlpTracer(name, common.trace_upstreams))


def settle() -> None:
    """Keep what a started process holds out of later garbage collections.

    They would look at all of it again every few hundred calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def serve(
    name: str,
    build: Build[ServiceT],
    settings_type: type[SettingsT],
    identity_of: Callable[[ServiceT], IdentityProvider] | None = None,
    internal_address: str = "",
    processes_of: Callable[[SettingsT], int] = lambda _: 1,
) -> None:
    """Serve one service on its own listeners until it is asked to stop.

    `identity_of` is auth's: it takes identity from the service itself instead of asking over the network.
    `internal_address` is where it serves other services, instead of at the port in its settings. `processes_of` says by
    its settings how many processes serve it.
    """
    member = Membership.of_this_process()

    async def main(common: CommonSettings, state: ProcessState) -> None:
        with contextlib.suppress(OSError):
            keep_memory_private()
        settings, own = read_settings(settings_type), ServiceSettings.of(name)
        log_unknown_variables()
        limit = message_bytes(name, common.max_message_bytes)
        common = common.model_copy(update={"host": own.host or common.host, "max_message_bytes": limit})
        serve_metrics(common, state)
        processes = processes_of(settings)
        if processes > 1 and member is None:
            await _serve_by_several(name, processes, common, state)
            return
        if member is None:
            # Databases and keys take seconds to make, and gRPC writes a line of its own for a port that is taken.
            refuse_taken_port(common.host, public_port(common, name), f"COXSWAIN_{name.upper()}_PORT")
            if not internal_address:
                refuse_taken_port(common.host, internal_port(name), f"COXSWAIN_{name.upper()}_INTERNAL_PORT")
        addresses = {peer: peer_address(peer) for peer in (*SERVICES, *PARTS)}
        host = Host(common, addresses, shares_ports=member is not None)

        async def start() -> tuple[int, int]:
            service = await host.add(name, build, settings)
            return await host.open(
                public_address=f"{common.host}:{public_port(common, name)}",
                internal_address=internal_address or f"{common.host}:{internal_port(name)}",
                identity=identity_of(service) if identity_of else None,
            )

        with contextlib.ExitStack() as until_closed:
            ports = await state.unless_stopped(start())
            if ports is not None:
                settle()
                state.take_work()
                if member is None:
                    _print_serving(name, common.host, ports[0], internal_address or f"{common.host}:{ports[1]}")
                else:
                    until_closed.callback(asyncio.create_task(member.show_life()).cancel)
                await state.stop.wait()
            await host.close(common.drain_seconds)

    run(main, name)


async def _serve_by_several(name: str, processes: int, common: CommonSettings, state: ProcessState) -> None:
    """Start processes that share the ports of a service, each with a metrics port of its own behind this one's."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        # Monitoring asks the one declared port of a pod, and autoscalers count pods.
        logger.warning("several_processes_in_a_pod", name=name, processes=processes)
    of_public, of_internal = f"COXSWAIN_{name.upper()}_PORT", f"COXSWAIN_{name.upper()}_INTERNAL_PORT"
    with (
        reserved_port(common.host, public_port(common, name), of_public) as public,
        reserved_port(common.host, internal_port(name), of_internal) as internal,
    ):

        def environment_of(number: int) -> dict[str, str]:
            metrics_port = common.metrics_port and common.metrics_port + 1 + number
            ports = {of_public: public, of_internal: internal, "COXSWAIN_METRICS_PORT": metrics_port}
            return {variable: str(port) for variable, port in ports.items()}

        group = ProcessGroup(name, processes, environment_of=environment_of)
        await group.run(state, lambda: _print_serving(name, common.host, public, f"{common.host}:{internal}"))


def _print_serving(name: str, host: str, port: int, internal_address: str) -> None:
    print(f"{name} serving on {host}:{port}, internal on {internal_address}", flush=True)
