"""The call being served, for whatever runs on its behalf."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from google.protobuf.message import Message

from services.common.errors import Unauthenticated
from services.common.identity.authenticator import NO_CREDENTIAL, Credential
from services.common.identity.principal import Principal, subject_hash
from services.common.tracing.spans import NO_SPAN, Span, current_span


@dataclass(slots=True)
class Call:
    """One call and who makes it."""

    request_id: str
    method: str
    """Full name. Example: `/coxswain.auth.v1.AuthService/WhoAmI`."""
    group_header: str = ""
    """The group that the caller named in `x-group-id`."""
    credential: Credential = NO_CREDENTIAL
    """What the caller sent, unverified; empty on calls of other services."""
    principal: Principal | None = None
    """Who the call is made by; None where the method asks for no role."""
    service: str = ""
    """The calling service; empty on calls from outside."""
    dependency: str = ""
    """The service that was called last on its behalf."""
    deadline: float | None = None
    """When the caller stops waiting, by the event loop's clock."""
    peer: str = ""
    """The address at the other end of the connection, percent-encoded. Example: `ipv4:10.0.0.7:51234`."""
    outcome: str = "CANCELLED"
    """The name of the status code it has ended with."""
    reason: str = ""
    """Why it failed, as in ErrorInfo."""
    began: float = field(default_factory=time.perf_counter)
    """When it came in, by `time.perf_counter`."""
    counted: bool = False
    """Whether the metrics have it already."""
    audited: bool = False
    """Whether the audit log has it already."""
    request: Message | None = None
    """What was asked, of an audited call; of a stream the first request."""
    response: Message | None = None
    """What an audited unary call was answered."""
    span: Span = NO_SPAN
    """What traces show of it, until it has ended."""

    def time_remaining(self) -> float | None:
        """Return the seconds left, or None when the caller waits for ever."""
        return None if self.deadline is None else max(0.0, self.deadline - asyncio.get_running_loop().time())


@dataclass(frozen=True, slots=True)
class BackgroundWork:
    """What is done for an execution while no call is served."""

    request_id: str
    """Of the calls to other services that it makes."""
    execution_id: str
    group_id: str
    subject: str


_call: ContextVar[Call] = ContextVar("coxswain_call")
_work: ContextVar[BackgroundWork] = ContextVar("coxswain_work")
_acting_as: ContextVar[str] = ContextVar("coxswain_acting_as", default="")


def current_call() -> Call:
    """Return the call being served. Raises LookupError outside of one."""
    return _call.get()


def current_principal() -> Principal:
    """Return who the call is made by.

    Raises:
        Unauthenticated: the call carries no identity.
    """
    principal = _call.get().principal
    if principal is None:
        raise Unauthenticated("this method needs to know who calls; send a credential")
    return principal


def enter_call(call: Call) -> None:
    """Make `call` the current one for the rest of this task."""
    _call.set(call)


def enter_work(work: BackgroundWork) -> None:
    """Let the rest of this task, and what it starts, be done for an execution."""
    _work.set(work)


def log_fields() -> dict[str, str]:
    """Return what each line of the log says of the call being served, or of the work that is done without one.

    The subject is not named, as logs are kept longer and read by more people than the audit log.
    """
    call, work = _call.get(None), _work.get(None)
    if call is not None:
        principal = call.principal
        fields = {"request_id": call.request_id}
        if principal is not None:
            fields |= {
                "group_id": principal.group_id,
                "subject_hash": subject_hash(principal.subject),
                "execution_id": principal.execution_id,
            }
    elif work is not None:
        fields = {
            "request_id": work.request_id,
            "group_id": work.group_id,
            "subject_hash": subject_hash(work.subject),
            "execution_id": work.execution_id,
        }
    else:
        fields = {}
    fields["trace_id"] = current_span().trace_id
    return {name: value for name, value in fields.items() if value}


def outlast_caller() -> None:
    """Let the rest of this task take as long as it needs: it serves others than the caller it was started for, too."""
    call = _call.get(None)
    if call is not None:
        _call.set(replace(call, deadline=None))


def outgoing_call(dependency: str) -> tuple[str, str, float | None]:
    """Return request id, principal token and seconds left for a call to a service on behalf of the current one."""
    call = _call.get(None)
    token = _acting_as.get()
    if call is None:
        work = _work.get(None)
        return "" if work is None else work.request_id, token, None
    call.dependency = dependency
    if not token and call.principal is not None:
        token = call.principal.token
    return call.request_id, token, call.time_remaining()


@contextlib.contextmanager
def acting_as(principal_token: str) -> Iterator[None]:
    """Make calls to other services as this principal; for work that no caller waits for."""
    reset = _acting_as.set(principal_token)
    try:
        yield
    finally:
        _acting_as.reset(reset)
