"""What is logged of clients that go away while something is sent to them."""

import logging
import re
from typing import Any

import structlog

logger = structlog.get_logger(__name__)

_GRPC_LOGGER = "grpc._cython.cygrpc"
# What grpc raises when a connection ends in the middle of an operation; it has no public name.
_BROKEN_OPERATION = "ExecuteBatchError"
_METHOD = re.compile(r"\[(/[^\]]+)\]")


class GoneClients(logging.Filter):
    """Makes one line at INFO of the stack trace that grpc logs as an error when a client goes away during a write."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record of grpc's is logged as it is."""
        kind: Any = record.exc_info[0] if record.exc_info else None
        if kind is None or kind.__name__ != _BROKEN_OPERATION:
            return True
        method = _METHOD.search(record.getMessage())
        logger.info("client_gone", method=method[1] if method else "")
        return False


_FILTER = GoneClients()


def log_gone_clients_quietly() -> None:
    """Have grpc's records filtered; once is enough for a process, more do no harm."""
    logging.getLogger(_GRPC_LOGGER).addFilter(_FILTER)
