"""Failures of upstreams in our words. What could hold a credential is never quoted."""

import contextlib
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.identity.credentials import OutboundCredential
from services.common.identity.provider_credentials import WrongForm
from services.common.logging import redact, repeats_secret
from services.models.domain.model import Model, Provider
from services.models.providers.fault_reading import Fault, FaultKind

_RETRYABLE = frozenset({FaultKind.RATE_LIMIT, FaultKind.UNAVAILABLE})
_MAX_QUOTED = 300
# Nobody but the operator can change the address of shared models.
_WHERE_MODELS_COME_FROM = {
    Provider.OLLAMA: "load it there with `ollama pull`, or have the operator check OLLAMA_BASE_URL",
    Provider.VLLM: "serve it there, or have the operator check VLLM_BASE_URL",
}
# What says where the models of a provider are that have no base_url of their own.
_ADDRESSES = {
    Provider.OPENAI: "OPENAI_BASE_URL",
    Provider.AZURE: "AZURE_OPENAI_ENDPOINT",
    Provider.DATABRICKS: "DATABRICKS_HOST",
    Provider.OLLAMA: "OLLAMA_BASE_URL",
    Provider.VLLM: "VLLM_BASE_URL",
    Provider.LITELLM: "COXSWAIN_MODELS_LITELLM_BASE_URLS",
}
_QUOTATION = '. Its message: "'
# A longer pause is for people, and for no clock: some upstreams send numbers without end.
_LONGEST_WAIT = 366 * 86_400.0


def is_retryable(fault: Fault) -> bool:
    """Return whether the same request may succeed a little later."""
    return fault.kind in _RETRYABLE


def upstream_failure(
    model: Model,
    fault: Fault,
    credential: OutboundCredential | None = None,
    retry_after: float | None = None,
) -> CoxswainError:
    """Return the failure that an upstream's error stands for.

    `credential` is what the upstream was sent; `retry_after` is the seconds that its headers ask to wait.
    """
    metadata = {"model": model.name}
    if fault.status is not None:
        metadata["http_status"] = str(fault.status)
    if retry_after is None:
        retry_after = fault.retry_after
    quoted = _quote(fault.message, credential)
    upstream = f'the upstream of "{model.name}"'
    match fault.kind:
        case FaultKind.CONTEXT_WINDOW:
            return InvalidArgument(
                f'the prompt does not fit "{model.name}"; shorten it or choose a model with a larger window{quoted}',
                reason="CONTEXT_WINDOW_EXCEEDED",
                metadata={"model": model.name, "context_window": str(model.spec.input_limit)},
            )
        case FaultKind.CONTENT_FILTER:
            return InvalidArgument(
                f"{upstream} refused the content by its rules; change the prompt or choose another model{quoted}",
                reason="CONTENT_FILTERED",
                metadata=metadata,
            )
        case FaultKind.QUOTA:
            return ResourceExhausted(
                f"{upstream} reports that the account's quota is used up; raise it there or use another key{quoted}",
                reason="UPSTREAM_QUOTA_EXHAUSTED",
                metadata=metadata,
            )
        case FaultKind.RATE_LIMIT:
            return ResourceExhausted(
                f"{upstream} limits the rate; try again later{quoted}",
                reason="UPSTREAM_RATE_LIMITED",
                metadata=metadata,
                retry_after=1.0 if retry_after is None else retry_after,
            )
        case FaultKind.UNAVAILABLE:
            what = "failed" if fault.status is None else f"failed with HTTP {fault.status}"
            return unavailable(model, what, status=fault.status, retry_after=retry_after, quoted=quoted)
        case FaultKind.CREDENTIAL | FaultKind.PERMISSION:
            return _credential_failure(model, fault, credential, metadata, quoted)
        case FaultKind.NOT_FOUND:
            local = None if model.spec.base_url else _WHERE_MODELS_COME_FROM.get(model.spec.provider)
            what = local or "check upstream_model and base_url of the model"
            hint = f'it does not know "{model.spec.upstream_name}"; {what}'
        case FaultKind.REJECTED if fault.status is not None and 300 <= fault.status < 400:
            hint = "it redirects, and redirects are not followed; set the model's base_url to its final address"
        case FaultKind.REJECTED if fault.status in (None, 400, 413, 422):
            return InvalidArgument(
                f"{upstream} refused the request" + (f" with HTTP {fault.status}" if fault.status else "") + quoted,
                reason="UPSTREAM_REJECTED",
                metadata=metadata,
            )
        case _:
            hint = "check the model's configuration"
    return FailedPrecondition(
        f"{upstream} refused the request with HTTP {fault.status}: {hint}{quoted}",
        reason="UPSTREAM_REJECTED",
        metadata=metadata,
    )


def unavailable(
    model: Model, what: str, *, status: int | None = None, retry_after: float | None = None, quoted: str = ""
) -> Unavailable:
    """Return the failure of an upstream that does not answer, or reports an outage."""
    metadata = {"model": model.name} | ({"http_status": str(status)} if status is not None else {})
    return Unavailable(
        f'the upstream of "{model.name}" {what}; try again later{quoted}',
        reason="UPSTREAM_UNAVAILABLE",
        metadata=metadata,
        retry_after=retry_after if retry_after is not None else 1.0,
    )


def unresolved(model: Model, host: str) -> Unavailable:
    """Return the failure of an upstream whose host has a name that leads nowhere."""
    # Where the operator's addresses lead is not for every group to know.
    setting = _ADDRESSES.get(model.spec.provider, "its provider")
    where = f'the host "{host}" of its base_url' if model.spec.base_url else f"the host of {setting}"
    return unavailable(model, f"cannot be reached: {where} does not resolve")


def bad_response(model: Model, what: str) -> Unavailable:
    """Return the failure of an upstream whose response cannot be read."""
    return Unavailable(
        f'the upstream of "{model.name}" returned an invalid response: {what}',
        reason="UPSTREAM_BAD_RESPONSE",
        metadata={"model": model.name},
    )


def unusable_credential(model: Model, wrong: WrongForm) -> FailedPrecondition:
    """Return the failure of a credential that cannot be sent."""
    return FailedPrecondition(
        f'the credential for "{model.name}" is not of the form that its provider takes; have an admin store {wrong}',
        reason="UPSTREAM_CREDENTIAL_REJECTED",
        metadata={"model": model.name},
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that headers ask to wait, at most a year; None when they do not.

    `retry-after-ms` is in milliseconds (OpenAI, Azure); Retry-After is a number of seconds, "s" behind it or not, or a
    date. Of one that came twice, and was joined on the way, the first counts.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(max(0.0, milliseconds / 1000), _LONGEST_WAIT)
    value = headers.get("Retry-After") or ""
    seconds = _number(value)
    if seconds is None:
        moment = _moment(value)
        seconds = None if moment is None else moment - time.time()
    return None if seconds is None else min(max(0.0, seconds), _LONGEST_WAIT)


def _number(value: str | None) -> float | None:
    text = (value or "").partition(",")[0].strip().removesuffix("s")
    if text[-1:].isalpha():
        # "inf" and "nan" say nothing; 1e400 is a long time.
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _moment(value: str) -> float | None:
    """Return the time of a date, by the clock."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return read(value).timestamp()
    return None


def _credential_failure(
    model: Model,
    fault: Fault,
    credential: OutboundCredential | None,
    metadata: dict[str, str],
    quoted: str,
) -> CoxswainError:
    upstream = f'the upstream of "{model.name}"'
    if credential is not None and credential.on_behalf_of_user:
        what = "refused your token" if fault.kind is FaultKind.CREDENTIAL else "does not let you do this"
        return Unauthenticated(
            f"{upstream} {what}; sign in again or ask for access to the model there{quoted}",
            reason="UPSTREAM_CREDENTIAL_REJECTED",
            metadata=metadata,
        )
    if fault.kind is FaultKind.PERMISSION:
        return FailedPrecondition(
            f"{upstream} refused access with HTTP 403; check there what the key may use{quoted}",
            reason="UPSTREAM_CREDENTIAL_REJECTED",
            metadata=metadata,
        )
    key = "a call without a key" if credential is not None and not credential.token else "the key"
    return FailedPrecondition(
        f"{upstream} refused {key}; have an admin store a valid one for the provider{quoted}",
        reason="UPSTREAM_CREDENTIAL_REJECTED",
        metadata=metadata,
    )


def quoted_words(failure: CoxswainError) -> str:
    """Return the words of the upstream that a failure quotes; empty when it quotes none."""
    return failure.message.partition(_QUOTATION)[2].removesuffix('"')


def _quote(message: str, credential: OutboundCredential | None) -> str:
    text = " ".join("".join(character if character.isprintable() else " " for character in message).split())
    if not text or (credential is not None and repeats_secret(text, credential.token)):
        return ""
    return f'{_QUOTATION}{redact(text)[:_MAX_QUOTED]}"'
