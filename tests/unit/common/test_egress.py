"""Addresses that tenants choose lead to the public internet, or where the operator allows."""

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.egress import AddressPolicy, CheckedResolver, is_public_https, origin_of, required_origin
from services.common.errors import PermissionDenied

POLICY = AddressPolicy(setting="COXSWAIN_X_NETWORKS")
PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
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
    "fd00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "64:ff9b:1::7f00:1",
    "::127.0.0.1",
    "0.1.2.3",
    "192.0.0.8",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "2001:0:808:808::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    # Where clouds serve the secrets of their machines: Azure, Oracle, Alibaba, AWS.
    "168.63.129.16",
    "192.0.0.192",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:168.63.129.16",
    "64:ff9b::a83f:8110",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_inside_is_permitted_in_any_spelling(address: str) -> None:
    assert not POLICY.permits(ipaddress.ip_address(address), encrypted=True)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(PermissionDenied, match="COXSWAIN_X_NETWORKS"):
        POLICY.check_literal(f"https://{host}/x")


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "8.8.8", "a.0x1."])
def test_numbers_that_resolvers_read_as_addresses_are_refused_before_anything_is_asked(host: str) -> None:
    with pytest.raises(PermissionDenied, match="COXSWAIN_X_NETWORKS"):
        AddressPolicy([ipaddress.ip_network("0.0.0.0/0")], setting="COXSWAIN_X_NETWORKS").check_literal(
            f"https://{host}:8/"
        )


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"])
def test_public_addresses_are_permitted_with_encryption_only(address: str) -> None:
    assert POLICY.permits(ipaddress.ip_address(address), encrypted=True)
    assert not POLICY.permits(ipaddress.ip_address(address), encrypted=False)


@given(
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="fc00::/7")
)
def test_no_private_address_is_permitted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert not POLICY.permits(address, encrypted=True)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_inside_an_ipv6_one(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.ip_address(f"::ffff:{address}")
    assert POLICY.permits(mapped, encrypted=True) == POLICY.permits(address, encrypted=True)


def test_the_operator_may_allow_networks_and_plain_http_there() -> None:
    policy = AddressPolicy([ipaddress.ip_network("10.20.0.0/16")], setting="X")
    for address in ("10.20.1.1", "::ffff:10.20.1.1"):
        assert policy.permits(ipaddress.ip_address(address), encrypted=False)
    assert not policy.permits(ipaddress.ip_address("10.21.1.1"), encrypted=True)


async def test_who_asks_does_not_learn_which_names_there_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, *_: Any) -> list[Any]:
        if host == "db.example.com":
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.1.2.3", port))]
        raise socket.gaierror(socket.EAI_AGAIN if host == "later.example.com" else socket.EAI_NONAME, "said by libc")

    resolver = CheckedResolver(POLICY, encrypted=True)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    told = []
    for name in ("db", "no"):
        with pytest.raises(PermissionDenied) as refusal:
            await resolver.resolve(f"{name}.example.com", 443)
        told.append((refusal.value.message, refusal.value.reason, refusal.value.metadata))
    assert repr(told[0]) == repr(told[1]).replace("no.example.com", "db.example.com")
    # What may be looked up in a moment is no refusal.
    with pytest.raises(socket.gaierror):
        await resolver.resolve("later.example.com", 443)
    await resolver.close()


async def test_a_name_with_one_address_inside_is_refused_whatever_its_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"good.example.com": ["93.184.216.34"], "mixed.example.com": ["93.184.216.34", "127.0.0.1"]}

    def resolve(host: str, port: int, *_: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for address in answers[host]
        ]

    resolver = CheckedResolver(POLICY, encrypted=True)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert await resolver.resolve("good.example.com", 443)
    with pytest.raises(PermissionDenied) as refusal:
        await resolver.resolve("mixed.example.com", 443)
    assert refusal.value.metadata == {"origin": "https://mixed.example.com"}
    # What a name resolves to inside is nobody's business.
    assert "127.0.0.1" not in refusal.value.message
    await resolver.close()


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.COM:443/a/b?c#d", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080/", "http://example.com:8080"),
        ("example.com", "https://example.com"),
        ("example.com./", "https://example.com"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
        ("https://[2606:4700::1111]:8443/x", "https://[2606:4700::1111]:8443"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "ftp://example.com",
        "https://user@example.com",
        "https://example.com@evil.example.com",
        "https://example.com:0",
        "https://example.com:99999",
        "https://example.com:x",
        "https://exa mple.com",
        "https://example.com\\@evil.example.com",
        "https://example.com%2f.evil.example.com",
        "javascript://example.com",
    ],
)
def test_what_could_be_read_as_two_places_is_no_origin(url: str) -> None:
    assert origin_of(url) is None


@given(st.text(max_size=60))
def test_an_origin_is_its_own_origin(text: str) -> None:
    origin = origin_of(text)
    if origin is not None:
        assert origin_of(origin) == origin
        assert origin == origin.lower()
        assert origin.count("/") == 2


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@example.com", "https://8.8.8.8\\@10.0.0.1/", "ftp://example.com"]
)
def test_an_address_without_one_clear_origin_is_refused_and_not_shown(url: str) -> None:
    for refuse in (POLICY.check_literal, required_origin):
        with pytest.raises(PermissionDenied) as refusal:
            refuse(url)
        assert refusal.value.reason == "DESTINATION_NOT_ALLOWED"
        assert "hunter2" not in refusal.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "HTTPS://Example.COM:8443/a?b=c",
        "https://93.184.216.34/a",
        "https://[2606:2800:220:1::1]/a",
    ],
)
def test_others_may_be_asked_to_fetch_what_is_public(url: str) -> None:
    assert is_public_https(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "example.com/a.png",
        "data:image/png;base64,AAAA",
        "file:///etc/passwd",
        "https://user@example.com/a",
        "https://localhost/a",
        "https://intranet/a",
        "https://metadata.google.internal/a",
        "https://printer.local./a",
        "https://127.0.0.1/a",
        "https://10.1.2.3/a",
        "https://169.254.169.254/latest",
        "https://[::1]/a",
        "https://[::ffff:10.0.0.1]/a",
        "https://127.1/a",
        "https://2130706433/a",
        "https://0x7f.0x1/a",
        "https://224.0.0.1/a",
        "https:///a",
        "",
    ],
)
def test_others_are_not_asked_to_fetch_what_may_be_inside(url: str) -> None:
    assert not is_public_https(url)
