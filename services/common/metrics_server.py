"""What a process tells over HTTP: its metrics at /metrics, and at /livez whether it works."""

import socket
import threading
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from services.common.settings import CommonSettings
from services.common.startup import StartError

Answer = tuple[str, bytes]


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Leave requests out of the log."""


def serve_metrics(settings: CommonSettings, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Serve where the settings ask for it, in a thread of its own.

    /livez is answered with 200, or with 503 when the process has to be started again. One that is stopped or starved
    does not answer.

    Raises:
        StartError: the port is taken.
    """
    if not settings.metrics_port:
        return
    metrics = make_wsgi_app()

    def answer(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environment["PATH_INFO"] != "/livez":
            pages: Iterable[bytes] = metrics(environment, start_response)
            return pages
        alive = is_alive()
        start_response("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"alive\n" if alive else b"hangs\n"]

    kind = _Server6 if ":" in settings.host else ThreadingWSGIServer
    try:
        server = make_server(settings.host, settings.metrics_port, answer, kind, handler_class=_Handler)
    except OSError as error:
        raise StartError(
            f"COXSWAIN_METRICS_PORT={settings.metrics_port} cannot be served on: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="coxswain-metrics", daemon=True).start()
