"""The rules that every request of the litellm helper is under."""

import socket

import aiohttp
import httpx
import pytest

from services.models.providers.litellm.exchange import (
    Exchange,
    Failure,
    TimeLimits,
    _admit,
    _failure_of,
    current_exchange,
)

ORIGIN = "https://example.com"


def unresolved() -> Exception:
    error = httpx.ConnectError("x")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return error


@pytest.fixture
def exchange() -> Exchange:
    exchange = Exchange(ORIGIN, TimeLimits(1.0, 2.0, 3.0), streamed=False, note_sent=lambda: None)
    current_exchange.set(exchange)
    return exchange


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (httpx.ConnectError("x"), Failure.UNREACHABLE),
        (unresolved(), Failure.UNRESOLVED),
        (httpx.ConnectTimeout("x"), Failure.UNREACHABLE),
        (httpx.RemoteProtocolError("x"), Failure.UNREACHABLE),
        (httpx.RequestError("400, message='Invalid header'"), Failure.UNREACHABLE),
        (aiohttp.ServerDisconnectedError(), Failure.UNREACHABLE),
        (ConnectionResetError(), Failure.UNREACHABLE),
        (httpx.ReadTimeout("x"), Failure.SILENT),
        (ValueError("Forbidden control character"), Failure.UNSENDABLE),
        (UnicodeEncodeError("ascii", "x", 0, 1, "x"), Failure.UNSENDABLE),
        (httpx.LocalProtocolError("Illegal header value"), Failure.UNSENDABLE),
        (httpx.UnsupportedProtocol("x"), Failure.UNSENDABLE),
        (aiohttp.InvalidURL("x"), Failure.UNSENDABLE),
        (RuntimeError("x"), Failure.UNSENDABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_only_what_happens_on_the_way_is_an_outage(error: Exception, failure: Failure) -> None:
    assert _failure_of(error) is failure


@pytest.mark.parametrize(("blocking", "seconds"), [(False, None), (True, 2.0)])
def test_a_request_that_nothing_else_watches_has_its_own_limits(
    exchange: Exchange, blocking: bool, seconds: float | None
) -> None:
    request = httpx.Request("POST", f"{ORIGIN}/x", content=b"x")
    assert _admit(request, blocking=blocking) is exchange
    assert request.extensions["timeout"] == {"connect": 1.0, "read": seconds, "write": seconds, "pool": seconds}


def test_what_a_refusal_said_is_forgotten_when_an_answer_begins(exchange: Exchange) -> None:
    exchange.has_answered(success=False)
    exchange.hear(b'{"error": "first"}')
    assert (exchange.refused, exchange.said) == (True, None)
    exchange.has_answered(success=True)
    exchange.hear(b"second")
    assert (exchange.refused, exchange.said) == (False, "second")
