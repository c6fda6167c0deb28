"""Where groups' own models may lead."""

import ipaddress
import socket

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.common.egress import AddressPolicy, origin_of
from services.common.errors import PermissionDenied
from services.models.egress import Egress

PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_inside_the_house_is_permitted_however_it_is_written(address: str) -> None:
    policy = AddressPolicy(setting="ALLOWED")
    assert not policy.permits(ipaddress.ip_address(address), encrypted=True)
    assert not policy.permits(ipaddress.ip_address(address), encrypted=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_permitted_with_encryption_only(address: str) -> None:
    policy = AddressPolicy(setting="ALLOWED")
    assert policy.permits(ipaddress.ip_address(address), encrypted=True)
    assert not policy.permits(ipaddress.ip_address(address), encrypted=False)


def test_networks_the_operator_names_are_permitted_also_without_encryption() -> None:
    policy = AddressPolicy([ipaddress.ip_network("10.20.0.0/16")], setting="ALLOWED")
    for address in ("10.20.3.4", "::ffff:10.20.3.4"):
        assert policy.permits(ipaddress.ip_address(address), encrypted=False)
    assert not policy.permits(ipaddress.ip_address("10.21.0.1"), encrypted=True)


@given(
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="fc00::/7")
)
def test_no_private_address_is_permitted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert not AddressPolicy(setting="ALLOWED").permits(address, encrypted=True)
    if address.version == 4:
        assert not AddressPolicy(setting="ALLOWED").permits(ipaddress.ip_address(f"::ffff:{address}"), encrypted=True)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.com/v1", "https://example.com"),
        ("https://example.com:443/", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080/v1", "http://example.com:8080"),
        ("https://[2606:4700::1111]:8443/x", "https://[2606:4700::1111]:8443"),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0x7f000001", "2130706433", "127.1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_spelling_of_a_group_reaches_this_machine(host: str, scheme: str) -> None:
    reached = []

    async def hit(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hit)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    egress = Egress(AddressPolicy(setting="ALLOWED"), connect_timeout=1, connections_per_origin=2)
    try:
        with pytest.raises((PermissionDenied, aiohttp.InvalidURL)):
            await egress.post(f"{scheme}://{host}:{port}/x", b"{}", {}, trusted=False)
        (await egress.post(f"http://127.0.0.1:{port}/trusted", b"{}", {}, trusted=True)).close()
    finally:
        await egress.close()
        await runner.cleanup()
    assert reached == ["/trusted"]


async def test_a_name_that_leads_to_one_private_address_among_public_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "169.254.169.254")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    egress = Egress(AddressPolicy(setting="ALLOWED"), connect_timeout=1, connections_per_origin=2)
    try:
        with pytest.raises(PermissionDenied) as failure:
            await egress.post("https://rebound.example.com/x", b"{}", {}, trusted=False)
    finally:
        await egress.close()
    assert failure.value.metadata == {"origin": "https://rebound.example.com"}
    assert "169.254" not in failure.value.message
