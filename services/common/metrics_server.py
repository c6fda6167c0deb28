"""What a process tells over HTTP: /metrics, at /livez whether it works, at /readyz whether it takes work."""

import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from services.common.process_state import ProcessState
from services.common.settings import CommonSettings
from services.common.startup import StartError


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Leave requests out of the log."""


def serve_metrics(settings: CommonSettings, state: ProcessState) -> None:
    """Serve where the settings ask for it, in a thread of its own, in plain HTTP also where calls take TLS.

    /livez and /readyz are answered with 200 or 503. A process that is stopped by a signal does not answer.

    Raises:
        StartError: the port is taken.
    """
    if not settings.metrics_port:
        return
    metrics = make_wsgi_app()

    def answer(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environment["PATH_INFO"]:
            case "/metrics":
                pages: Iterable[bytes] = metrics(environment, start_response)
                return pages
            case "/livez":
                status, text = (HTTPStatus.OK, "alive") if state.alive else (HTTPStatus.SERVICE_UNAVAILABLE, "hangs")
            case "/readyz":
                status, text = (
                    (HTTPStatus.OK, "ready") if state.ready else (HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
                )
            case _:
                status, text = HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz"
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    kind = _Server6 if ":" in settings.host else ThreadingWSGIServer
    try:
        server = make_server(settings.host, settings.metrics_port, answer, kind, handler_class=_Handler)
    except OSError as error:
        raise StartError(
            f"COXSWAIN_METRICS_PORT={settings.metrics_port} cannot be served on: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="coxswain-metrics", daemon=True).start()
