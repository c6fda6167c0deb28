"""What a crew process hears of errors of other services."""

from typing import Any

import pytest

from services.common.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.host.call_world import World, rpc_error


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        (rpc_error(NotFound("near names", reason="MODEL_NOT_FOUND")), "MODEL_NOT_FOUND", True),
        (rpc_error(FailedPrecondition("off", reason="MODEL_DISABLED")), "MODEL_DISABLED", True),
        (rpc_error(ResourceExhausted("spent", reason="BUDGET_EXCEEDED")), "BUDGET_EXCEEDED", True),
        (rpc_error(ResourceExhausted("slow", reason="UPSTREAM_RATE_LIMITED")), "UPSTREAM_RATE_LIMITED", False),
        (
            rpc_error(Unavailable("down", reason="UPSTREAM_UNAVAILABLE", retry_after=3600)),
            "UPSTREAM_UNAVAILABLE",
            False,
        ),
    ],
)
async def test_only_what_may_pass_is_left_to_the_agent(world: World, error: Any, reason: str, fatal: bool) -> None:
    world.services.answers = [error]
    with pytest.raises(TaskError) as failed:
        await world.ask(embed={"model": "m", "texts": ["a"]})
    assert (failed.value.reason, failed.value.fatal) == (reason, fatal)
    assert len(world.services.asked) == 1
