"""docs/errors.md: every reason of a failure, from error_reason.proto."""

import re
from collections.abc import Iterator

from coxswain.common.v1.error_reason_pb2 import ErrorReason
from tools.reference import protos
from tools.reference.markdown import paragraphs

_PREFIX = "ERROR_REASON_"
_ENUM = "coxswain.common.v1.ErrorReason"
_SECTIONS = {
    1: "Requests, resources and servers",
    20: "Identity and credentials",
    40: "Models",
    60: "Memory and limits",
    80: "Crews and executions",
    130: "Tools",
    160: "Files",
}
"""Title of the section that begins with the reason of that number."""

# What a caller does about each status code that a reason comes with.
_REMEDIES = {
    "ABORTED": "Read what is stored now, and decide anew: somebody else, or part of this call, has changed it.",
    "ALREADY_EXISTS": "Take what exists (`metadata` names it), or choose another name or id.",
    "CANCELLED": "Nothing, if you cancelled; else start again.",
    "DEADLINE_EXCEEDED": "Find out whether it has happened before you repeat it, or repeat it with the same"
    " `request_id`; then allow more time.",
    "FAILED_PRECONDITION": "Change what the text names (a state, a setting, another resource); until then the same call"
    " fails.",
    "INTERNAL": "Report it with the id in `RequestInfo`, under which the log has the cause. Repeat only what is safe to"
    " repeat.",
    "INVALID_ARGUMENT": "Correct the request. `BadRequest` names each field at fault and says what is allowed.",
    "NOT_FOUND": "Check the id or name, and the group you call in: what another group has does not exist for you.",
    "PERMISSION_DENIED": "Ask an admin of the group for the right that the text names, or call as somebody who has it.",
    "RESOURCE_EXHAUSTED": "With `RetryInfo` wait as long as it says. Without it waiting does not help, unless the text"
    " says when it does: ask for less, or have the limit in `metadata` raised.",
    "UNAUTHENTICATED": "Send a valid credential; get a new token if yours has expired.",
    "UNAVAILABLE": "Repeat the call after the time in `RetryInfo`, with growing pauses and the same `request_id`."
    " Without `RetryInfo` the first call may have been paid for: whether to repeat it is your choice.",
    "UNIMPLEMENTED": "Finish the upgrade of the installation, or do without the method.",
}

_HEAD = """\
# Errors

Every failure of a method is a gRPC status with details of `google.rpc`. Its `ErrorInfo` has the domain `coxswain`, one
of the reasons below, and `metadata` with what the reason is about; [the rules](api-style.md#errors) say which other
details come when, and how a generated client gets from the text to the enum. An execution that fails carries the same
in `Execution.error`: code, reason, text and metadata.

Branch on the reason, or on the status code for a reason that you do not know: servers may add reasons. Texts are for
people and may change. `coxswain` prints the text, and `coxswain call` all details. `RequestInfo` has the id to look for
in [the log](log-events.md).

<!-- Written by `make reference` from protos/coxswain/common/v1/error_reason.proto; a test compares. -->

## What to do

By status; where there is more to say, a reason's own entry says it.

| status | what to do |
|---|---|
"""


def errors_page() -> str:
    """Return the page, in Markdown."""
    remedies = "".join(f"| {code} | {remedy} |\n" for code, remedy in sorted(_REMEDIES.items()))
    return _HEAD + remedies + "".join(_entries())


def _entries() -> Iterator[str]:
    for value in ErrorReason.DESCRIPTOR.values:
        if value.number == 0:
            continue
        if value.number in _SECTIONS:
            yield f"\n## {_SECTIONS[value.number]}\n"
        comment = protos.comments()[f"{_ENUM}.{value.name}"]
        [text] = paragraphs(comment)
        text, _, remedy = text.partition(" Remedy: ")
        meaning, _, example = text.partition(" Example: ")
        yield f"\n### {value.name.removeprefix(_PREFIX)}\n\n{_status(meaning)}\n\n{meaning}\n"
        if example:
            yield f"\nExample: {example}\n"
        if remedy:
            yield f"\nWhat to do: {remedy}\n"


def _status(meaning: str) -> str:
    codes = [code for code in dict.fromkeys(re.findall(r"\b[A-Z_]+\b", meaning)) if code in _REMEDIES]
    if not codes:
        return "Status: none; it is the outcome of a tool's call."
    text = f"Status: {' or '.join(f'[{code}](#what-to-do)' for code in codes)}"
    if "where waiting helps" in meaning:
        return f"{text}, with `RetryInfo` where waiting helps."
    return f"{text}{', with `RetryInfo`' if 'with RetryInfo' in meaning else ''}."
