"""Structured logs: one line of JSON for each event (or coloured text on a terminal), without secrets."""

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = re.compile(r"token|secret|password|authorization|credential$|api_key|private_key|cookie", re.IGNORECASE)
# Bearer values, JSON web tokens, Databricks tokens and provider keys, wherever they stand in a text.
_SECRET_VALUES = re.compile(
    r"(?i:bearer\s+)[^\s\"',;]+|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*|\bdapi[0-9a-f]{8,}[\w-]*|\bsk-[\w-]{8,}|\bcoxt_[\w-]{8,}"
)
_REDACTED = "[redacted]"
_COUNTS = re.compile(r"tokens$")
# This many characters of a secret in a row are not there by chance.
_PIECE = 8
_MOST_CHARACTERS = 500
"""Of what a library says, and of its error."""
# Of tasks and callbacks whose errors nobody has handled; of methods that failed outside of the pipeline.
_TELL_OF_OUR_CODE = frozenset({"asyncio", "grpc._cython.cygrpc"})


def redact(text: str) -> str:
    """Return `text` with everything that looks like a credential replaced."""
    return _SECRET_VALUES.sub(_REDACTED, text)


def is_secret_name(name: str) -> bool:
    """Return whether what has this name is secret."""
    return bool(_SECRET_KEYS.search(name)) and not _COUNTS.search(name)


def repeats_secret(text: str, secret: str) -> bool:
    """Return whether a text holds a secret or a piece of it, as some upstreams show which one they refused."""
    if not secret:
        return False
    if len(secret) < _PIECE:
        return secret in text
    return any(secret[start : start + _PIECE] in text for start in range(len(secret) - _PIECE + 1))


def _redact_event(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if is_secret_name(key):
            event[key] = _REDACTED
        elif isinstance(value, str):
            event[key] = redact(value)
    return event


def configure_logging(level: str, *, service: str, about: Callable[[], Mapping[str, str]] = dict) -> None:
    """Send structlog's and the standard library's records through one pipeline to standard error.

    `level` is a standard name such as "INFO". Lines are JSON unless standard error is a terminal. `about` returns what
    each line says of the work it is written in; what the line says itself comes first.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add(about),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _add(lambda: {"service": service}),
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _shorten],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_event,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These libraries log each statement or request at INFO, request bodies among them.
    for noisy in ("sqlalchemy.engine", "aiosqlite", "alembic", "httpx", "aiohttp.access", "pgserver"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def _add(fields: Callable[[], Mapping[str, str]]) -> structlog.types.Processor:
    def add(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in fields().items():
            event.setdefault(name, value)
        return event

    return add


def _shorten(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make one line of what a library says, and of the error that it found: there is nothing of ours to look for.

    But for those that tell of our own code, whose errors keep their tracebacks.
    """
    event["event"] = _first_line(str(event["event"]))
    error = event.get("exc_info")
    if isinstance(error, tuple) and error[1] is not None and event.get("logger") not in _TELL_OF_OUR_CODE:
        del event["exc_info"]
        event["error"] = f"{type(error[1]).__name__}: {_first_line(str(error[1]))}"
    return event


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_MOST_CHARACTERS]
