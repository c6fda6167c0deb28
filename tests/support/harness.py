"""Services on loopback in this process: real gRPC, real databases, real auth with development identities."""

import contextlib
import importlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from services.common.grpc.peers import Peers
from services.common.hosting import Build, Host
from services.common.service import Service
from services.common.settings import PARTS, SERVICES, CommonSettings, service_of
from services.orchestrator.tool_gateway import service as tool_gateway
from services.orchestrator.tool_gateway.ports import Sources
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from tests.support.service_tables import make_service_tables

ALICE = "dev:alice:sales=admin"
"""An admin of the group "sales"."""
BOB = "dev:bob:legal=admin"
"""An admin of another group."""


@dataclass
class Harness:
    """Services that are being served."""

    address: str
    """The public listener."""
    internal_address: str
    """The internal listener, a UNIX socket."""
    data_dir: Path
    host: Host
    services: Mapping[str, Service]

    def __post_init__(self) -> None:
        self._channels: list[grpc.aio.Channel] = []
        self._peers: list[Peers] = []

    def channel(self, bearer: str = ALICE, *, group: str = "", headers: Mapping[str, str] | None = None) -> Any:
        """Return a channel to the public listener whose calls carry a development identity ("" for none)."""
        metadata = dict(headers or {})
        if bearer:
            metadata["authorization"] = f"Bearer {bearer}"
        if group:
            metadata["x-group-id"] = group
        channel = grpc.aio.insecure_channel(
            self.address, interceptors=[each(metadata) for each in (_Unary, _Stream, _BothStreams)]
        )
        self._channels.append(channel)
        return channel

    def peers(self, name: str) -> Peers:
        """Return channels to the internal listener on which the caller is service `name`."""
        peers = self.host.peers(name)
        self._peers.append(peers)
        return peers

    async def close(self) -> None:
        """Close what was given out."""
        for channel in self._channels:
            await channel.close()
        for peers in self._peers:
            await peers.close()


@contextlib.asynccontextmanager
async def serve_services(
    data_dir: Path,
    *names: str,
    database_url: str = "",
    settings: Mapping[str, Any] | None = None,
    sources: Sources | None = None,
    public_port: int = 0,
    **common: Any,
) -> AsyncIterator[Harness]:
    """Serve auth and the named services; "tools" is the tool gateway, which may call this machine.

    `settings` replaces a service's settings object, `sources` the tool gateway's stored sources; `common` are fields of
    `CommonSettings`.
    A `public_port` of 0 is any free one. An empty or a SQLite `database_url` means one SQLite file each below
    `data_dir`: services cannot share one.
    """
    wanted = [name for name in (*SERVICES, *PARTS) if name == "auth" or name in names]
    if database_url.startswith("sqlite"):
        database_url = ""
    values = {"data_dir": data_dir, "database_url": database_url, "migrate": "auto", "drain_seconds": 1, **common}
    with tempfile.TemporaryDirectory(prefix="coxswain-") as run_dir:
        socket = f"unix:{run_dir}/internal.sock"
        host = Host(CommonSettings(**values), dict.fromkeys((*SERVICES, *PARTS), socket))
        services: dict[str, Any] = {}
        for service in {service_of(name) for name in wanted}:
            make_service_tables(service, database_url or f"sqlite:///{data_dir / f'{service}.db'}")
        for name in wanted:
            build, default = _gateway(sources) if name == "tools" else _service(name)
            services[name] = await host.add(name, build, (settings or {}).get(name) or default())
        port, _ = await host.open(
            public_address=f"127.0.0.1:{public_port}", internal_address=socket, identity=services["auth"].identity
        )
        harness = Harness(f"127.0.0.1:{port}", socket, data_dir, host, services)
        try:
            yield harness
        finally:
            await harness.close()
            await host.close(0.2)


def _service(name: str) -> tuple[Build[Any], Callable[[], Any]]:
    build = importlib.import_module(f"services.{name}.service").build
    return build, getattr(importlib.import_module(f"services.{name}.settings"), f"{name.title()}Settings")


def _gateway(sources: Sources | None) -> tuple[Build[Any], Callable[[], Any]]:
    return partial(tool_gateway.ToolGatewayService, sources=sources), loopback_tools


def loopback_tools(**fields: Any) -> ToolGatewaySettings:
    """Return settings of a tool gateway that may call this machine."""
    return ToolGatewaySettings(egress_allowed_networks=["127.0.0.0/8", "::1/128"], **fields)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with(client_call_details, self._metadata), request)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with(client_call_details, self._metadata), request)


class _BothStreams(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(_with(client_call_details, self._metadata), request_iterator)


def _with(details: grpc.aio.ClientCallDetails, metadata: Mapping[str, str]) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        details.method,
        details.timeout,
        grpc.aio.Metadata(*(details.metadata or ()), *metadata.items()),
        details.credentials,
        details.wait_for_ready,
    )
