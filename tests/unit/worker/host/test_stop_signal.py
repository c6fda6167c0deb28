"""A run stops for the first reason it gets, and each failure becomes the reason that fits it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.errors import PermissionDenied
from services.orchestrator.domain.execution import ExecutionError, OnCredentialExpiry
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.principals import CredentialExpired
from services.orchestrator.worker.host.stop_signal import (
    Cancelled,
    CredentialNeeded,
    Failed,
    LeaseLost,
    Lost,
    Stop,
    StopSignal,
)


def signal(on_expiry: OnCredentialExpiry = OnCredentialExpiry.PARK) -> StopSignal:
    return StopSignal(cast("Any", SimpleNamespace(id="e", on_credential_expiry=on_expiry)))


async def test_the_first_reason_counts_and_ends_the_waiting() -> None:
    stopping = signal()
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.sleep(0)
    assert stopping.reason is None
    assert not waiting.done()
    first = Cancelled()
    stopping.stop(first)
    stopping.stop(LeaseLost())
    stopping.fail(LookupError("a call that was cut off"))
    await asyncio.wait_for(waiting, 60)
    assert stopping.reason is first


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Fenced("e"), Lost),
        (LeaseLost(), LeaseLost),
        (CredentialExpired("the token has expired"), CredentialNeeded),
        (Failed(ExecutionError("TASK_FAILED", "no"), 1), Failed),
    ],
)
async def test_a_failure_becomes_the_reason_that_fits_it(error: Exception, reason: type[Stop]) -> None:
    stopping = signal()
    stopping.fail(error)
    assert type(stopping.reason) is reason


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (PermissionDenied("not yours", reason="PERMISSION_DENIED"), "PERMISSION_DENIED", "not yours"),
        (CredentialExpired("the token has expired"), "CREDENTIAL_EXPIRED", "the token has expired"),
        (LookupError("a secret"), "INTERNAL", "the worker failed; its log holds the cause"),
    ],
)
async def test_a_failure_of_the_execution_tells_its_reason_and_no_internals(
    error: Exception, expected: str, said: str
) -> None:
    stopping = signal(OnCredentialExpiry.FAIL)
    stopping.fail(error)
    assert isinstance(stopping.reason, Failed)
    assert (stopping.reason.error.reason, stopping.reason.error.message) == (expected, said)
    assert stopping.reason.task_index is None
