"""What is done, and told, although nobody asks for it."""

from prometheus_client import REGISTRY
from sqlalchemy import update

from services.orchestrator.domain import ExecutionState
from services.orchestrator.tables import executions
from tests.integration.orchestrator.use_cases import ALICE, Orchestrator


def counted() -> dict[str, float]:
    """What a scrape reads."""
    (metric,) = (found for found in REGISTRY.collect() if found.name == "coxswain_executions")
    return {sample.labels["state"]: sample.value for sample in metric.samples}


async def test_the_length_of_the_queue_and_what_runs_and_waits_are_metrics(orchestrator: Orchestrator) -> None:
    await orchestrator.housekeeping.once()
    nothing = dict.fromkeys(("QUEUED", "RUNNING", "WAITING_FOR_APPROVAL", "WAITING_FOR_CREDENTIAL"), 0.0)
    assert counted() == nothing
    made = [await orchestrator.start() for _ in range(6)]
    states = [ExecutionState.RUNNING, ExecutionState.RUNNING, ExecutionState.WAITING_FOR_CREDENTIAL]
    async with orchestrator.database.write() as connection:
        for execution, state in zip(made, states, strict=False):
            await connection.execute(update(executions).where(executions.c.id == execution.id).values(state=state))
    await orchestrator.executions.cancel(ALICE, made[-1].id)
    await orchestrator.housekeeping.once()
    assert counted() == nothing | {"QUEUED": 2, "RUNNING": 2, "WAITING_FOR_CREDENTIAL": 1}
    async with orchestrator.database.write() as connection:
        await connection.execute(update(executions).values(state=ExecutionState.SUCCEEDED))
    await orchestrator.housekeeping.once()
    assert counted() == nothing
