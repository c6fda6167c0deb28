"""A client that goes away is one line in the log, and every other failure of grpc's stays what it is."""

import importlib
import logging
from typing import Any

import pytest
import structlog

from services.common.grpc.gone_clients import log_gone_clients_quietly


def logged(error: Exception, caplog: pytest.LogCaptureFixture) -> tuple[list[logging.LogRecord], list[Any]]:
    log_gone_clients_quietly()
    with structlog.testing.capture_logs() as events:
        try:
            raise error
        except Exception:
            logging.getLogger("grpc._cython.cygrpc").exception(
                "%s raised in core by servicer method [/coxswain.x.v1.XService/Do]", type(error).__name__
            )
    return caplog.records, list(events)


def test_a_broken_write_is_one_line_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    broken = importlib.import_module("grpc._cython.cygrpc").ExecuteBatchError
    records, events = logged(broken("Failed grpc call batch"), caplog)
    assert records == []
    assert events == [{"event": "client_gone", "log_level": "info", "method": "/coxswain.x.v1.XService/Do"}]


def test_any_other_failure_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    records, events = logged(ValueError("no"), caplog)
    assert [(record.levelname, record.exc_info is not None) for record in records] == [("ERROR", True)]
    assert events == []
