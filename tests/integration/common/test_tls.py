"""TLS on both listeners, and mutual TLS between services."""

import ipaddress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2, principal_pb2
from services.auth.service import build
from services.auth.settings import AuthSettings
from services.common.clock import utc_now
from services.common.hosting import Host
from services.common.settings import SERVICES, CommonSettings


def write_authority(directory: Path) -> None:
    """Write ca.pem, and tls.pem and tls.key of a certificate it signed for 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc_now() - timedelta(minutes=1))
            .not_valid_after(utc_now() + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coxswain")])
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(certificate(ca_name, ca_key.public_key(), authority=True).public_bytes(pem))
    (directory / "tls.pem").write_bytes(certificate(own_name, key.public_key(), authority=False).public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def test_callers_use_tls_and_services_need_a_certificate_of_the_installation(tmp_path: Path) -> None:
    write_authority(tmp_path)
    settings = CommonSettings(
        data_dir=tmp_path / "data",
        tls_certificate_file=tmp_path / "tls.pem",
        tls_key_file=tmp_path / "tls.key",
        tls_ca_file=tmp_path / "ca.pem",
    )
    addresses = dict.fromkeys(SERVICES, "")
    host = Host(settings, addresses)
    auth = await host.add("auth", build, AuthSettings())
    public, internal = await host.open(
        public_address="127.0.0.1:0", internal_address="127.0.0.1:0", identity=auth.identity
    )
    addresses["auth"] = f"127.0.0.1:{internal}"
    authority_only = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())

    async with grpc.aio.secure_channel(f"127.0.0.1:{public}", authority_only) as channel:
        answer = await auth_service_pb2_grpc.AuthServiceStub(channel).WhoAmI(principal_pb2.WhoAmIRequest())
        assert answer.principal.subject == "dev|dev"

    peers = host.peers("orchestrator")
    stub = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
    await stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="e"))
    await peers.close()

    for strangers in (
        grpc.aio.secure_channel(f"127.0.0.1:{internal}", authority_only),
        grpc.aio.insecure_channel(f"127.0.0.1:{internal}"),
        grpc.aio.insecure_channel(f"127.0.0.1:{public}"),
    ):
        async with strangers as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await auth_service_pb2_grpc.AuthServiceStub(channel).GetJwks(principal_pb2.GetJwksRequest(), timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await host.close(0)
