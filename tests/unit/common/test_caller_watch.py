"""One task watches over all calls of a caller, and each of them ends once when the caller may not go on."""

import asyncio
import contextlib
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.errors import PermissionDenied
from services.common.grpc.call import Call, enter_call, outgoing_call
from services.common.grpc.caller_watch import CallerWatch
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Principal, Role

EXPIRES_AT = utc_now() + timedelta(hours=1)
REMOVED = PermissionDenied("you are not a member", reason="GROUP_NOT_MEMBER")


class Present:
    """Says who is removed, and when something may have changed."""

    def __init__(self) -> None:
        self.removed = set[str]()
        self.changed = asyncio.Event()
        self.changed_at = 0.0
        """Whose principal is older need not wait for another change."""
        self.waiting = 0
        self.asked = list[tuple[str, str]]()
        """About whom, and on whose behalf."""

    async def wait_for_change(self, _credential: Credential, _group: str, known: Principal) -> None:
        self.waiting += 1
        try:
            if known.issued_at >= self.changed_at:
                await self.changed.wait()
        finally:
            self.waiting -= 1

    async def readmit(self, _credential: Credential, _group: str, admitted: Principal) -> Principal | None:
        self.asked.append((admitted.subject, outgoing_call("auth")[1]))
        if admitted.subject in self.removed:
            raise REMOVED
        await asyncio.sleep(0)
        return principal(admitted.subject, self.changed_at)


def principal(subject: str, issued_at: float = 0.0) -> Principal:
    return Principal(
        subject=subject,
        group_id="g",
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="",
        execution_id="",
        expires_at=EXPIRES_AT,
        token=f"token of {subject}",
        issued_at=issued_at,
    )


@contextlib.contextmanager
def watch_over(
    watch: CallerWatch, subject: str, ends: list[Any], issued_at: float = 0.0
) -> Generator[Call, None, None]:
    admitted = principal(subject, issued_at)
    call = Call(request_id="r", method="/m", credential=Credential(authorization=f"Bearer {subject}"))
    call.principal = admitted
    enter_call(call)
    with watch.over(call, admitted, lambda error: ends.append((subject, error.code))):
        yield call


async def rounds() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_hundreds_of_calls_are_watched_by_one_task_for_each_caller() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    with contextlib.ExitStack() as open_calls:
        for subject in ("ann", "eve") * 20:
            open_calls.enter_context(watch_over(watch, subject, ends))
        await rounds()
        assert present.waiting == 2
        present.removed.add("eve")
        present.changed_at = 1.0
        present.changed.set()
        present.changed = asyncio.Event()
        await rounds()
        assert ends == [("eve", "PERMISSION_DENIED")] * 20
        # One look at each of them, on nobody's behalf: the principal of one of their calls may be old by then.
        assert sorted(present.asked) == [("ann", ""), ("eve", "")]
    await rounds()
    assert present.waiting == 0


async def test_a_caller_who_comes_back_is_watched_anew() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    for _ in range(2):
        with watch_over(watch, "ann", ends):
            await rounds()
            present.removed.add("ann")
            present.changed.set()
            await rounds()
            # Also one that comes before those have gone that had to end.
            present.changed.clear()
            with watch_over(watch, "ann", ends):
                await rounds()
                present.changed.set()
                await rounds()
        present.changed.clear()
    assert ends == [("ann", "PERMISSION_DENIED")] * 4


async def test_who_has_ended_by_themselves_hears_nothing() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    with watch_over(watch, "ann", ends):
        with watch_over(watch, "ann", ends):
            await rounds()
        present.removed.add("ann")
        present.changed.set()
        await rounds()
    assert ends == [("ann", "PERMISSION_DENIED")]


async def test_nothing_goes_on_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    with watch_over(watch, "ann", ends), watch_over(watch, "ann", ends):
        await rounds()
        monkeypatch.setattr(present, "readmit", fail)
        present.changed.set()
        await rounds()
        assert ends == [("ann", "UNAVAILABLE")] * 2
        monkeypatch.undo()
        present.changed.clear()
        with watch_over(watch, "ann", ends):
            await rounds()
            assert present.waiting == 1


async def test_calls_have_the_present_principal_also_those_that_join() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    with watch_over(watch, "ann", ends) as first:
        await rounds()
        present.changed_at = 1.0
        present.changed.set()
        present.changed = asyncio.Event()
        await rounds()
        with watch_over(watch, "ann", ends) as second:
            for call in (first, second):
                assert call.principal is not None
                assert call.principal.issued_at == 1.0


async def test_one_who_joins_with_a_principal_from_before_a_change_is_looked_at() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    with watch_over(watch, "ann", ends, issued_at=2.0):
        await rounds()
        present.changed_at = 1.0
        present.removed.add("ann")
        with watch_over(watch, "ann", ends):
            await rounds()
            assert ends == [("ann", "PERMISSION_DENIED")]
