"""Watches over the callers of what goes on for long, such as streams."""

import asyncio
import contextlib
import contextvars
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unauthenticated, Unavailable
from services.common.grpc.admission import Admission
from services.common.grpc.call import Call
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal

logger = structlog.get_logger(__name__)


class _Key(NamedTuple):
    """What all calls of one watch have in common: one look at their caller is about each of them."""

    credential: Credential
    group_header: str
    admitted: Principal
    issued_at: float


@dataclass(eq=False, slots=True)
class _Watched:
    call: Call
    end: Callable[[CoxswainError], None]


@dataclass(eq=False, slots=True)
class _Watch:
    present: Principal
    task: asyncio.Task[None] | None = None
    calls: dict[_Watched, None] = field(default_factory=dict)

    def renew(self, principal: Principal) -> None:
        self.present = principal
        for watched in self.calls:
            watched.call.principal = principal

    def end(self, reason: CoxswainError) -> None:
        for watched in self.calls:
            # One exception raised by many calls would collect the traceback of each.
            watched.end(copy.copy(reason))


class CallerWatch:
    """Ends calls whose caller is no longer who was admitted, or cannot be watched over.

    One task watches over all calls that were let in with one principal: hundreds of streams are opened, and left, in
    one moment.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._watches: dict[_Key, _Watch] = {}

    @contextlib.contextmanager
    def over(self, call: Call, admitted: Principal, end: Callable[[CoxswainError], None]) -> Iterator[None]:
        """Watch over a call within; `end` is called once, with why it has to end.

        Until then, the principal of the call is the present one.
        """
        key = _Key(call.credential, call.group_header, admitted, admitted.issued_at)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch(admitted)
            # Of no call: it goes on when the first one has ended, whose principal nobody renews then.
            watch.task = asyncio.create_task(self._watch(key, watch), context=contextvars.Context())
        call.principal = watch.present
        watched = _Watched(call, end)
        watch.calls[watched] = None
        try:
            yield
        finally:
            watch.calls.pop(watched, None)
            if not watch.calls and watch.task is not None:
                self._forget(key, watch)
                watch.task.cancel()
                # The task's frames hold the watch in their turn.
                watch.task = None

    async def _watch(self, key: _Key, watch: _Watch) -> None:
        ending: CoxswainError = Unavailable("whether you may go on with this call could not be found out; call again")
        try:
            while True:
                await self._admission.wait_for_change(key.credential, key.group_header, watch.present)
                principal = await self._admission.readmit(key.credential, key.group_header, key.admitted)
                if principal is not None:
                    watch.renew(principal)
        except (Unauthenticated, PermissionDenied, FailedPrecondition) as refusal:
            ending = copy.copy(refusal)
        except Exception:
            logger.exception("caller_watch_failed")
        finally:
            self._forget(key, watch)
            # Nothing goes on that nobody watches over.
            watch.end(ending)

    def _forget(self, key: _Key, watch: _Watch) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]
