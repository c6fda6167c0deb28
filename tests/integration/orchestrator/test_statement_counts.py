"""How many statements the API takes for what it does with every execution."""

from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.noted_statements import changes_in, noted_statements


async def test_a_start_writes_each_of_its_rows_once(orchestrator: Orchestrator) -> None:
    with noted_statements(orchestrator.database) as statements:
        started = await orchestrator.start()
    assert changes_in(statements) == [
        "DELETE running_limits",
        "INSERT executions",
        "INSERT task_runs",
        "INSERT execution_events",
        "INSERT group_events",
    ]
    (row,) = await orchestrator.rows()
    assert row.last_sequence == started.last_sequence == 1
