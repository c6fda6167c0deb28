"""Usage of tools is summed by what is asked for, of one group, and kept for as long as the operator says."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.orchestrator.v1 import tool_usage_pb2 as pb
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.tool_usage import ToolCallOutcome, ToolUsageGrouping, ToolUsageQuery, ToolUsageRecord
from services.orchestrator.repositories.tool_usage import ToolUsageRepository
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.usecases.tool_usage import ToolUsage
from tests.integration.orchestrator.support import Worker, refused
from tests.integration.orchestrator.use_cases import ALICE as PRINCIPAL
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import ALICE, BOB, Harness

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceAsyncStub

CODE = grpc.StatusCode
OPERATOR = "dev:otto:sales=operator"
MONDAY = datetime(2026, 1, 5, 23, 59, 59, tzinfo=UTC)

EVERYTHING = ToolUsageQuery(group_by=(ToolUsageGrouping.SOURCE,))


def record(**fields: Any) -> ToolUsageRecord:
    base: dict[str, Any] = {
        "id": new_id(),
        "group_id": "sales",
        "subject": "dev|alice",
        "tool": "billing/pay",
        "source": "billing",
        "called_at": MONDAY,
        "outcome": ToolCallOutcome.OK,
        "seconds": 1.5,
        "argument_bytes": 10,
        "result_bytes": 100,
        "cost": 0.25,
        "execution_id": "e1",
        "crew": "brief",
        "task": "read",
        "labels": {"project": "atlas"},
    }
    return ToolUsageRecord(**base | fields)


async def store(database: Database, *records: ToolUsageRecord) -> None:
    async with database.write() as connection:
        await ToolUsageRepository(connection).put(records)


def tools(harness: Harness, bearer: str = ALICE) -> "ToolServiceAsyncStub":
    channel: grpc.aio.Channel = harness.channel(bearer)
    return ToolServiceStub(channel)


def by(*groupings: str) -> list[Any]:
    return [pb.ToolUsageGrouping.Value(f"TOOL_USAGE_GROUPING_{name}") for name in groupings]


async def rows(harness: Harness, *groupings: str, bearer: str = ALICE, **fields: Any) -> list[pb.ToolUsageRow]:
    """Read all pages, of two rows each."""
    found: list[pb.ToolUsageRow] = []
    token = ""
    while True:
        request = pb.QueryToolUsageRequest(group_by=by(*groupings), page_size=2, page_token=token, **fields)
        page = await tools(harness, bearer).QueryToolUsage(request)
        assert len(page.rows) <= 2
        found += page.rows
        token = page.next_page_token
        if not token:
            return found


def counts(found: Iterable[pb.ToolUsageRow], *names: str) -> list[tuple[Any, ...]]:
    return [(*(getattr(row, name) for name in names), row.calls) for row in found]


async def test_usage_is_summed_by_what_is_asked_for(harness: Harness, worker: Worker) -> None:
    outcomes = ToolCallOutcome
    tuesday = MONDAY + timedelta(seconds=1)
    await store(
        worker.database,
        record(),
        record(outcome=outcomes.UNKNOWN, execution_id="e2", called_at=tuesday),
        record(outcome=outcomes.REFUSED, cost=0.0, seconds=0.0, subject="dev|carol", labels={"project": "Ä"}),
        record(outcome=outcomes.CANCELLED, cost=0.0, tool="billing/look", crew="poem", task="", labels={}),
        record(outcome=outcomes.FAILED, tool="web_fetch", source="", cost=0.0, crew="", task="", execution_id=""),
        record(group_id="hr"),
    )
    look, pay, fetch = await rows(harness, "TOOL")
    assert counts([look, pay, fetch], "tool") == [("billing/look", 1), ("billing/pay", 3), ("web_fetch", 1)]
    assert pay == pb.ToolUsageRow(
        tool="billing/pay",
        calls=3,
        refused_calls=1,
        unknown_calls=1,
        duration=Duration(seconds=3),
        argument_bytes=30,
        result_bytes=300,
        cost=0.5,
    )
    assert (look.cancelled_calls, fetch.failed_calls) == (1, 1)
    assert counts(await rows(harness, "SOURCE"), "source") == [("", 1), ("billing", 4)]
    assert counts(await rows(harness, "CREW", "TASK"), "crew", "task") == [
        ("", "", 1),
        ("brief", "read", 3),
        ("poem", "", 1),
    ]
    assert counts(await rows(harness, "EXECUTION"), "execution_id") == [("", 1), ("e1", 3), ("e2", 1)]
    assert counts(await rows(harness, "SUBJECT"), "subject") == [("dev|alice", 4), ("dev|carol", 1)]
    assert counts(await rows(harness, "DAY"), "day") == [("2026-01-05", 4), ("2026-01-06", 1)]
    labelled = await rows(harness, "LABEL", label_key="project")
    assert counts(labelled, "label_value") == [("", 1), ("atlas", 3), ("Ä", 1)]
    assert counts(await rows(harness), "tool") == counts(await rows(harness, "TOOL"), "tool")
    assert counts(await rows(harness, bearer=BOB), "tool") == []


async def test_usage_is_chosen_by_filters(harness: Harness, worker: Worker) -> None:
    await store(
        worker.database,
        record(),
        record(tool="web_fetch", source="", subject="dev|carol", crew="poem", execution_id="e2", labels={"a": "b"}),
        record(outcome=ToolCallOutcome.UNKNOWN, called_at=MONDAY + timedelta(hours=1)),
    )

    async def calls(**fields: Any) -> int:
        return sum(row.calls for row in await rows(harness, **fields))

    def at(moment: datetime) -> Timestamp:
        stamp = Timestamp()
        stamp.FromDatetime(moment)
        return stamp

    assert await calls() == 3
    assert await calls(tool="billing/pay") == 2
    assert await calls(source="billing") == 2
    assert await calls(crew="poem") == 1
    assert await calls(execution_id="e2") == 1
    assert await calls(subject="dev|carol", crew="poem") == 1
    assert await calls(subject="dev|carol", crew="brief") == 0
    assert await calls(outcome=pb.TOOL_CALL_OUTCOME_UNKNOWN) == 1
    assert await calls(outcome=pb.TOOL_CALL_OUTCOME_OK) == 2
    assert await calls(labels={"a": "b"}) == 1
    assert await calls(labels={"a": "b' OR 1=1"}) == 0
    assert await calls(start_time=at(MONDAY), end_time=at(MONDAY + timedelta(hours=1))) == 2
    assert await calls(start_time=at(MONDAY + timedelta(seconds=1))) == 1


async def test_a_query_that_makes_no_sense_is_refused_by_its_field(harness: Harness, worker: Worker) -> None:
    await store(worker.database, *(record(tool=f"t{number}") for number in range(3)))
    stub = tools(harness)
    token = (await stub.QueryToolUsage(pb.QueryToolUsageRequest(page_size=1))).next_page_token
    late, early = Timestamp(seconds=2), Timestamp(seconds=1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"group_by": by("LABEL")}, "label_key"),
        ({"group_by": [pb.TOOL_USAGE_GROUPING_UNSPECIFIED]}, "group_by[0]"),
        ({"group_by": by("DAY", "DAY")}, "group_by"),
        ({"start_time": late, "end_time": early}, "end_time"),
        ({"page_token": "x"}, "page_token"),
        ({"page_token": token, "tool": "t2"}, "page_token"),
        ({"page_size": 5001}, "page_size"),
    ]
    for fields, field in wrong:
        wanted = "INVALID_PAGE_TOKEN" if field == "page_token" else "INVALID_FIELD"
        with refused(CODE.INVALID_ARGUMENT, wanted) as refusal:
            await stub.QueryToolUsage(pb.QueryToolUsageRequest(**fields))
        assert list(refusal.violations) == [field]


async def test_operators_may_read_usage(harness: Harness) -> None:
    assert not (await tools(harness, OPERATOR).QueryToolUsage(pb.QueryToolUsageRequest())).rows


async def test_usage_is_kept_for_as_long_as_the_operator_says(orchestrator: Orchestrator) -> None:
    database, now = orchestrator.database, utc_now()
    old, new = now - timedelta(days=31), now - timedelta(days=29)
    await store(
        database,
        *(
            record(id=f"{group}-{age:%d%m}", group_id=group, called_at=age)
            for group in ("hr", "sales")
            for age in (old, new)
        ),
    )

    async def kept() -> list[int]:
        page = await ToolUsage(database, retention_seconds=0).page(PRINCIPAL, EVERYTHING, 0, "")
        return [row.calls for row in page.items]

    await ToolUsage(database, retention_seconds=0).forget()
    assert await kept() == [2]
    await ToolUsage(database, retention_seconds=timedelta(days=30).total_seconds()).forget()
    assert await kept() == [1]
    async with database.read() as connection:
        assert [row.calls for row in await ToolUsageRepository(connection).sums("hr", EVERYTHING, None, 9)] == [1]


async def test_a_call_that_ends_again_replaces_what_was_known_of_it(orchestrator: Orchestrator) -> None:
    known = record(outcome=ToolCallOutcome.REFUSED, cost=0.0)
    await store(orchestrator.database, known, record(id=known.id, cost=1.0), record(id=known.id, cost=2.0))
    async with orchestrator.database.write() as connection:
        usage = ToolUsageRepository(connection)
        [row] = await usage.sums("sales", EVERYTHING, None, 9)
        assert (row.calls, row.cost, row.outcomes[ToolCallOutcome.REFUSED]) == (1, 2.0, 0)
        # What another request finds out of it later counts; how long it took the first one to wait is not its time.
        settled = record(id=known.id, cost=3.0, seconds=0.0, outcome=ToolCallOutcome.FAILED, result_bytes=7)
        await usage.settle(settled)
        [row] = await usage.sums("sales", EVERYTHING, None, 9)
    assert (row.calls, row.cost, row.outcomes[ToolCallOutcome.FAILED]) == (1, 3.0, 1)
    assert (row.seconds, row.result_bytes) == (1.5, 7)


async def test_a_call_of_two_executions_that_continue_one_is_counted_for_each(orchestrator: Orchestrator) -> None:
    database, now = orchestrator.database, utc_now()
    first = record(execution_id="e1", called_at=now - timedelta(days=31))
    await store(database, first, record(id=first.id, execution_id="e2", called_at=now))

    async def of_executions() -> list[tuple[str, ...]]:
        query = ToolUsageQuery(group_by=(ToolUsageGrouping.EXECUTION,))
        async with database.read() as connection:
            return [row.keys for row in await ToolUsageRepository(connection).sums("sales", query, None, 9)]

    assert await of_executions() == [("e1",), ("e2",)]
    # Each is kept for its own time.
    await ToolUsage(database, retention_seconds=timedelta(days=30).total_seconds()).forget()
    assert await of_executions() == [("e2",)]


def test_calls_are_not_kept_for_ever_by_default() -> None:
    kept = OrchestratorSettings.model_fields["tool_usage_retention_seconds"].default
    assert timedelta(seconds=kept) == timedelta(days=400)
