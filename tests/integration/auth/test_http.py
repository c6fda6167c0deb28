"""What auth asks other servers for, and what it does not take from them."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.auth.http import JsonClient
from services.common.egress import AddressPolicy
from services.common.errors import PermissionDenied, Unavailable

LIMIT = 1024 * 1024


@pytest.fixture
async def client() -> AsyncIterator[JsonClient]:
    client = JsonClient(AddressPolicy(setting="X"), timeout_seconds=10)
    yield client
    await client.close()


@pytest.fixture
async def asked() -> list[web.Request]:
    return []


async def serve(asked: list[web.Request], tls: ssl.SSLContext | None = None) -> tuple[web.AppRunner, str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        match request.path:
            case "/small":
                return web.json_response({"a": 1})
            case "/list":
                return web.json_response([1])
            case "/page":
                return web.Response(text="<html>")
            case "/away":
                return web.Response(status=302, headers={"Location": "/small"})
            case "/large":
                return web.Response(text='"' + "x" * LIMIT + '"', content_type="application/json")
            case _:
                return web.json_response({"error": "no"}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"{'https' if tls else 'http'}://127.0.0.1:{port}"


@pytest.fixture
async def server(asked: list[web.Request]) -> AsyncIterator[str]:
    runner, url = await serve(asked)
    yield url
    await runner.cleanup()


async def test_answers_come_with_their_status_and_json(client: JsonClient, server: str) -> None:
    found = await client.get(f"{server}/small", bearer="a-token")
    assert (found.status, dict(found.document)) == (200, {"a": 1})
    assert (await client.get(f"{server}/nothing")).status == 404
    assert dict((await client.get(f"{server}/list")).document) == {}
    assert (await client.get(f"{server}/page")).body is None


async def test_a_redirect_is_not_followed_with_a_credential(
    client: JsonClient, server: str, asked: list[web.Request]
) -> None:
    assert (await client.get(f"{server}/away", bearer="a-token")).status == 302
    assert [request.path for request in asked] == ["/away"]


async def test_an_answer_that_is_too_large_is_not_taken(client: JsonClient, server: str) -> None:
    with pytest.raises(Unavailable, match="more than 1 MiB"):
        await client.get(f"{server}/large")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://name.invalid/", "http://[bad", "ftp://127.0.0.1/"])
async def test_what_does_not_answer_is_unavailable(client: JsonClient, url: str) -> None:
    with pytest.raises(Unavailable):
        await client.get(url)


async def test_a_group_may_not_choose_an_address_around_us(
    client: JsonClient, server: str, asked: list[web.Request]
) -> None:
    for url in (server, server.replace("127.0.0.1", "localhost"), server.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
        with pytest.raises(PermissionDenied):
            await client.get(url, trusted=False)
        with pytest.raises(PermissionDenied):
            await client.post_form(url, {}, user="u", password="p", trusted=False)
    assert asked == []


async def test_a_private_authority_is_believed_only_where_it_was_named(
    client: JsonClient, tmp_path: Path, asked: list[web.Request]
) -> None:
    authority, tls = _certificate(tmp_path)
    runner, url = await serve(asked, tls)
    try:
        assert (await client.get(f"{url}/small", ca_file=authority)).status == 200
        with pytest.raises(Unavailable):
            await client.get(f"{url}/small")
        with pytest.raises(Unavailable, match="cannot be read"):
            await client.get(f"{url}/small", ca_file=tmp_path / "none.pem")
    finally:
        await runner.cleanup()


def _certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate_file, key_file)
    return certificate_file, tls
