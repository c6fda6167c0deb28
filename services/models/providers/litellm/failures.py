"""What the helper's errors mean: requests that failed on the way, and litellm's errors with the provider's words."""

import ast
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied
from services.common.identity.credentials import OutboundCredential
from services.models.domain.model import Model
from services.models.providers.fault_reading import Fault, FaultKind, holds_fault, read_fault, read_words
from services.models.providers.litellm.refused_parameters import refused_parameters
from services.models.providers.retries import RetryableError
from services.models.providers.upstream_errors import (
    bad_response,
    is_retryable,
    retry_after_seconds,
    unavailable,
    unresolved,
    upstream_failure,
)

_IN_A_STREAM = "Got unexpected response from"
_MAX_LITERAL = 4000
_LAST_LINES = 8
_PREFIX = re.compile(
    r"^(?:(?:litellm\.)?(?:[A-Za-z.]{1,80}(?:Error|Exception)\s*[:-]\s*)+(?:[A-Za-z_ -]{1,40}:\s+)?"
    r"|litellm\.\w{1,80}:\s+)"
)
_ADVICE = re.compile(r"\.? ?Handle with `litellm\.\w{1,80}`\.?\s*$")


def work_is_lost(error: Mapping[str, Any], *, sent: bool) -> bool:
    """Return whether the provider worked for a call that failed and has it paid for; `sent`: its request had left."""
    if (said := _unread(error)) is not None:
        return not any(holds_fault(document) or read_words(document) for document in _documents_in(said))
    match error.get("code"):
        case "cut" | "stalled" | "too_large" | "unexpected":
            return bool(error.get("answering"))
        case "silent" | "unreachable":
            # Whether it began to work before the connection was lost, only the provider knows.
            return sent and not error.get("refused")
        case _:
            return False


def failure_of(
    model: Model, error: Mapping[str, Any], credential: OutboundCredential, *, streamed: bool, idle_seconds: float
) -> CoxswainError | RetryableError:
    """Return what an error of the helper stands for.

    `credential` is what no message may repeat; `streamed` says that the answer was to come as a stream.
    """
    # A whole answer was made before its status came; a stream is made while it comes.
    not_made = not error.get("answering") or (streamed and not error.get("begun"))
    match error.get("code"):
        case "elsewhere":
            return _elsewhere(model, str(error.get("message")))
        case "too_large":
            return bad_response(model, "it is larger than the limit")
        case "unsupported_parameters":
            return refused_parameters(model, str(error.get("message")))
        case "unsendable":
            return FailedPrecondition(
                f'the request to the upstream of "{model.name}" could not be sent; check the configuration of the '
                "model and its credential",
                reason="UPSTREAM_REJECTED",
                metadata={"model": model.name},
            )
        case "unexpected" if error.get("said") is None:
            return bad_response(model, "litellm cannot read it")
        case "stalled":
            return unavailable(model, f"sent nothing for {idle_seconds:g} s")
        case "silent":
            failure = unavailable(model, "sent nothing for too long")
            return RetryableError(failure) if not_made else failure
        case "cut" if not not_made:
            what = "closed the connection before its answer was complete" if streamed else "broke off its answer"
            return unavailable(model, what)
        case "unresolved":
            return RetryableError(unresolved(model, str(error.get("message"))))
        case "cut" | "unreachable" if error.get("said") is None:
            if not_made:
                return RetryableError(unavailable(model, "did not answer"))
            return bad_response(model, "litellm cannot read it")
    if (said := _unread(error)) is not None:
        return _failure_in(said, model, error, credential)
    if not (not_made or error.get("code")):
        # The status is litellm's own, for an answer that is no text.
        return bad_response(model, "litellm cannot read it")
    return _fault_of(model, error, credential)


def _failure_in(
    said: str, model: Model, error: Mapping[str, Any], credential: OutboundCredential
) -> CoxswainError | RetryableError:
    """Return the failure of an answer that litellm cannot read, by what its end says."""
    documents = _documents_in(said)
    for document in documents:
        if holds_fault(document):
            return _failure(model, read_fault(200, document), credential, error)
    for document in documents:
        if (fault := _fault_of_choice(document) or read_words(document)) is not None:
            return upstream_failure(model, fault, credential)
    return bad_response(model, "litellm cannot read it")


def _unread(error: Mapping[str, Any]) -> str | None:
    """Return the end of an answer with success that litellm cannot read: the provider's error, or no answer."""
    said = error.get("said")
    return said if isinstance(said, str) and error.get("code") in ("", "unexpected", "unreachable") else None


def _documents_in(said: str) -> list[Any]:
    """Return the document that an answer is, or those at the end of its events or lines, the last one first."""
    documents: list[Any] = []
    for text in (said, *reversed(said.split("\n")[-_LAST_LINES:])):
        with contextlib.suppress(ValueError, RecursionError):
            documents.append(json.loads(text.strip().removeprefix("data:")))
    return documents


def _fault_of_choice(document: Any) -> Fault | None:
    """Return the error that an answer ended with."""
    choices = document.get("choices") if isinstance(document, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None
    if holds_fault({"error": first.get("error")}):
        return read_fault(200, {"error": first["error"]})
    ended_with_error = first.get("finish_reason") == "error"
    return Fault(FaultKind.UNAVAILABLE, None, "the answer ended with an error") if ended_with_error else None


def _fault_of(model: Model, error: Mapping[str, Any], credential: OutboundCredential) -> CoxswainError | RetryableError:
    """Return the failure that an error of litellm stands for."""
    status, message = error.get("status"), str(error.get("message") or "")
    if not isinstance(status, int) or not 400 <= status < 600:
        return RetryableError(unavailable(model, "did not answer"))
    document = None if error.get("code") else _own_document(message)
    if document is None:
        document = {"error": {"code": error.get("code"), "message": _own_words(message)}}
    # Then the status is litellm's, for an error in the middle of a stream of status 200.
    fault = read_fault(200 if _IN_A_STREAM in message and holds_fault(document) else status, document)
    return _failure(model, fault, credential, error)


def _failure(
    model: Model, fault: Fault, credential: OutboundCredential, error: Mapping[str, Any]
) -> CoxswainError | RetryableError:
    retry_after = retry_after_seconds(error.get("headers") or {})
    failure = upstream_failure(model, fault, credential, retry_after)
    return RetryableError(failure, retry_after or fault.retry_after or 0.0) if is_retryable(fault) else failure


def _elsewhere(model: Model, origin: str) -> PermissionDenied:
    """Return the failure of a call that litellm would have sent to another origin than its credential's."""
    return PermissionDenied(
        f'calls of "{model.name}" would go to {origin}, and their credential was not asked for there; correct the '
        "options or the name of the model, or have the operator give the provider's address in "
        "COXSWAIN_MODELS_LITELLM_BASE_URLS",
        reason="DESTINATION_NOT_ALLOWED",
        metadata={"model": model.name, "origin": origin},
    )


def _own_words(message: str) -> str:
    """Return the provider's words in a message of litellm's: without the names of its exceptions and providers."""
    document = _own_document(message)
    return _ADVICE.sub("", _PREFIX.sub("", message)).strip() if document is None else read_fault(500, document).message


def _own_document(message: str) -> Any:
    """Return the provider's error in a message of litellm's, with its codes and details; None where it has no words."""
    start = message.find("{")
    if start < 0:
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(message, start)
    except (ValueError, RecursionError):
        try:
            # Some of litellm's messages show what came as Python writes it.
            document = ast.literal_eval(message[start : start + _MAX_LITERAL])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return document if read_fault(500, document).message else None
