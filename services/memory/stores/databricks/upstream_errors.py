"""What a workspace's refusals mean to our callers."""

import re
from collections.abc import Mapping
from typing import Any

from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.logging import redact, repeats_secret

_MAX_MESSAGE = 500
_READY_RETRY_SECONDS = 10.0

# Expired tokens are told with 401, 403 or 400, depending on the front end.
_TOKEN_REFUSED = re.compile(
    r"token is expir|invalid access token|expiredjwt|invalid token|token has expired", re.IGNORECASE
)


class IndexMissing(FailedPrecondition):
    """The index or endpoint does not exist upstream."""


class NameReserved(FailedPrecondition):
    """An index of that name is still being removed."""


class AlreadyThere(FailedPrecondition):
    """An index or endpoint of that name exists."""


class CredentialRejected(CoxswainError):
    """The workspace refused the token; never leaves the store."""


def from_response(status: int, body: Mapping[str, Any], subject: str, origin: str, token: str) -> CoxswainError:
    """Return the failure of an answer, which is not quoted where it repeats the `token` that was sent.

    `subject` is what was asked for. Example: `index main.memories.unified`.
    """
    code = str(body.get("error_code", "") or "")
    message = str(body.get("message", "") or "")
    text = redact(message)[:_MAX_MESSAGE]
    metadata = {"http_status": str(status), "error_code": "" if repeats_secret(code, token) else code}
    said = f"; it said: {text}" if text and not repeats_secret(message, token) else ""
    if status == 401 or (status in (400, 403) and _TOKEN_REFUSED.search(text)):
        return CredentialRejected(text)
    if status == 403:
        return PermissionDenied(
            f"{origin} does not let this credential use {subject}: grant it USE CATALOG and USE SCHEMA, SELECT and "
            f"MODIFY on the index and CAN USE on the endpoint{said}",
            reason="STORE_FAILED",
            metadata=metadata,
        )
    if status == 404 or code == "RESOURCE_DOES_NOT_EXIST":
        return IndexMissing(
            f"{subject} does not exist; Provision makes what a backend needs",
            reason="INDEX_NOT_READY",
            metadata={"index": subject, "state": "NOT_FOUND"},
        )
    if status == 429 or code in ("REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"):
        return Unavailable(
            f"{origin} limits the rate of requests{said}", reason="STORE_FAILED", metadata=metadata, retry_after=1.0
        )
    if code == "QUOTA_EXCEEDED" or "maximum number of indexes" in text.lower():
        return ResourceExhausted(
            f"a quota of {origin} is used up for {subject}{said}; remove what is not needed, or use another endpoint",
            reason="QUOTA_EXCEEDED",
            metadata={"quota": metadata["error_code"] or "QUOTA_EXCEEDED"},
        )
    if "pending deletion" in text.lower():
        return NameReserved(
            f"{subject} is still being removed; its name can be used again some minutes later",
            reason="INDEX_NOT_READY",
            metadata={"index": subject, "state": "DELETING"},
            retry_after=_READY_RETRY_SECONDS,
        )
    if status == 409 or code in ("ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"):
        return AlreadyThere(f"{subject} exists already", reason="STORE_FAILED", metadata=metadata)
    if code == "INVALID_STATE" or "not ready" in text.lower() or "not online" in text.lower():
        return FailedPrecondition(
            f"{subject} cannot be used now{said}",
            reason="INDEX_NOT_READY",
            metadata={"index": subject, "state": metadata["error_code"] or "INVALID_STATE"},
            retry_after=_READY_RETRY_SECONDS,
        )
    if status >= 500:
        return Unavailable(
            f"{origin} failed with HTTP {status}{said}", reason="STORE_FAILED", metadata=metadata, retry_after=1.0
        )
    return FailedPrecondition(
        f"{origin} refused what was asked of {subject}{said}", reason="STORE_FAILED", metadata=metadata
    )


def credential_rejected(origin: str, *, on_behalf_of_user: bool) -> CoxswainError:
    """Return the failure of a call whose token the workspace refused. Nobody else's token is tried instead."""
    if on_behalf_of_user:
        return Unauthenticated(f"{origin} refused your token: sign in again", reason="UPSTREAM_CREDENTIAL_REJECTED")
    return FailedPrecondition(
        f"{origin} refused the group's credential: store a valid one (SecretService.PutSecret)",
        reason="UPSTREAM_CREDENTIAL_REJECTED",
    )


def no_answer(origin: str) -> Unavailable:
    """Return the failure of a workspace that cannot be reached."""
    return Unavailable(
        f"{origin} does not answer",
        reason="STORE_FAILED",
        metadata={"http_status": "0", "error_code": ""},
        retry_after=1.0,
    )


def bad_answer(origin: str) -> Unavailable:
    """Return the failure of an answer that is none."""
    return Unavailable(
        f"{origin} answered with something that is not its interface",
        reason="STORE_FAILED",
        metadata={"http_status": "200", "error_code": ""},
    )


def unsafe_owner(name: str) -> InvalidArgument:
    """Return the refusal of an owner that a storage-optimized endpoint's filter language cannot hold safely."""
    return InvalidArgument.field(
        name, "storage-optimized endpoints take letters, digits, spaces and any of _ . : @ / + = - ~ | only"
    )
