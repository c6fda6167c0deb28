"""One task watches over all calls of a caller, and each of them ends once when the caller may not go on."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.errors import CoxswainError, PermissionDenied
from services.common.grpc.call import Call
from services.common.grpc.caller_watch import CallerWatch
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Principal, Role

REMOVED = PermissionDenied("you are not a member", reason="GROUP_NOT_MEMBER")


class Present:
    """Says who is removed, and when something may have changed."""

    def __init__(self) -> None:
        self.removed = set[str]()
        self.changed = asyncio.Event()
        self.waiting = 0

    async def wait_for_change(self, _call: Call, _admitted: Principal) -> None:
        self.waiting += 1
        try:
            await self.changed.wait()
        finally:
            self.waiting -= 1

    async def refusal(self, _call: Call, admitted: Principal) -> CoxswainError | None:
        return REMOVED if admitted.subject in self.removed else None


def principal(subject: str) -> Principal:
    return Principal(
        subject=subject,
        group_id="g",
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="",
        execution_id="",
        expires_at=utc_now() + timedelta(hours=1),
    )


def watch_over(watch: CallerWatch, subject: str, ends: list[Any]) -> contextlib.AbstractContextManager[None]:
    call = Call(request_id="r", method="/m", credential=Credential(authorization=f"Bearer {subject}"))
    return watch.over(call, principal(subject), lambda error: ends.append((subject, error)))


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
        present.changed.set()
        await rounds()
        assert ends == [("eve", REMOVED)] * 20
    present.changed.clear()
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
    assert ends == [("ann", REMOVED)] * 4


async def test_who_has_ended_by_themselves_hears_nothing() -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()
    with watch_over(watch, "ann", ends):
        with watch_over(watch, "ann", ends):
            await rounds()
        present.removed.add("ann")
        present.changed.set()
        await rounds()
    assert ends == [("ann", REMOVED)]


async def test_nothing_goes_on_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    present: Any = Present()
    watch, ends = CallerWatch(present), list[Any]()

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    with watch_over(watch, "ann", ends), watch_over(watch, "ann", ends):
        await rounds()
        monkeypatch.setattr(present, "refusal", fail)
        present.changed.set()
        await rounds()
        assert [(subject, error.code) for subject, error in ends] == [("ann", "UNAVAILABLE")] * 2
        monkeypatch.undo()
        present.changed.clear()
        with watch_over(watch, "ann", ends):
            await rounds()
            assert present.waiting == 1
