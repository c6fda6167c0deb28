"""Absent services are asked again for a while."""

import pytest

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, ResourceExhausted, Unavailable
from services.orchestrator.worker.host import peer_retry
from services.orchestrator.worker.host.peer_retry import retry_while_absent, wait_for_limits


async def test_patience_ends_and_refusals_are_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
    tries = 0

    async def absent() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("gone")

    with pytest.raises(Unavailable):
        await retry_while_absent(absent, 0.02)
    assert tries > 1
    tries = 0

    async def refusing() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("the upstream is down", reason="UPSTREAM_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await retry_while_absent(refusing, 60)
    assert tries == 1


def limit(reason: str, retry_after: float | None) -> ResourceExhausted:
    return ResourceExhausted("used up", reason=reason, retry_after=retry_after)


async def test_a_limit_that_soon_has_room_is_waited_for() -> None:
    failures: list[CoxswainError] = [limit("BUDGET_EXCEEDED", 0.01), limit("UPSTREAM_SHARE_EXCEEDED", 0.02)]

    async def call() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    assert await wait_for_limits(call) == "answer"


@pytest.mark.parametrize(
    "failure",
    [
        limit("BUDGET_EXCEEDED", None),
        limit("BUDGET_EXCEEDED", 3600.0),
        limit("UPSTREAM_RATE_LIMITED", 0.01),
        Unavailable("gone", retry_after=0.01),
    ],
)
async def test_other_limits_and_failures_end_the_call(failure: CoxswainError) -> None:
    tries = 0

    async def call() -> None:
        nonlocal tries
        tries += 1
        raise failure

    with pytest.raises(type(failure)):
        await wait_for_limits(call)
    assert tries == 1


async def test_a_limit_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_retry, "_LIMIT_SECONDS", 0.05)

    async def call() -> None:
        raise limit("BUDGET_EXCEEDED", 0.01)

    with pytest.raises(ResourceExhausted):
        await wait_for_limits(call)
