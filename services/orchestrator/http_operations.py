"""Operations over HTTP that a group writes: what they may be. The tool gateway makes their calls."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from services.common.egress import origin_of
from services.common.errors import FieldViolation
from services.orchestrator.domain.tool_source import HttpApi, HttpOperation

READ_METHODS = frozenset({"GET", "HEAD"})
METHODS = READ_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.-]{1,128})\}")
"""Where an argument goes in a template."""
_PATH = re.compile(r"/[^?#\s\x00-\x1f\x7f\\]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# Servers take the method of a request from headers or parameters of these names, written with - or _.
_METHOD_OVERRIDES = frozenset(
    {
        "-method",
        "-httpmethod",
        "-http-method",
        "http-method",
        "http-method-override",
        "method-override",
        "x-http-method",
        "x-http-method-override",
        "x-method",
        "x-method-override",
    }
)
_OF_CALLER_OR_CONNECTION = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    }
)
_BEGINNINGS_OF_CALLER_OR_CONNECTION = ("x-forwarded-", "proxy-", "sec-")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


def placeholders(template: Any) -> Iterator[str]:
    """Yield the names of the arguments that a template, or the strings in a JSON value, ask for."""
    pending = [template]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            yield from PLACEHOLDER.findall(part)
        elif isinstance(part, Mapping):
            pending.extend(part.values())
        elif isinstance(part, list | tuple):
            pending.extend(part)


def overrides_method(name: str) -> bool:
    """Return whether servers may take a header or a parameter of this name for the method of the request."""
    return name.strip().lower().replace("_", "-") in _METHOD_OVERRIDES


def is_of_caller_or_connection(header: str) -> bool:
    """Return whether a header says who calls or how the connection is used: neither is for groups or models to say."""
    lower = header.lower()
    return lower in _OF_CALLER_OR_CONNECTION or lower.startswith(_BEGINNINGS_OF_CALLER_OR_CONNECTION)


def check_base_url(url: str) -> str:
    """Return what is wrong with the base address of an API; empty: nothing."""
    parts = urlsplit(url) if origin_of(url) else None
    if parts is None or not parts.scheme or parts.query or parts.fragment or (parts.path and not _is_path(parts.path)):
        return "write it as https://HOST or https://HOST/PATH, without a query and a user name"
    return ""


def check_http_api(api: HttpApi, field: str = "spec.http") -> Iterator[FieldViolation]:
    """Yield what keeps an API from being called as it is written."""
    if problem := check_base_url(api.base_url):
        yield FieldViolation(f"{field}.base_url", problem)
    names: set[str] = set()
    for position, operation in enumerate(api.operations):
        path = f"{field}.operations[{position}]"
        if operation.name in names:
            yield FieldViolation(f"{path}.name", f"{operation.name} is the name of an earlier operation")
        names.add(operation.name)
        yield from _check_operation(path, operation)


def _check_operation(path: str, operation: HttpOperation) -> Iterator[FieldViolation]:
    if operation.method.upper() not in METHODS:
        yield FieldViolation(f"{path}.method", f"has to be one of {', '.join(sorted(METHODS))}")
    if not _is_path(operation.path):
        yield FieldViolation(
            f"{path}.path", "has to begin with / and must not hold ?, #, blanks or the steps . and ..: see query"
        )
    if operation.body is not None and operation.method.upper() in READ_METHODS:
        yield FieldViolation(f"{path}.body", f"{operation.method.upper()} has no body")
    if operation.idempotency_header and not _HEADER_NAME.fullmatch(operation.idempotency_header):
        yield FieldViolation(f"{path}.idempotency_header", "has to be the name of a header")
    if not _POINTER.fullmatch(operation.result_pointer):
        yield FieldViolation(f"{path}.result_pointer", 'has to be a JSON Pointer, such as "/data/items"')
    declared = operation.arguments_schema.get("properties")
    declared = declared if isinstance(declared, dict) else {}
    used = {*placeholders(operation.path), *placeholders(operation.query), *placeholders(operation.body)}
    for name in sorted(used - set(declared)):
        yield FieldViolation(f"{path}.arguments_schema", f"has no property {name}, which the request asks for")


def _is_path(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and not any(step in (".", "..") for step in path.lower().split("/"))
