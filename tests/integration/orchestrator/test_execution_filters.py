"""ListExecutions by labels, subject, times, reason and origin: alone, together, and only in one's own group."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.db.database import Database
from services.orchestrator.domain.execution import ExecutionError, ExecutionState
from services.orchestrator.domain.execution_filter import ExecutionFilter
from services.orchestrator.repositories.execution_filters import label_hashes
from services.orchestrator.repositories.executions import ExecutionRepository
from tests.integration.orchestrator.support import Worker, create_crew, executions_of, refused, start, start_request
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
CAROL = "dev:carol:sales=operator"
LABELS = st.dictionaries(st.sampled_from(["a", "b", "ab", ""]), st.sampled_from(["", "1", '"', "2, 3"]), max_size=3)


async def listed(harness: Harness, bearer: str = ALICE, **fields: Any) -> list[str]:
    """Return the ids of all pages, two at a time."""
    request = pb.ListExecutionsRequest(page_size=2, **fields)
    found: list[str] = []
    while True:
        page = await executions_of(harness, bearer).ListExecutions(request)
        found += [execution.id for execution in page.executions]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def fail(database: Database, execution_id: str, reason: str) -> None:
    async with database.write() as connection:
        await ExecutionRepository(connection).end(
            execution_id, ExecutionState.FAILED, ExecutionError(reason, "it failed"), datetime.now(UTC)
        )


def at(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


async def test_each_filter_finds_its_executions_and_no_others(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    stub = executions_of(harness)
    labels: list[dict[str, str]] = [{"team": "a"}, {"team": "a", "env": "prod"}, {"team": "b", "env": "prod"}, {}]
    made = [(await stub.StartExecution(start_request(crew.id, labels=each))).execution for each in labels]
    ids = [execution.id for execution in made]
    foreign = await start(harness, BOB, labels={"team": "a"})
    carols = (await executions_of(harness, CAROL).StartExecution(start_request(crew.id))).execution.id
    await fail(worker.database, ids[0], "TASK_FAILED")
    await fail(worker.database, ids[2], "EXECUTION_TIMEOUT")
    resumed = (await stub.ResumeExecution(pb.ResumeExecutionRequest(id=ids[0]))).execution.id

    assert await listed(harness, labels={"team": "a"}) == [resumed, ids[1], ids[0]], "labels are resumed as well"
    assert await listed(harness, labels={"team": "a", "env": "prod"}) == [ids[1]]
    assert await listed(harness, labels={"team": ""}) == []
    assert await listed(harness, BOB, labels={"team": "a"}) == [foreign.id]
    assert await listed(harness, subject="dev|carol") == [carols]
    assert await listed(harness, error_reason="TASK_FAILED") == [ids[0]]
    assert await listed(harness, error_reason="TASK_FAILED", labels={"team": "b"}) == []
    assert await listed(harness, resumed_from=ids[0]) == [resumed]
    assert await listed(harness, BOB, resumed_from=ids[0]) == []

    second, last = made[1].create_time.ToDatetime(UTC), made[3].create_time.ToDatetime(UTC)
    assert await listed(harness, min_create_time=at(second), max_create_time=at(last)) == [ids[2], ids[1]]
    assert await listed(harness, max_create_time=at(second)) == [ids[0]]
    soon, past = at(datetime.now(UTC) + timedelta(hours=1)), at(datetime.min.replace(tzinfo=UTC))
    assert await listed(harness, max_end_time=soon) == [ids[2], ids[0]]
    assert await listed(harness, min_end_time=past, max_end_time=past) == []
    assert await listed(harness, min_end_time=past, error_reason="EXECUTION_TIMEOUT") == [ids[2]]
    everything = [resumed, carols, *reversed(ids)]
    assert (
        await listed(harness, min_create_time=past, max_create_time=at(datetime.max.replace(tzinfo=UTC))) == everything
    )

    page = await stub.ListExecutions(pb.ListExecutionsRequest(page_size=1, labels={"team": "a"}))
    for other in ({"labels": {"team": "b"}}, {"labels": {"team": "a"}, "subject": "dev|alice"}, {}):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await stub.ListExecutions(pb.ListExecutionsRequest(page_token=page.next_page_token, **other))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.ListExecutions(pb.ListExecutionsRequest(min_end_time=Timestamp(seconds=-(10**12))))
    assert set(refusal.violations) == {"min_end_time"}


@given(LABELS, LABELS)
def test_labels_are_told_apart(one: dict[str, str], other: dict[str, str]) -> None:
    assert (set(label_hashes(one)) <= set(label_hashes(other))) == (one.items() <= other.items())
    assert (
        ExecutionFilter(labels=one).fingerprint() == ExecutionFilter(labels=dict(reversed(one.items()))).fingerprint()
    )
    if one != other:
        assert ExecutionFilter(labels=one).fingerprint() != ExecutionFilter(labels=other).fingerprint()
