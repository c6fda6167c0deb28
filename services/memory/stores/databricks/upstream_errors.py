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
_MAX_CODE = 64
_NO_CODE = re.compile(r"[^A-Za-z0-9_.:-]+")
_READY_RETRY_SECONDS = 10.0

# Expired tokens are reported with 401, 403 or 400, depending on the front end.
_TOKEN_REFUSED = re.compile(
    r"token is expir|invalid access token|expiredjwt|invalid token|token has expired", re.IGNORECASE
)


_SCOPE_MISSING = re.compile(r"\bscopes?\b", re.IGNORECASE)


class IndexMissing(FailedPrecondition):
    """The index or endpoint does not exist upstream."""


class NameReserved(FailedPrecondition):
    """An index of that name is still being removed."""


class AlreadyThere(FailedPrecondition):
    """An index or endpoint of that name exists."""


class CredentialRejected(CoxswainError):
    """The workspace refused the token; never leaves the store."""


def from_response(
    status: int, document: Mapping[str, Any] | None, subject: str, origin: str, token: str
) -> CoxswainError:
    """Return the failure of an answer, which is not quoted where it repeats the `token` that was sent.

    `subject` is what was requested. Example: `index main.memories.unified`. `document` is None when the answer is no
    JSON object, as proxies and pages to sign in answer.
    """
    if 300 <= status < 400 or (status == 404 and document is None):
        return FailedPrecondition(
            f"{origin} answered HTTP {status}, but not as a Databricks workspace does: correct the backend's "
            "workspace_url (UpdateMemoryBackend)",
            reason="STORE_FAILED",
            metadata={"http_status": str(status), "error_code": ""},
        )
    body = document or {}
    code = _NO_CODE.sub("", str(body.get("error_code", "") or ""))[:_MAX_CODE]
    message = str(body.get("message", "") or "")
    text = redact(message)[:_MAX_MESSAGE]
    metadata = {"http_status": str(status), "error_code": "" if repeats_secret(code, token) else code}
    said = f"; it said: {text}" if text and not repeats_secret(message, token) else ""
    if status == 401 or (status in (400, 403) and _TOKEN_REFUSED.search(text)):
        return CredentialRejected(text)
    if status == 403:
        return PermissionDenied(
            f"{origin} does not let this credential use {subject}: {_grants(subject, message)}{said}",
            reason="STORE_FAILED",
            metadata=metadata,
        )
    if status == 404 or code == "RESOURCE_DOES_NOT_EXIST":
        return index_missing(subject)
    if status == 429 or code in ("REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"):
        return Unavailable(
            f"{origin} limits the rate of requests{said}", reason="STORE_FAILED", metadata=metadata, retry_after=1.0
        )
    if code == "QUOTA_EXCEEDED" or "maximum number of indexes" in text.lower():
        return ResourceExhausted(
            f"a quota of {origin} is used up for {subject}{said}; remove what is not needed, or use another endpoint",
            reason="UPSTREAM_QUOTA_EXHAUSTED",
            metadata=metadata,
        )
    if "pending deletion" in text.lower():
        return NameReserved(
            f"{subject} is still being removed; its name can be used again some minutes later",
            reason="INDEX_NOT_READY",
            metadata={"index": _name(subject), "state": "DELETING"},
            retry_after=_READY_RETRY_SECONDS,
        )
    if status == 409 or code in ("ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"):
        return AlreadyThere(f"{subject} exists already", reason="STORE_FAILED", metadata=metadata)
    if code == "INVALID_STATE" or "not ready" in text.lower() or "not online" in text.lower():
        return FailedPrecondition(
            f"{subject} cannot be used now{said}",
            reason="INDEX_NOT_READY",
            metadata={"index": _name(subject), "state": metadata["error_code"] or "INVALID_STATE"},
            retry_after=_READY_RETRY_SECONDS,
        )
    if status >= 500:
        return Unavailable(
            f"{origin} failed with HTTP {status}{said}", reason="STORE_FAILED", metadata=metadata, retry_after=1.0
        )
    return FailedPrecondition(
        f"{origin} refused what was asked of {subject}{said}", reason="STORE_FAILED", metadata=metadata
    )


def index_missing(subject: str) -> IndexMissing:
    """Return the failure of a call that needs what does not exist."""
    return IndexMissing(
        f"{subject} does not exist; ProvisionMemoryBackend makes what a backend needs",
        reason="INDEX_NOT_READY",
        metadata={"index": _name(subject), "state": "NOT_FOUND"},
    )


def _name(subject: str) -> str:
    """Return the bare name of a subject."""
    return subject.partition(" ")[2] or subject


def _grants(subject: str, message: str) -> str:
    """Return what a credential needs for a subject, and how it gets it."""
    if _SCOPE_MISSING.search(message):
        return (
            "its token lacks the scope: let the app that asks for it request vector-search, or "
            "vectorsearch.vector-search-indexes and vectorsearch.vector-search-endpoints"
        )
    kind, _, name = subject.partition(" ")
    catalog, _, rest = name.partition(".")
    schema, _, table = rest.partition(".")
    if kind == "index" and table:
        return (
            f"GRANT USE CATALOG ON CATALOG {catalog}, GRANT USE SCHEMA ON SCHEMA {catalog}.{schema} and GRANT SELECT, "
            f"MODIFY ON TABLE {name} to whom it belongs, CREATE TABLE on the schema where it is to make the index, and "
            "CAN USE on the endpoint"
        )
    return f"give whom it belongs to CAN USE on the {kind}, or CAN MANAGE where it is to make or remove it"


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
        retry_after=1.0,
    )


def unsafe_owner(name: str) -> InvalidArgument:
    """Return the refusal of an owner that a storage-optimized endpoint's filter language cannot hold safely."""
    return InvalidArgument.field(
        name, "storage-optimized endpoints take letters, digits, spaces and any of _ . : @ / + = - ~ | only"
    )
