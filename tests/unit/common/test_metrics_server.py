"""Metrics and liveness over HTTP."""

import http.client
from dataclasses import dataclass

import pytest

from services.common.metrics_server import serve_metrics
from services.common.settings import CommonSettings
from services.common.startup import StartError
from tests.support.child_process import free_port


@dataclass
class Process:
    alive: bool = True


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_process_says_whether_it_works_and_what_it_counts() -> None:
    process, settings = Process(), CommonSettings(metrics_port=free_port())
    serve_metrics(settings, lambda: process.alive)
    assert get(settings.metrics_port, "/livez") == (200, "alive\n")
    process.alive = False
    assert get(settings.metrics_port, "/livez") == (503, "hangs\n")
    status, metrics = get(settings.metrics_port, "/metrics")
    assert status == 200
    assert "python_info" in metrics
    with pytest.raises(StartError, match="COXSWAIN_METRICS_PORT"):
        serve_metrics(settings)
