"""What errors of upstreams mean, in a status, a body, the first event of a stream or a later one.

Providers agree neither on where an error's words stand nor on its codes, and some send errors with status 200. One
reader knows every form, and one table says what each wording means.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """What can be done about an error."""

    CONTEXT_WINDOW = "context_window"
    """The prompt is too long for the model: shorten it."""
    CONTENT_FILTER = "content_filter"
    """The provider's rules forbid the prompt or the answer."""
    QUOTA = "quota"
    """The account's money or quota is used up: waiting does not help."""
    RATE_LIMIT = "rate_limit"
    """Too many calls or tokens in a short time: wait."""
    CREDENTIAL = "credential"
    """The credential is not valid."""
    PERMISSION = "permission"
    """The credential is valid and may not do this."""
    NOT_FOUND = "not_found"
    """The address or the model is not known there."""
    REJECTED = "rejected"
    """The request is wrong in itself."""
    UNAVAILABLE = "unavailable"
    """The provider is overloaded or failed: another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as an upstream sent it."""

    kind: FaultKind
    status: int | None
    """The HTTP status, or the one that the document names when it came with status 200."""
    message: str
    """The upstream's own words; they may hold anything, a credential too."""
    retry_after: float | None = None
    """Seconds that the document asks to wait."""


# What only errors have, besides `"object": "error"`.
_MARKS = frozenset({"error", "type", "error_code"})


def holds_fault(document: Any) -> bool:
    """Return whether a document that came with status 200 is an error."""
    # Every event of a stream is asked: most have none of what an error has.
    if isinstance(document, dict) and document.keys().isdisjoint(_MARKS) and document.get("object") != "error":
        return False
    return _find(document, strict=True) is not None


def read_words(document: Any) -> Fault | None:
    """Return the error that a document is which should have been an answer and is none; None when it has no words."""
    words = _find(document, strict=False)
    if words is None or not words.message:
        return None
    status = words.status()
    return Fault(_kind(status, words), status, words.message, words.retry_after)


def read_fault(status: int, document: Any) -> Fault:
    """Return what an error means; `document` is its JSON body or event, None when it has none."""
    found = _find(document, strict=status == 200) or _Words()
    effective = status if status != 200 else found.status()
    return Fault(_kind(effective, found), effective, found.message, found.retry_after)


@dataclass(frozen=True, slots=True)
class _Words:
    message: str = ""
    codes: tuple[str, ...] = ()
    """Everything that serves as a code, in lower case: code, type, status."""
    retry_after: float | None = None

    def status(self) -> int | None:
        for code in self.codes:
            if code.isdecimal() and len(code) == 3 and 400 <= int(code) < 600:
                return int(code)
        return next((_STATUS_OF_CODE[code] for code in self.codes if code in _STATUS_OF_CODE), None)


_STATUS_OF_CODE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "validationexception": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "insufficient_quota": 429,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "accessdeniedexception": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "resource_does_not_exist": 404,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limit_reached": 429,
    "request_limit_exceeded": 429,
    "requests_limit_exceeded": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "throttlingexception": 429,
    "api_error": 500,
    "internal": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "internalserverexception": 500,
    "server_error": 500,
    "modelstreamerrorexception": 500,
    "unavailable": 503,
    "temporarily_unavailable": 503,
    "service_unavailable": 503,
    "serviceunavailableexception": 503,
    "modelnotreadyexception": 503,
    "overloaded": 529,
    "overloaded_error": 529,
    "deadline_exceeded": 504,
    "timeout_error": 504,
    "timeout": 504,
}

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"})
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_error", "billing_not_active"})
_KEY_CODES = frozenset({"api_key_invalid"})
"""Google says it with status 400."""
_FILTER_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "invalid_prompt",
        "prohibited_content",
        "sensitive_content",
    }
)

_CONTEXT = re.compile(
    r"""
      maximum\ (?:allowed\ )?context | context[_ -]?(?:length|window|size|limit)[_ ]?(?:is\ )?(?:exceeded|overflow)
    | (?:exceed\w{0,4}|longer\ than|larger\ than|over|beyond|greater\ than)\ [^.\n]{0,60}
      context[_ -]?(?:length|window|size|limit)
    | context[_ -]?(?:length|window|size|limit)\b[^.\n]{0,40}\b(?:exceeded|(?:is|of)\ only|too\ small)
    | \b(?:prompt|inputs?|conversation)(?:\ is|\ are|\ was|\ text\ is)?\ too\ (?:long|large)
    | too\ many\ (?:input\ |prompt\ |total\ )?tokens
    | input\ tokens?\ (?:count\ )?(?:\([\d,]+\)\ )?exceeds?
    | input\ token\ count\ is\ [\d,]+\ but
    | (?:prompt|input)\ token\ count\ [\d,]+\ cannot\ exceed
    | number\ of\ (?:input\ |prompt\ )?tokens\b[^.\n]{0,60}\b(?:exceeds?|cannot\ exceed)
    | tokens?\ in\ the\ prompt\ cannot\ exceed
    | maximum\ prompt\ length | maximum\ model\ length | maximum\ (?:input|prompt)\ tokens
    | `?inputs`?\ tokens\ \+\ `?max_new_tokens`?\ must\ be
    | `?inputs`?\ must\ have\ less\ than\ [\d,]+\ tokens
    | requested\ token\ count\ exceeds | exceeded\ model\ token\ limit
    | (?:input|prompt)\ length\ \([\d,]+(?:\ tokens)?\)\ exceeds | prompt\ exceeds\ max\ length
    | range\ of\ input\ length\ should\ be | context\ window\ exceeds\ limit
    | reduce\ the\ length\ of\ (?:the|your)\ (?:messages|prompt|input)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Larger than what the account may send in a minute: waiting does not help, and a shorter prompt does.
_TOO_LARGE_FOR_A_MINUTE = re.compile(r"request too large for\b[^\n]{0,300}\btokens per min", re.IGNORECASE)
# The request's own limit for the answer is too high: a shorter prompt would not help.
_ANSWER_LIMIT = re.compile(
    r"max_(?:completion_|output_|new_)?tokens\W{0,3}[^.]{0,40}\b(?:is )?too (?:large|high)", re.IGNORECASE
)
_DELAY = re.compile(
    r"""
    \b(?:try\ again|retry)\ (?:in|after)\ (?=\d)
    (?:(\d{1,4})\ ?h(?:ours?)?(?![a-z])\ ?)?
    (?:(\d{1,4})\ ?m(?:in(?:ute)?s?)?(?![a-z])\ ?)?
    (?:(\d{1,7}(?:\.\d{1,12})?)\ ?(ms|milliseconds?|s|secs?|seconds?)\b)?
    """,
    re.IGNORECASE | re.VERBOSE,
)
_QUOTA = re.compile(
    r"exceeded your current quota|insufficient (?:credits?|balance|funds|quota)|credit balance is too low"
    r"|billing (?:hard )?limit|quota (?:is )?used up|out of credits",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content management policy|content[_ ]filter|usage polic(?:y|ies)|safety (?:system|settings|filters?)"
    r"|flagged (?:by|as)|moderation",
    re.IGNORECASE,
)
# Some providers send it with status 400. The bare word may be one of the request's own.
_OVERLOADED = re.compile(
    r"\A\W*overloaded\b|\b(?:is|are|currently|temporarily) overloaded\b|\bat capacity\b|\btemporarily unavailable\b",
    re.IGNORECASE,
)
# Documents with these are answers, or parts of one.
_ANSWER_FIELDS = frozenset({"choices", "data", "usage"})
# Enough for every wording, and a bound on what is searched.
_MAX_MESSAGE = 4000
_CONTEXT_STATUSES = frozenset({None, 400, 413, 422, 500})
_FILTER_STATUSES = frozenset({None, 400, 403, 422, 451})


def _kind(status: int | None, words: _Words) -> FaultKind:
    codes, message = frozenset(words.codes), words.message
    too_long = codes & _CONTEXT_CODES or _CONTEXT.search(message)
    if too_long and status in _CONTEXT_STATUSES and not _ANSWER_LIMIT.search(message):
        return FaultKind.CONTEXT_WINDOW
    if status in (413, 429, None) and _TOO_LARGE_FOR_A_MINUTE.search(message):
        return FaultKind.CONTEXT_WINDOW
    if codes & _KEY_CODES:
        return FaultKind.CREDENTIAL
    if status == 402 or codes & _QUOTA_CODES or (_QUOTA.search(message) and words.retry_after is None):
        return FaultKind.QUOTA
    if status in _FILTER_STATUSES and (codes & _FILTER_CODES or _FILTER.search(message)):
        return FaultKind.CONTENT_FILTER
    match status:
        case None:
            return FaultKind.UNAVAILABLE
        case 401:
            return FaultKind.CREDENTIAL
        case 403:
            return FaultKind.PERMISSION
        case 404:
            return FaultKind.NOT_FOUND
        case 429:
            return FaultKind.RATE_LIMIT
        case 408 | 409 | 424 | 425:
            return FaultKind.UNAVAILABLE
        case _ if status >= 500:
            return FaultKind.UNAVAILABLE
        case 400 if _OVERLOADED.search(message):
            return FaultKind.UNAVAILABLE
        case _:
            return FaultKind.UNAVAILABLE if "overloaded_error" in codes else FaultKind.REJECTED


def _find(document: Any, *, strict: bool) -> _Words | None:
    """Return the words of an error; with `strict` only of a document that cannot be anything else.

    Known forms: `{"error": {"message", "code", "type", "status"}}` (OpenAI, Anthropic, Gemini, OpenRouter), the same as
    a list of one, `{"error": "text"}` (Ollama, TGI), `{"object": "error", "message", "code"}` (vLLM), `{"error_code",
    "message"}` (Databricks), and `{"message", "type"}` or the like with a code that only errors have. `{"errors":
    [...]}`, `{"detail": ...}` and `{"message"}` alone count only beside a status.
    """
    if isinstance(document, list):
        return _find(document[0], strict=strict) if document else None
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if error is True:
        return _words(document, {})
    if isinstance(error, dict) and (error or not strict):
        return _words(error, document)
    if isinstance(error, str) and error:
        return _Words((_text(document.get("message")) or error)[:_MAX_MESSAGE], _codes(document, "error_type", "code"))
    if document.get("object") == "error" or document.get("type") == "error" or document.get("error_code"):
        return _words(document, {})
    errors = document.get("errors")
    if isinstance(errors, list) and errors and not strict:
        return _words(errors[0], {}) if isinstance(errors[0], dict) else _Words(_text(errors[0])[:_MAX_MESSAGE])
    if not strict:
        return _words(document, {})
    if not document.keys().isdisjoint(_ANSWER_FIELDS):
        return None
    words = _words(document, {})
    return words if words.message and words.status() is not None else None


def _words(error: Mapping[str, Any], around: Mapping[str, Any]) -> _Words:
    message = _text(error.get("message")) or _text(error.get("detail")) or _text(around.get("message"))
    # OpenRouter passes the provider's own words on as metadata.
    metadata = error.get("metadata")
    raw = _text(metadata.get("raw")) if isinstance(metadata, dict) else ""
    if raw and raw not in message:
        message = f"{message}: {raw}" if message else raw
    inner = error.get("innererror")
    codes = _codes(error, "code", "type", "status", "error_code", "__type")
    if isinstance(inner, dict):
        codes += _codes(inner, "code")
    for detail in details if isinstance(details := error.get("details"), list) else ():
        if isinstance(detail, dict):
            codes += _codes(detail, "reason")
    message = message[:_MAX_MESSAGE]
    delay = _retry_delay(error.get("details"))
    return _Words(message, codes, _delay_in_words(message) if delay is None else delay)


def _codes(error: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    found = []
    for name in names:
        value = error.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            found.append(str(value))
        elif isinstance(value, str) and value:
            found.append(value.rpartition("#")[2].lower())
    return tuple(found)


def _text(value: Any) -> str:
    """Return the words in a value; FastAPI's `detail` is a list of objects with `loc` and `msg`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = (_detail(item) if isinstance(item, dict) else _string(item) for item in value[:5])
        return "; ".join(part for part in parts if part)
    return ""


def _detail(item: Mapping[str, Any]) -> str:
    """Return the words of one item, after the name of the field that they are about."""
    words = _text(item.get("msg") or item.get("message"))
    where = item.get("loc")
    field = _string(where[-1]) if isinstance(where, list) and where else ""
    return f"{field}: {words}" if words and field and field not in words else words


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _retry_delay(details: Any) -> float | None:
    """Return the seconds of a `google.rpc.RetryInfo` among an error's details. Example: `{"retryDelay": "6.5s"}`."""
    if not isinstance(details, list):
        return None
    for detail in details:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                seconds = float(delay[:-1])
            except ValueError:
                continue
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
    return None


def _delay_in_words(message: str) -> float | None:
    """Return the seconds that a message asks to wait. Examples: `try again in 1m7.5s`, `retry after 26 seconds`."""
    found = _DELAY.search(message)
    if found is None:
        return None
    hours, minutes, number, unit = found.groups()
    if not (hours or minutes or number):
        return None
    seconds = float(number or 0) / (1000 if unit and unit.lower().startswith("m") else 1)
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + seconds
