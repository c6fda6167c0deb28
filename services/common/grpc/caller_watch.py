"""Watches over the callers of what goes on for long, such as streams."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from services.common.background import BackgroundTasks
from services.common.errors import CoxswainError, Unavailable
from services.common.grpc.admission import Admission
from services.common.grpc.call import Call
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal

logger = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Watched:
    call: Call
    admitted: Principal
    end: Callable[[CoxswainError], None]


@dataclass(eq=False, slots=True)
class _Caller:
    """One who calls with one credential and choice of group."""

    task: asyncio.Task[None] | None = None
    calls: dict[_Watched, None] = field(default_factory=dict)


class CallerWatch:
    """Ends calls whose caller is no longer who was admitted, or cannot be watched over.

    One task watches over all calls of a caller: hundreds of streams are opened, and left, in one moment.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._callers: dict[tuple[Credential, str], _Caller] = {}
        self._tasks = BackgroundTasks()

    @contextlib.contextmanager
    def over(self, call: Call, admitted: Principal, end: Callable[[CoxswainError], None]) -> Iterator[None]:
        """Watch over a call within; `end` is called once, with why it has to end.

        Until then, the principal of the call is the present one.
        """
        key = call.credential, call.group_header
        caller = self._callers.get(key)
        if caller is None:
            caller = self._callers[key] = _Caller()
            caller.task = self._tasks.start(self._watch(key, caller))
        watched = _Watched(call, admitted, end)
        caller.calls[watched] = None
        try:
            yield
        finally:
            caller.calls.pop(watched, None)
            if not caller.calls and self._callers.get(key) is caller:
                del self._callers[key]
                if caller.task is not None:
                    caller.task.cancel()
                    # The task's frames hold the caller in their turn.
                    caller.task = None

    async def _watch(self, key: tuple[Credential, str], caller: _Caller) -> None:
        try:
            while caller.calls:
                first = next(iter(caller.calls))
                await self._admission.wait_for_change(first.call, first.admitted)
                for watched in list(caller.calls):
                    refusal = await self._admission.refusal(watched.call, watched.admitted)
                    if refusal is not None and watched in caller.calls:
                        del caller.calls[watched]
                        watched.end(refusal)
                    # Others go on between two.
                    await asyncio.sleep(0)
        except Exception:
            logger.exception("caller_watch_failed")
            # Nothing goes on that nobody watches over.
            for watched in list(caller.calls):
                del caller.calls[watched]
                watched.end(Unavailable("whether you may go on with this call could not be found out; call again"))
        finally:
            if self._callers.get(key) is caller:
                del self._callers[key]
