"""Metrics and probes over HTTP."""

import http.client

import pytest

from services.common.metrics_server import serve_metrics
from services.common.process_state import ProcessState
from services.common.settings import CommonSettings
from services.common.startup import StartError
from tests.support.child_process import free_port


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_process_says_whether_it_works_takes_work_and_what_it_counts() -> None:
    now, works = [0.0], [True]
    state, settings = ProcessState(lambda: now[0]), CommonSettings(metrics_port=free_port())
    serve_metrics(settings, state)

    def probes() -> tuple[int, int]:
        return get(settings.metrics_port, "/livez")[0], get(settings.metrics_port, "/readyz")[0]

    assert probes() == (200, 503)
    state.take_work(lambda: works[0])
    assert get(settings.metrics_port, "/readyz") == (200, "ready\n")
    works[0] = False
    assert probes() == (503, 503)
    works[0] = True
    now[0] = 11.0
    assert get(settings.metrics_port, "/livez") == (503, "hangs\n")
    now[0] = 9.0
    assert probes() == (200, 200)
    state.begin_stop()
    assert probes() == (200, 503)
    assert "python_info" in get(settings.metrics_port, "/metrics")[1]
    assert get(settings.metrics_port, "/")[0] == 404
    with pytest.raises(StartError, match="COXSWAIN_METRICS_PORT"):
        serve_metrics(settings, state)
