"""Each call of a tool is counted once, however it ends, and stays counted when its execution is gone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event, select, update

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import ResourceExhausted
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.domain.question import QuestionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_source import ApprovalRule
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.tables import executions, tool_usage
from services.orchestrator.worker.link.errors import TaskError
from tests.integration.worker.call_scene import LOOK, PAY, CallScene, call_scene
from tests.support.played_gateway import PlayedCall, failure, result, unknown
from tests.support.service_tables import make_service_tables
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    make_service_tables("orchestrator", shared_database_url)
    opened = Database(shared_database_url, "orchestrator")
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[SchemaChecker]:
    made = SchemaChecker()
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(database: Database, checker: SchemaChecker) -> AsyncIterator[CallScene]:
    async with call_scene(database, checker) as played:

        async def pay(call: PlayedCall) -> pb.ToolOutcome:
            played.gateway.did(call)
            return result("paid €")

        played.gateway.tools |= {"billing/pay": pay, "billing/look": pay}
        yield played


async def used(scene: CallScene) -> list[Any]:
    """The rows of the execution's calls, in the order in which they began."""
    async with scene.database.read() as connection:
        found = await connection.execute(
            select(tool_usage).where(tool_usage.c.execution_id == scene.execution_id).order_by(tool_usage.c.called_at)
        )
        return list(found.all())


async def test_a_call_is_counted_with_what_it_is_summed_by(scene: CallScene) -> None:
    begun = utc_now()
    host = await scene.host(labels={"team": "a"})
    await host.call(amount=12)
    [row] = await used(scene)
    [request] = scene.gateway.requests
    assert (row.id, row.group_id, row.subject, row.labels) == (request.call_id, "sales", "ann", {"team": "a"})
    assert row.crew.startswith("crew ")
    assert (row.task, row.source, row.tool) == ("t", "billing", "billing/pay")
    assert (row.outcome, row.cost) == ("OK", 0.5)
    assert (row.argument_bytes, row.result_bytes) == (len('{"amount": 12}'), len("paid €".encode()))
    assert begun <= row.called_at <= utc_now()
    assert 0 < row.seconds <= (utc_now() - begun).total_seconds()


async def test_what_is_told_again_is_not_counted_again(scene: CallScene) -> None:
    host = await scene.host()
    await host.call()
    await host.call()
    await host.die()
    again = await scene.host()
    await again.call()
    await again.recorder.flush()
    assert [row.outcome for row in await used(scene)] == ["OK"]
    assert again.usage.value.tool_calls == 1


async def test_a_call_that_its_hosts_successor_ends_is_counted_once(scene: CallScene) -> None:
    release = asyncio.Event()

    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await release.wait()
        return result("paid")

    scene.gateway.tools["billing/pay"] = slow
    host = await scene.host()
    making = asyncio.create_task(host.call())
    await until(lambda: bool(scene.gateway.effects))
    await host.die()
    await asyncio.gather(making, return_exceptions=True)
    assert await used(scene) == []
    again = await scene.host()
    following = asyncio.create_task(again.call())
    release.set()
    await following
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("OK", 0.5)]


@pytest.mark.parametrize(
    ("outcome", "counted", "result_bytes", "cost"),
    [
        (result("no such invoice", is_error=True), "FAILED", 15, 0.5),
        (failure("TOOL_UNAVAILABLE"), "FAILED", 0, 0.0),
        (failure("TOOL_CHANGED"), "REFUSED", 0, 0.0),
    ],
)
async def test_a_call_that_fails_costs_only_what_was_made(
    scene: CallScene, outcome: pb.ToolOutcome, counted: str, result_bytes: int, cost: float
) -> None:
    async def fail(call: PlayedCall) -> pb.ToolOutcome:
        return outcome

    scene.gateway.tools["billing/pay"] = fail
    host = await scene.host()
    assert (await host.call()).error
    [row] = await used(scene)
    assert (row.outcome, row.result_bytes, row.cost) == (counted, result_bytes, cost)
    assert host.usage.value.cost == cost


async def test_a_call_that_is_not_made_is_counted_as_refused_until_it_is_made(scene: CallScene) -> None:
    host = await scene.host()
    assert (await host.call(amount="ten")).error
    assert (await host.call(amount="ten")).error
    await host.recorder.flush()
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("REFUSED", 0.0)]
    assert host.usage.value.tool_calls == 0
    await host.call()
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("OK", 0.5)]


async def test_a_call_that_a_person_refuses_is_counted_as_refused(scene: CallScene) -> None:
    scene.tools = [replace(PAY, approval=ApprovalRule.ALWAYS), LOOK]
    host = await scene.host()
    with pytest.raises(TaskError):
        await host.call()
    assert await used(scene) == []
    [question] = await scene.questions()
    await scene.answer(question, QuestionState.ACCEPTED, {"decision": "refuse"})
    assert (await (await scene.host()).call()).error
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("REFUSED", 0.0)]


@pytest.mark.parametrize(("happened", "counted"), [(True, ["UNKNOWN"]), (False, ["UNKNOWN", "OK"])])
async def test_an_unknown_outcome_stays_counted_whatever_a_person_finds_out(
    scene: CallScene, happened: bool, counted: list[str]
) -> None:
    async def lost(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        return unknown()

    tool, scene.gateway.tools["billing/pay"] = scene.gateway.tools["billing/pay"], lost
    host = await scene.host()
    with pytest.raises(TaskError):
        await host.call()
    scene.gateway.tools["billing/pay"] = tool
    [question] = await scene.questions()
    await scene.answer(question, QuestionState.ACCEPTED, {"happened": happened, "result": "paid"})
    assert (await (await scene.host()).call()).output
    rows = await used(scene)
    assert [row.outcome for row in rows] == counted
    assert sum(row.cost for row in rows) == 0.5 * len(counted)


async def test_a_tool_that_may_be_called_twice_has_perhaps_been_called(scene: CallScene) -> None:
    async def lost(call: PlayedCall) -> pb.ToolOutcome:
        return unknown()

    scene.gateway.tools["billing/look"] = lost
    host = await scene.host()
    assert (await host.call(tool="1")).error
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("UNKNOWN", 0.5)]
    assert (host.usage.value.tool_calls, host.usage.value.cost) == (1, 0.5)


async def test_a_cancelled_call_is_counted_by_what_is_known_of_it(scene: CallScene) -> None:
    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await asyncio.Event().wait()
        raise AssertionError

    scene.gateway.tools["billing/pay"] = slow
    host = await scene.host()
    making = asyncio.create_task(host.call())
    await until(lambda: bool(scene.gateway.effects))
    await host.remote.cancel()
    await asyncio.gather(making, return_exceptions=True)
    assert [(row.outcome, row.cost) for row in await used(scene)] == [("UNKNOWN", 0.5)]


async def test_usage_outlives_its_execution(scene: CallScene) -> None:
    await (await scene.host()).call()
    async with scene.database.write() as connection:
        await connection.execute(
            update(executions).where(executions.c.id == scene.execution_id).values(ended_at=utc_now())
        )
        assert await RetentionRepository(connection).delete("sales", [scene.execution_id]) == 1
    assert [row.outcome for row in await used(scene)] == ["OK"]


async def test_calls_that_end_together_are_stored_with_one_statement_more(scene: CallScene) -> None:
    host = await scene.host()
    inserts: list[bool] = []

    def note(_conn: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith("INSERT INTO") and "tool_usage" in statement.partition("(")[0]:
            inserts.append(many)

    engine = scene.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        for number in range(5):
            call = ToolCall(ToolCallState.COMPLETED, "4", "", "calculator", f"{scene.execution_id}{number}")
            host.meter.count(host.journal, call, made=True)
        await host.recorder.flush()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(await used(scene)) == 5
    assert len(inserts) == 1


@pytest.mark.parametrize("limits", [ExecutionLimits(max_tool_calls=2), ExecutionLimits(max_cost=1.0)])
async def test_calls_that_begin_at_once_keep_to_the_limits(scene: CallScene, limits: ExecutionLimits) -> None:
    host = await scene.host(limits=limits)
    outcomes = await asyncio.gather(*(host.call(f"k{number}") for number in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, ResourceExhausted) for outcome in outcomes) == 3
    assert len(scene.gateway.effects) == 2
    assert (host.usage.value.tool_calls, host.usage.value.cost) == (2, 1.0)
