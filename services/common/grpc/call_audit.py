"""What the audit log keeps of a call: which resource its request names, and never what is in it."""

import functools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.common import audit
from services.common.grpc.access import MethodAccess
from services.common.grpc.call import Call
from services.common.grpc.capacity import host_of
from services.common.ids import is_id

_REFUSED = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
_NAMES_NOTHING = frozenset({"INVALID_ARGUMENT", "NOT_FOUND"})
# Texts that say which resource is meant; all others may be contents.
_NAMING = re.compile(r"(?:^|_)(?:id|name|subject|scope)$")
_IS_ID = re.compile(r"(?:^|\.|_)id$")
_NOT_A_RESOURCE = frozenset({"request_id", "page_token", "page_size"})
_TEXTS = frozenset({FieldDescriptor.TYPE_STRING})
_CONTENTS = frozenset({FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_GROUP})
_MOST_FIELDS = 24
_MOST_GROUPS = 10_000

_known_groups: dict[str, None] = {}
"""Groups of verified callers of this process, the first ones first."""


def record_call(call: Call, access: MethodAccess) -> None:
    """Record a call that has ended, once, if it changes something or was refused."""
    if call.principal is not None:
        _know_group(call.principal.group_id)
    if access.audited or call.outcome in _REFUSED:
        _record(call)


def record_change(call: Call, made: Message) -> None:
    """Record an audited call that has stored what it was for, and goes on for long; its request is kept no longer.

    `made` names what was made, as the response will.
    """
    outcome, call.outcome, call.response = call.outcome, "OK", made
    _record(call)
    call.outcome, call.request, call.response = outcome, None, None


def _record(call: Call) -> None:
    if call.audited:
        return
    call.audited = True
    principal = call.principal
    # People put secrets where names belong: what is no name, or names nothing, may be one.
    names_something = call.outcome not in _NAMES_NOTHING
    # Also where another service has asked auth who they are.
    is_stranger = principal is None and (not call.service or call.outcome == "UNAUTHENTICATED")
    record = functools.partial(audit.record_stranger, host=host_of(call.peer)) if is_stranger else audit.record
    record(
        "refused" if call.outcome in _REFUSED else "changed" if call.outcome == "OK" else "failed",
        method=call.method,
        outcome=call.outcome,
        reason=call.reason,
        subject=principal.subject if principal else None,
        group_id=principal.group_id if principal else None,
        role=principal.role.name if principal else None,
        platform_admin=principal.platform_admin or None if principal else None,
        execution_id=principal.execution_id if principal else None,
        # Unverified, as all that a stranger sends: only what cannot be a secret in the wrong header.
        asked_group_id=call.group_header if principal is None and call.group_header in _known_groups else None,
        calling_service=call.service,
        peer=unquote(call.peer),
        resource=resource_of(call.request) if call.request is not None and names_something else None,
        result=_result_of(call.response) if call.response is not None else None,
        request_id=call.request_id if is_id(call.request_id) else None,
    )


def _know_group(group_id: str) -> None:
    if group_id in _known_groups:
        return
    if len(_known_groups) >= _MOST_GROUPS:
        del _known_groups[next(iter(_known_groups))]
    _known_groups[group_id] = None


def resource_of(request: Message) -> dict[str, Any]:
    """Return what a request names and sets, by the path of the field.

    Ids and names, numbers, switches, choices and the paths of an update mask; of lists their lengths. Other texts, and
    fields marked `debug_redact`, are left out.
    """
    named: dict[str, Any] = {}
    for path, value in _fields(request, "", depth=2):
        if len(named) == _MOST_FIELDS:
            break
        named[path] = value
    return named


def _result_of(response: Message) -> dict[str, Any]:
    """Return the ids a response gives to what was made."""
    return {path: value for path, value in resource_of(response).items() if _IS_ID.search(path)}


def _fields(message: Message, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.name in _NOT_A_RESOURCE or field.GetOptions().debug_redact or field.type in _CONTENTS:
            continue
        if field.is_repeated:
            yield path, len(value)
        elif isinstance(value, FieldMask):
            yield path, ",".join(value.paths)
        elif isinstance(value, Message):
            if depth:
                yield from _fields(value, f"{path}.", depth - 1)
        elif field.enum_type is not None:
            member = field.enum_type.values_by_number.get(value)
            yield path, member.name if member is not None else value
        elif field.type not in _TEXTS or _NAMING.search(field.name):
            yield path, value
