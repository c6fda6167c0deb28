"""Where the way to a source ends, by what a failure comes from."""

import socket
import ssl

import pytest

from services.orchestrator.tool_gateway.ports import NotSent
from services.orchestrator.tool_gateway.usecases.source_tools import failed_step


def caused(*causes: BaseException) -> NotSent:
    failure = NotSent("it cannot be reached")
    inner: BaseException = failure
    for cause in causes:
        inner.__cause__ = cause
        inner = cause
    return failure


@pytest.mark.parametrize(
    ("causes", "step"),
    [
        ((ConnectionRefusedError(),), "address"),
        ((socket.gaierror(),), "address"),
        ((RuntimeError(), ssl.SSLCertVerificationError(), OSError()), "tls"),
        ((ssl.SSLError(),), "tls"),
        ((TimeoutError(),), ""),
        ((ValueError(),), ""),
        ((), ""),
    ],
)
def test_a_step_is_named_where_the_causes_tell_it(causes: tuple[BaseException, ...], step: str) -> None:
    assert failed_step(caused(*causes)) == ({"step": step} if step else {})


def test_causes_that_go_round_end() -> None:
    failure = caused(ValueError())
    assert failure.__cause__ is not None
    failure.__cause__.__cause__ = failure
    assert failed_step(failure) == {}
