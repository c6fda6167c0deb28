"""Rows of an installation that is upgraded."""

import asyncio
from typing import Any

from sqlalchemy import Column, MetaData, String, Table, delete, func, insert, inspect, select, text, update

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database
from services.common.db.types import JsonDocument
from services.common.ids import new_id
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionState, TaskOutput, TaskState
from services.orchestrator.domain.question import Answer, Question, QuestionState
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.questions import QuestionChangeReader, QuestionRepository
from services.orchestrator.tables import approvals, crews, executions, group_events, questions, requests, task_runs
from services.orchestrator.worker.host.run_store import RunStore
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.integration.worker.rows import claimed
from tests.support.service_tables import make_service_tables

SPEC = CrewSpec("c", (AgentSpec("a", "r", "g"),), (TaskSpec("t", "d", "e", "a"),))
# As the release before knows it.
revisions = Table(
    "crew_revisions",
    MetaData(),
    Column("crew_id", String),
    Column("revision"),
    Column("document", JsonDocument),
    Column("subject", String),
    Column("created_at", crews.c.created_at.type),
)


async def test_crews_and_requests_outlive_the_step_that_keeps_memory_ids_and_the_way_back(
    empty_database_url: str,
) -> None:
    await upgrade_database("orchestrator", empty_database_url, "0003")
    database = Database(empty_database_url, "orchestrator", null_pool=True)
    now = utc_now()
    crew = {"id": "crew", "group_id": "sales", "name": "c", "revision": 1, "created_at": now, "updated_at": now}
    revision = {"crew_id": "crew", "revision": 1, "document": to_document(SPEC), "subject": "ann", "created_at": now}
    request = {"group_id": "sales", "subject": "ann", "method": "CreateCrew", "request_id": "r"}
    made = {"request_hash": "h", "resource_id": "crew", "created_at": now}
    async with database.write() as connection:
        await connection.execute(crews.insert().values(**crew))
        await connection.execute(revisions.insert().values(**revision))
        await connection.execute(requests.insert().values(**request, **made))
    await upgrade_database("orchestrator", empty_database_url)
    async with database.read() as connection:
        found = await CrewRepository(connection).get("sales", ResourceKey("crew"))
    assert found is not None
    assert (found.spec, found.memory_id) == (SPEC, None)
    await downgrade_database("orchestrator", empty_database_url, "0003")
    async with database.read() as connection:
        assert list(await connection.scalars(select(requests.c.resource_id))) == ["crew"]
        assert list(await connection.scalars(select(revisions.c.crew_id))) == ["crew"]
    await database.close()


class EarlierRelease:
    """An execution in the rows of the release that knows approvals only."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.execution_id = new_id()

    async def start(self, columns: set[str]) -> None:
        """Store an execution with one task that has been tried, with the columns that the schema has."""
        now = utc_now()
        names = ("subject", "crew_name", "model", "grant_id", "resumed_from", "schedule_id")
        numbers = ("priority", "last_sequence", "llm_calls", "input_tokens", "output_tokens", "cost")
        row: dict[str, Any] = dict.fromkeys(names, "x") | dict.fromkeys(numbers, 0)
        row |= {"id": self.execution_id, "group_id": "sales", "crew_id": "crew", "crew_revision": 1, "created_at": now}
        row |= {"state": "RUNNING", "inputs": {}, "labels": {}, "identity": "GROUP", "on_credential_expiry": "PARK"}
        row |= {"grant_open": True, "epoch": 1, "generation": 1, "ready": False}
        run = {"execution_id": self.execution_id, "task_index": 0, "name": "t", "state": "RUNNING", "attempt": 1}
        run |= {"copied": False} | dict.fromkeys(numbers[2:], 0)
        async with self.database.write() as connection:
            await connection.execute(insert(executions).values({k: row[k] for k in row if k in columns}))
            await connection.execute(insert(task_runs).values(run))

    async def ask(self, state: str, feedback: str = "", *, answered: bool = False, park: bool = False) -> str:
        """Store an approval as that release does; return its id."""
        approval = {"id": new_id(), "execution_id": self.execution_id, "group_id": "sales", "task_index": 0}
        approval |= {"task_name": "t", "attempt": 1, "state": state, "output": to_document(TaskOutput("draft"))}
        approval |= {"feedback": feedback, "answered_by": "bob" if answered else "", "requested_at": utc_now()}
        approval |= {"answered_at": utc_now() if answered else None}
        async with self.database.write() as connection:
            await connection.execute(insert(approvals).values(approval))
            if park:
                for table in (executions, task_runs):
                    await connection.execute(update(table).values(state="WAITING_FOR_APPROVAL"))
        return str(approval["id"])

    async def states(self) -> tuple[str, str, list[str]]:
        """Return the states of the execution, of its task and of its approvals as stored."""
        async with self.database.read() as connection:
            execution = (await connection.execute(select(executions.c.state))).scalar_one()
            task = (await connection.execute(select(task_runs.c.state))).scalar_one()
            asked = await connection.execute(select(approvals.c.state).order_by(approvals.c.id))
            return execution, task, list(asked.scalars())


async def columns_of(database: Database, table: str) -> set[str]:
    async with database.read() as connection:
        return await connection.run_sync(lambda sync: {c["name"] for c in inspect(sync).get_columns(table)})


async def newest(database: Database, execution_id: str) -> Question:
    async with database.read() as connection:
        [question] = (await QuestionRepository(connection).newest(execution_id)).values()
    return question


async def test_a_waiting_approval_is_a_question_after_the_step_and_its_execution_goes_on(
    empty_database_url: str,
) -> None:
    await upgrade_database("orchestrator", empty_database_url, "0013")
    database = Database(empty_database_url, "orchestrator", null_pool=True)
    earlier = EarlierRelease(database)
    await earlier.start(await columns_of(database, "executions"))
    refused = await earlier.ask("REFUSED", "shorter", answered=True)
    waiting = await earlier.ask("PENDING", park=True)
    await upgrade_database("orchestrator", empty_database_url)
    assert await earlier.states() == ("WAITING_FOR_ANSWER", "WAITING_FOR_ANSWER", ["REFUSED", "VOID"])
    question = await newest(database, earlier.execution_id)
    assert question.result is not None
    assert (question.id, question.state, question.result.text) == (waiting, QuestionState.OPEN, "draft")
    assert (question.crew_id, question.task_name, question.text) == ("crew", "t", "Is this result good?")
    async with database.read() as connection:
        first = await QuestionRepository(connection).get("sales", refused)
    assert first is not None
    assert (first.answer, first.answered_by) == (Answer(QuestionState.DECLINED, reason="shorter"), "bob")
    reader = QuestionChangeReader(database)
    assert [(change.sequence, change.question.id) for change in await reader.open("sales", 0, 9, 9)] == [(1, waiting)]
    assert await reader.newest(["sales"]) == {"sales": 1}
    async with database.write() as connection:
        await QuestionRepository(connection).answer(question, Answer(QuestionState.ACCEPTED), "ann", utc_now())
    assert [change.sequence for change in await reader.after("sales", 0, 9)] == [1, 2]
    await downgrade_database("orchestrator", empty_database_url, "0013")
    states = ("WAITING_FOR_APPROVAL", "WAITING_FOR_APPROVAL", ["REFUSED", "APPROVED"])
    assert await earlier.states() == states
    await database.close()


async def test_what_the_earlier_release_asks_during_a_rollout_becomes_a_question(database_url: str) -> None:
    make_service_tables("orchestrator", database_url)
    database = Database(database_url, "orchestrator", null_pool=True)
    orchestrator = Orchestrator(database)
    earlier = EarlierRelease(database)
    await earlier.start(await columns_of(database, "executions"))
    waiting = await earlier.ask("PENDING", park=True)
    for _ in range(2):
        await orchestrator.housekeeping.once()
        assert await earlier.states() == ("WAITING_FOR_ANSWER", "WAITING_FOR_ANSWER", ["VOID"])
        question = await newest(database, earlier.execution_id)
        assert (question.id, question.state) == (waiting, QuestionState.OPEN)
    assert await QuestionChangeReader(database).newest(["sales"]) == {"sales": 1}
    await database.close()


async def test_a_host_takes_what_a_replica_of_the_earlier_release_was_answered(database_url: str) -> None:
    make_service_tables("orchestrator", database_url)
    database = Database(database_url, "orchestrator", null_pool=True)
    await Orchestrator(database).prepare()
    earlier = EarlierRelease(database)
    await earlier.start(await columns_of(database, "executions"))
    await earlier.ask("APPROVED", answered=True, park=True)
    async with database.write() as connection:
        crew_id = (await connection.execute(select(crews.c.id))).scalar_one()
        await connection.execute(update(executions).values(state=ExecutionState.QUEUED, crew_id=crew_id))
        await connection.execute(update(executions).values(ready=True))
    claim = await claimed(RunStore(database), earlier.execution_id)
    assert claim.questions[0].answer == Answer(QuestionState.ACCEPTED)
    assert (claim.questions[0].answered_by, claim.tasks[0].state) == ("bob", TaskState.WAITING_FOR_ANSWER)
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(questions))).scalar_one() == 1
    await database.close()


async def test_the_release_before_finds_events_by_execution_also_where_the_index_was_dropped(
    empty_database_url: str,
) -> None:
    await upgrade_database("orchestrator", empty_database_url, "0035")
    database = Database(empty_database_url, "orchestrator", null_pool=True)
    async with database.write() as connection:
        await connection.execute(text("DROP INDEX ix_group_events_execution_id"))
    await downgrade_database("orchestrator", empty_database_url, "0034")
    async with database.read() as connection:
        found = await connection.run_sync(lambda sync: inspect(sync).get_indexes("group_events"))
    await database.close()
    assert ["execution_id"] in [index["column_names"] for index in found]


async def test_webhooks_are_kept_apart_beside_who_reads_events(empty_postgres_url: str) -> None:
    await upgrade_database("orchestrator", empty_postgres_url, "0034")
    database = Database(empty_postgres_url, "orchestrator", null_pool=True)
    async with database.read() as connection:
        # Who reads holds back whoever drops an index of the table, until the transaction ends.
        await connection.execute(text("SELECT count(*) FROM group_events"))
        async with asyncio.timeout(110):
            await upgrade_database("orchestrator", empty_postgres_url, "0035")
    await database.close()


async def test_events_keep_their_ids_where_their_table_is_made_anew_and_those_of_schedules_go_on_the_way_back(
    empty_database_url: str,
) -> None:
    await upgrade_database("orchestrator", empty_database_url, "0036")
    database = Database(empty_database_url, "orchestrator", null_pool=True)
    earlier = EarlierRelease(database)
    await earlier.start(await columns_of(database, "executions"))
    now = utc_now()
    of_execution = {"group_id": "sales", "execution_id": earlier.execution_id, "time": now, "stored_at": now}
    of_execution |= {"kind": "k", "task_name": "", "attempt": 0, "payload": b"", "transaction_id": 0}
    async with database.write() as connection:
        await connection.execute(insert(group_events), [of_execution | {"sequence": number} for number in (1, 2, 3)])
        await connection.execute(delete(group_events).where(group_events.c.sequence == 3))
    await upgrade_database("orchestrator", empty_database_url)
    of_schedule = of_execution | {"execution_id": None, "schedule_id": "nightly", "sequence": 0}
    of_schedule |= {"crew_id": "crew", "labels": {"team": "sales"}}
    async with database.write() as connection:
        added = await connection.scalar(insert(group_events).values(of_schedule).returning(group_events.c.id))
        ids = list(await connection.scalars(select(group_events.c.id).order_by(group_events.c.id)))
        assert (ids, added) == ([1, 2, 4], 4)
    await downgrade_database("orchestrator", empty_database_url, "0036")
    async with database.read() as connection:
        left = select(group_events.c.id, group_events.c.execution_id).order_by(group_events.c.id)
        assert list(await connection.execute(left)) == [(1, earlier.execution_id), (2, earlier.execution_id)]
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("group_events"))
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("group_events"))
    assert {"schedule_id", "crew_id", "labels"}.isdisjoint(column["name"] for column in columns)
    assert {index["name"] for index in indexes} == {index.name for index in group_events.indexes}
    await database.close()
