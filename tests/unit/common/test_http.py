"""The way out over HTTP: groups reach no address inside, and nothing of one call reaches the next."""

import asyncio
import gzip
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from services.common import egress
from services.common.egress import AddressPolicy
from services.common.errors import PermissionDenied
from services.common.http import AnswerLost, EgressClient, Undecodable, iter_body, read_limited

CLOSED = AddressPolicy(setting="ALLOWED")
LOOPBACK = AddressPolicy([ipaddress.ip_network("127.0.0.0/8")], setting="ALLOWED")


@asynccontextmanager
async def serving(seen: list[web.Request]) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        seen.append(request)
        if request.path == "/redirect":
            raise web.HTTPFound("/elsewhere")
        response = web.Response(body=b"x" * int(request.query.get("bytes", 1)))
        response.set_cookie("session", "1")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(policy: AddressPolicy) -> AsyncIterator[EgressClient]:
    client = EgressClient(policy, connect_timeout=1, total_timeout=5, connections_per_origin=2)
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
async def test_no_spelling_of_a_group_reaches_this_machine(host: str, scheme: str) -> None:
    seen: list[web.Request] = []
    async with serving(seen) as port, client_of(CLOSED) as client:
        with pytest.raises((PermissionDenied, aiohttp.InvalidURL)):
            await client.request("POST", f"{scheme}://{host}:{port}/x", trusted=False, data=b"{}")
        (await client.request("POST", f"http://127.0.0.1:{port}/trusted", trusted=True, data=b"{}")).close()
    assert [request.path for request in seen] == ["/trusted"]


async def test_a_name_that_leads_to_one_private_address_among_public_ones_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "169.254.169.254")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    async with client_of(CLOSED) as client:
        with pytest.raises(PermissionDenied) as failure:
            await client.request("GET", "https://rebound.example.com/x", trusted=False)
    assert failure.value.metadata == {"origin": "https://rebound.example.com"}
    assert "169.254" not in failure.value.message


async def test_names_that_are_not_answered_hold_neither_other_work_nor_their_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, answered, asked = asyncio.get_running_loop(), threading.Event(), asyncio.Event()

    def silent(*_: object) -> list[tuple[object, ...]]:
        loop.call_soon_threadsafe(asked.set)
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr(egress, "_LOOKUP_SECONDS", 0.5)
    loop.set_default_executor(ThreadPoolExecutor(1))
    try:
        async with asyncio.timeout(60), client_of(CLOSED) as client:
            call = asyncio.create_task(refusal(client, "https://slow.example.com/"))
            await asked.wait()
            await asyncio.to_thread(int)
            assert "TimeoutError" in repr(await call)
    finally:
        answered.set()


async def refusal(client: EgressClient, url: str) -> BaseException:
    with pytest.raises((aiohttp.ClientError, OSError)) as failure:
        await client.request("GET", url, trusted=False)
    return failure.value


@pytest.mark.parametrize("trusted", [True, False])
async def test_neither_redirects_nor_cookies_nor_proxies_are_followed(
    trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen: list[web.Request] = []
    async with serving(seen) as port, client_of(LOOPBACK) as client:
        for path in ("redirect", "again"):
            response = await client.request("GET", f"http://127.0.0.1:{port}/{path}", trusted=trusted)
            response.close()
        assert [request.path for request in seen] == ["/redirect", "/again"]
        assert "Cookie" not in seen[1].headers
        assert seen[1].headers["User-Agent"] == "coxswain"


async def test_a_form_and_a_body_arrive_as_they_are() -> None:
    seen: list[web.Request] = []
    async with serving(seen) as port, client_of(CLOSED) as client:
        url = f"http://127.0.0.1:{port}/x"
        (await client.request("POST", url, trusted=True, data={"grant_type": "a b"})).close()
        (
            await client.request("PUT", url, trusted=True, data=b"{}", headers={"Content-Type": "application/json"})
        ).close()
        assert dict(await seen[0].post()) == {"grant_type": "a b"}
        assert await seen[1].read() == b"{}"
        assert seen[1].content_type == "application/json"


@pytest.mark.parametrize(("size", "read"), [(1000, 1000), (1001, None)])
async def test_a_body_is_read_up_to_a_limit(size: int, read: int | None) -> None:
    async with serving([]) as port, client_of(CLOSED) as client:
        response = await client.request("GET", f"http://127.0.0.1:{port}/?bytes={size}", trusted=True)
        async with response:
            body = await read_limited(response, 1000)
    assert (body if body is None else len(body)) == read


async def test_packed_bodies_are_unpacked_in_small_steps_and_bounded() -> None:
    async def packed(_request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"a" * 10_000_000), headers={"Content-Encoding": "gzip"})

    async def odd(request: web.Request) -> web.Response:
        mark = b"\x1f" if "damaged" in request.query else b"x"
        return web.Response(body=mark + b"x" * 99, headers={"Content-Encoding": request.path.strip("/")})

    app = web.Application()
    app.router.add_get("/packed", packed)
    app.router.add_get("/{any}", odd)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with client_of(CLOSED) as client:
        async with await client.request("GET", f"{address}/packed", trusted=True) as response:
            pieces = [len(piece) async for piece in iter_body(response)]
        assert sum(pieces) == 10_000_000
        assert max(pieces) <= 64 * 1024
        async with await client.request("GET", f"{address}/packed", trusted=True) as response:
            assert await read_limited(response, 1_000_000) is None
        for path in ("gzip?damaged", "br"):
            async with await client.request("GET", f"{address}/{path}", trusted=True) as response:
                with pytest.raises(Undecodable):
                    await read_limited(response, 1_000_000)
        # What is not packed is read as it is, whatever its label says.
        for path in ("identity", "gzip"):
            async with await client.request("GET", f"{address}/{path}", trusted=True) as response:
                assert await read_limited(response, 1_000_000) == b"x" * 100
    await runner.cleanup()


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (gzip.compress(b"a" * 100) + gzip.compress(b"b" * 100), b"a" * 100 + b"b" * 100),
        (gzip.compress(b"a" * 100_000) + gzip.compress(b"") + gzip.compress(b"b"), b"a" * 100_000 + b"b"),
        (gzip.compress(b"a" * 100) + b"\0" * 20, b"a" * 100),
        (b"", b""),
        (gzip.compress(b"a" * 100)[:-1], None),
        (gzip.compress(b"a" * 100) + gzip.compress(b"b" * 100)[:-9], None),
    ],
    ids=["two members", "an empty member", "padding", "nothing", "cut off", "second one cut off"],
)
async def test_a_packed_body_is_whole_or_an_error(body: bytes, read: bytes | None) -> None:
    async def packed(_request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/", packed)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with client_of(CLOSED) as client:
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with await client.request("GET", address, trusted=True) as response:
            if read is None:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await read_limited(response, 1_000_000)
            else:
                assert await read_limited(response, 1_000_000) == read
    await runner.cleanup()


@asynccontextmanager
async def losing(seen: list[str]) -> AsyncIterator[int]:
    """Serve what closes every connection instead of answering."""

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.method)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_what_must_not_be_repeated_is_sent_once_whatever_its_method(method: str) -> None:
    seen: list[str] = []
    told: list[str] = []

    async def before_send() -> None:
        told.append("sent")
        assert not seen

    async with losing(seen) as port, client_of(LOOPBACK) as client:
        with pytest.raises(AnswerLost):
            await client.request(method, f"http://127.0.0.1:{port}/", trusted=False, before_send=before_send)
    assert (seen, told) == ([method], ["sent"])


async def test_nothing_is_said_of_a_request_that_has_no_connection() -> None:
    told: list[str] = []

    async def before_send() -> None:
        told.append("sent")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        async with client_of(LOOPBACK) as client:
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.request("POST", url, trusted=False, before_send=before_send)
    async with client_of(CLOSED) as client:
        with pytest.raises(PermissionDenied):
            await client.request("POST", url, trusted=False, before_send=before_send)
    assert told == []


async def test_nothing_is_sent_where_it_may_not_be() -> None:
    seen: list[web.Request] = []

    async def before_send() -> None:
        raise RuntimeError("another process makes this call")

    async with serving(seen) as port, client_of(LOOPBACK) as client:
        with pytest.raises(RuntimeError):
            await client.request("POST", f"http://127.0.0.1:{port}/", trusted=False, before_send=before_send)
        assert seen == []
        for _ in range(2):
            (await client.request("POST", f"http://127.0.0.1:{port}/", trusted=False)).close()
    assert len(seen) == 2
