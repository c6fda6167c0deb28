"""TLS on both listeners, and mutual TLS between services."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2, principal_pb2
from services.auth.service import build
from services.auth.settings import AuthSettings
from services.common.grpc import renewed_channel
from services.common.hosting import Host
from services.common.settings import SERVICES, CommonSettings
from services.common.startup import StartError
from tests.support.certificates import write_authority


def tls_settings(directory: Path, data_dir: Path) -> CommonSettings:
    return CommonSettings(
        data_dir=data_dir,
        tls_certificate_file=directory / "tls.pem",
        tls_key_file=directory / "tls.key",
        tls_ca_file=directory / "ca.pem",
    )


class Served:
    def __init__(self, host: Host, public: int, internal: int) -> None:
        self.host, self.public, self.internal = host, f"127.0.0.1:{public}", f"127.0.0.1:{internal}"


@contextlib.asynccontextmanager
async def serve_auth(directory: Path) -> AsyncIterator[Served]:
    addresses = dict.fromkeys(SERVICES, "")
    host = Host(tls_settings(directory, directory / "data"), addresses)
    auth = await host.add("auth", build, AuthSettings())
    ports = await host.open(public_address="127.0.0.1:0", internal_address="127.0.0.1:0", identity=auth.identity)
    addresses["auth"] = f"127.0.0.1:{ports[1]}"
    try:
        yield Served(host, *ports)
    finally:
        await host.close(0)


async def shown_certificate(address: str) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    host, _, port = address.partition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_callers_use_tls_and_services_need_a_certificate_of_the_installation(tmp_path: Path) -> None:
    write_authority(tmp_path)
    async with serve_auth(tmp_path) as served:
        await check_callers(tmp_path, served)


async def check_callers(tmp_path: Path, served: Served) -> None:
    authority_only = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())

    async with grpc.aio.secure_channel(served.public, authority_only) as channel:
        answer = await auth_service_pb2_grpc.AuthServiceStub(channel).WhoAmI(principal_pb2.WhoAmIRequest())
        assert answer.principal.subject == "dev|dev"

    peers = served.host.peers("orchestrator")
    stub = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
    await stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="e"))
    await peers.close()

    for strangers in (
        grpc.aio.secure_channel(served.internal, authority_only),
        grpc.aio.insecure_channel(served.internal),
        grpc.aio.insecure_channel(served.public),
    ):
        async with strangers as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await auth_service_pb2_grpc.AuthServiceStub(channel).GetJwks(principal_pb2.GetJwksRequest(), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_certificates_that_are_replaced_count_without_a_restart_and_no_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewed_channel, "LOOK_SECONDS", 0.0)
    former, renewed = tmp_path / "tls", tmp_path / "renewed"
    for directory in (former, renewed):
        directory.mkdir()
        write_authority(directory)
    first = serial(former / "tls.pem")
    async with serve_auth(former) as served:
        assert await shown_certificate(served.public) == first
        connected, unconnected = served.host.peers("orchestrator"), served.host.peers("models")
        health: Any = health_pb2_grpc.HealthStub(connected.channel("auth"))
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stub = auth_service_pb2_grpc.AuthServiceStub(connected.channel("auth"))
        request = delegation_pb2.RevokeDelegationRequest(execution_id="e")
        await stub.RevokeDelegation(request)
        waiting = auth_service_pb2_grpc.AuthServiceStub(unconnected.channel("auth"))

        # The certificate comes before its key: until they fit together, the former ones are in use.
        shutil.copy(renewed / "tls.pem", former / "tls.pem")
        assert await shown_certificate(served.public) == first
        for name in ("tls.key", "ca.pem"):
            shutil.copy(renewed / name, former / name)
        assert await shown_certificate(served.public) == serial(renewed / "tls.pem") != first

        # Who connects only now is asked for a certificate of the new authority, and shows one.
        await waiting.GetJwks(principal_pb2.GetJwksRequest(), timeout=60)
        await stub.RevokeDelegation(request, timeout=60)
        assert not watch.done()
        watch.cancel()
        await connected.close()
        await unconnected.close()


async def test_a_certificate_with_the_key_of_another_is_told_at_the_start(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_authority(tmp_path / name)
    shutil.copy(tmp_path / "a" / "tls.key", tmp_path / "b" / "tls.key")
    with pytest.raises(StartError, match=r"COXSWAIN_TLS_KEY_FILE.*the key is not that of the certificate"):
        async with serve_auth(tmp_path / "b"):
            pass


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_no_version_of_tls_before_1_2_is_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    write_authority(tmp_path)
    async with serve_auth(tmp_path) as served:
        host, _, port = served.public.partition(":")
        for allowed in (ssl.TLSVersion.TLSv1_2, version):
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.set_alpn_protocols(["h2"])
            context.minimum_version = context.maximum_version = allowed
            expected = contextlib.nullcontext() if allowed is ssl.TLSVersion.TLSv1_2 else pytest.raises(OSError)
            with expected:
                _, writer = await asyncio.open_connection(host, int(port), ssl=context)
                writer.close()
