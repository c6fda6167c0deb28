"""Failures of upstreams in our words. What could hold a credential is never quoted."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.identity.credentials import OutboundCredential
from services.common.logging import redact, repeats_secret
from services.models.domain.model import Model

RETRYABLE_STATUSES = frozenset({429, 503, 504})

_CONTEXT = re.compile(
    r"context[_ ](?:length|window)|maximum context|(?:prompt|input)[^.]{0,40}too (?:long|large)|too many tokens"
    r"|token limit",
    re.IGNORECASE,
)
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_MAX_QUOTED = 300


def status_failure(
    model: Model, status: int, document: Any, credential: OutboundCredential, retry_after: float | None
) -> CoxswainError:
    """Return the failure an HTTP error stands for; `document` is its JSON body, if it has one."""
    code, message = _code_and_message(document)
    metadata = {"model": model.name, "http_status": str(status)}
    if status in (401, 403):
        return _credential_failure(model, credential, metadata)
    if status == 429:
        out_of_quota = code in _QUOTA_CODES
        return ResourceExhausted(
            f'the upstream of "{model.name}" '
            + ("reports that the account's quota is used up" if out_of_quota else "limits the rate; try again later"),
            reason="UPSTREAM_RATE_LIMITED",
            metadata={"model": model.name},
            retry_after=None if out_of_quota else retry_after if retry_after is not None else 1.0,
        )
    if status >= 500:
        return unavailable(model, f"failed with HTTP {status}", status=status, retry_after=retry_after)
    quoted = _quote(message, credential)
    if status in (400, 413, 422) and (code == "context_length_exceeded" or _CONTEXT.search(message)):
        return InvalidArgument(
            f'the prompt does not fit "{model.name}"; shorten it or choose a model with a larger window{quoted}',
            reason="CONTEXT_WINDOW_EXCEEDED",
            metadata={"model": model.name, "context_window": str(model.spec.context_window)},
        )
    if status in (400, 413, 422):
        return InvalidArgument(
            f'the upstream of "{model.name}" refused the request with HTTP {status}{quoted}',
            reason="UPSTREAM_REJECTED",
            metadata=metadata,
        )
    if 300 <= status < 400:
        hint = "it redirects, and redirects are not followed; set the model's base_url to its final address"
    elif status == 404:
        hint = f'it does not know "{model.spec.upstream_name}"; check upstream_model and base_url of the model'
    else:
        hint = "check the model's configuration"
    return FailedPrecondition(
        f'the upstream of "{model.name}" refused the request with HTTP {status}: {hint}{quoted}',
        reason="UPSTREAM_REJECTED",
        metadata=metadata,
    )


def stream_failure(model: Model, document: Mapping[str, Any], credential: OutboundCredential) -> CoxswainError:
    """Return the failure that an error event in a stream stands for."""
    code, _ = _code_and_message(document)
    if code in ("429", "rate_limit_exceeded", "rate_limit_error", "request_limit_exceeded"):
        return status_failure(model, 429, document, credential, None)
    return unavailable(model, "ended its answer with an error")


def unavailable(model: Model, what: str, *, status: int | None = None, retry_after: float | None = None) -> Unavailable:
    """Return the failure of an upstream that does not answer, or reports an outage."""
    metadata = {"model": model.name} | ({"http_status": str(status)} if status is not None else {})
    return Unavailable(
        f'the upstream of "{model.name}" {what}; try again later',
        reason="UPSTREAM_UNAVAILABLE",
        metadata=metadata,
        retry_after=retry_after if retry_after is not None else 1.0,
    )


def bad_response(model: Model, what: str) -> Internal:
    """Return the failure of an upstream whose response cannot be read."""
    return Internal(
        f'the upstream of "{model.name}" returned an invalid response: {what}',
        reason="UPSTREAM_BAD_RESPONSE",
        metadata={"model": model.name},
    )


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for, which may be a number or a date; None when it is neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _credential_failure(model: Model, credential: OutboundCredential, metadata: dict[str, str]) -> CoxswainError:
    if credential.on_behalf_of_user:
        return Unauthenticated(
            f'the upstream of "{model.name}" refused your token; sign in again or ask for access to the model there',
            reason="UPSTREAM_CREDENTIAL_REJECTED",
            metadata=metadata,
        )
    whose = "the key of this group or installation" if credential.token else "a call without a key"
    return FailedPrecondition(
        f'the upstream of "{model.name}" refused {whose}; have an admin store a valid one for the provider',
        reason="UPSTREAM_CREDENTIAL_REJECTED",
        metadata=metadata,
    )


def _code_and_message(document: Any) -> tuple[str, str]:
    """Read OpenAI's `{"error": {...}}` and Databricks' `{"error_code", "message"}`."""
    if not isinstance(document, Mapping):
        return "", ""
    error = document.get("error")
    if isinstance(error, str):
        return "", error
    if not isinstance(error, Mapping):
        error = {"code": document.get("error_code"), "message": document.get("message") or document.get("detail")}
    code = error.get("code") or error.get("type") or ""
    message = error.get("message")
    return str(code).lower(), message if isinstance(message, str) else ""


def _quote(message: str, credential: OutboundCredential) -> str:
    text = " ".join("".join(character if character.isprintable() else " " for character in message).split())
    if not text or repeats_secret(text, credential.token):
        return ""
    return f'. Its message: "{redact(text)[:_MAX_QUOTED]}"'
