"""The Databricks tools against the emulated workspace: what they send, wait for, survive and never do."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.egress import AddressPolicy
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.orchestrator.tool_gateway.builtin.databricks.statements import bound, table
from services.orchestrator.tool_gateway.builtin.databricks.workspace import (
    PollPauses,
    Workspaces,
)
from services.orchestrator.tool_gateway.builtin.databricks_genie import DatabricksGenie
from services.orchestrator.tool_gateway.builtin.databricks_job_run import DatabricksJobRun
from services.orchestrator.tool_gateway.builtin.databricks_sql import DatabricksSql
from services.orchestrator.tool_gateway.builtin.databricks_uc_function import DatabricksUcFunction
from services.orchestrator.tool_gateway.builtin.databricks_vector_search import DatabricksVectorSearch, query_body
from services.orchestrator.tool_gateway.credentials import WorkspaceCredential
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.parsing.sql import read_statement
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, ToolCallRequest, ToolResult
from tests.support.databricks_http import ApiFault
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.tool_adapters import RecordedProgress, call_of, egress_of, principal_of

QUICK = PollPauses(first=0.001, longest=0.01, failures=4)
WAREHOUSE = {"warehouse_id": "w1"}
INDEX = "main.docs.handbook"
MEMORIES = "main.crews.unified"


@dataclass
class OneToken:
    """What auth would give: a token, and the workspace that it belongs to."""

    origin: str
    token: str

    async def workspace(self, principal: Principal) -> WorkspaceCredential:
        return WorkspaceCredential(self.origin, self.token)


@dataclass
class Tools:
    """The tools, and the workspace they reach."""

    workspace: DatabricksWorkspace
    workspaces: Workspaces
    parser: BoundedParser
    token: str

    def sql(self) -> DatabricksSql:
        return DatabricksSql(self.workspaces, self.parser)

    async def run(self, statement: str, *, config: Mapping[str, Any] | None = None, **arguments: Any) -> ToolResult:
        request = sql_call(statement, config=config, **arguments)
        return await self.sql().call(request, RecordedProgress())


def sql_call(
    statement: str, *, config: Mapping[str, Any] | None = None, idempotent: bool = True, **arguments: Any
) -> ToolCallRequest:
    given = {"statement": statement, **arguments}
    return call_of("databricks_sql", given, config={**WAREHOUSE, **(config or {})}, idempotent=idempotent)


def workspaces_of(egress: EgressClient, origin: str, token: str) -> Workspaces:
    return Workspaces(egress, OneToken(origin, token), max_result_bytes=1_000_000, pauses=QUICK)


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    parser = BoundedParser(cpu_seconds=2)
    async with DatabricksWorkspace() as workspace, egress_of() as egress:
        token = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
        yield Tools(workspace, workspaces_of(egress, workspace.url, token), parser, token)
    await parser.close()


# SQL


async def test_a_statement_returns_typed_rows_from_all_its_chunks(tools: Tools) -> None:
    columns = [("n", "INT"), ("x", "DOUBLE"), ("ok", "BOOLEAN"), ("amount", "DECIMAL(10,2)"), ("name", "STRING")]
    rows = [[str(n), "1.5", "true", "12.30", None] for n in range(7)]
    tools.workspace.sql.on("FROM t", columns=columns, rows=rows, chunk_rows=3, polls=3)
    progress = RecordedProgress()
    result = await tools.sql().call(sql_call("SELECT * FROM t"), progress)
    assert result.structured["rows"] == [[n, 1.5, True, "12.30", None] for n in range(7)]
    assert result.structured["row_count"] == 7
    assert not result.structured["truncated"]
    (statement,) = tools.workspace.sql.statements.values()
    assert progress.handles == [statement.id]
    assert {"PENDING", "RUNNING"} <= set(progress.texts)
    assert progress.sends == 1
    assert (statement.asked["wait_timeout"], statement.asked["on_wait_timeout"]) == ("0s", "CONTINUE")


async def test_values_are_bound_and_never_part_of_the_text(tools: Tools) -> None:
    evil = "'; DROP TABLE x; --"
    parameters = {"a": evil, "b": 2**70, "c": 1.5, "d": True, "e": None, "f": {"value": "2026-01-31", "type": "DATE"}}
    result = await tools.run("SELECT :a, :b, :c, :d, :e, :f", parameters=parameters)
    (statement,) = tools.workspace.sql.statements.values()
    assert statement.text == "SELECT :a, :b, :c, :d, :e, :f"
    assert [parameter.get("type") for parameter in statement.parameters] == [
        "STRING", "DECIMAL(38,0)", "DOUBLE", "BOOLEAN", None, "DATE",
    ]  # fmt: skip
    assert result.structured["rows"] == [[evil, str(2**70), 1.5, True, None, "2026-01-31"]]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "select * from t where a = :a;",
        "WITH x AS (SELECT 1) SELECT * FROM x -- DROP TABLE t",
        "(SELECT 1) UNION ALL SELECT 2",
        "SHOW TABLES IN main.sales",
        "DESCRIBE TABLE EXTENDED main.sales.orders",
        "EXPLAIN SELECT 1",
        "/* what */ SELECT 'DELETE FROM x; '",
        "SELECT * FROM t TIMESTAMP AS OF '2026-01-01' LATERAL VIEW explode(a) AS b",
        "SELECT a:b.c::int, `insert` FROM main.s.t QUALIFY row_number() OVER (ORDER BY a) = 1",
    ],
)
def test_statements_that_read(statement: str) -> None:
    assert read_statement(statement)["refused"] == ""


@pytest.mark.parametrize(
    "statement",
    [
        "",
        ";",
        "-- nothing",
        "DROP TABLE t",
        "INSERT INTO t SELECT 1",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "FROM t INSERT INTO u SELECT 1",
        "SELECT 1; DROP TABLE t",
        "SELECT 1;;SELECT 2",
        "SHOW TABLES; DROP TABLE t",
        "EXPLAIN SELECT 1; DELETE FROM t",
        "CALL p()",
        "SET x = 1",
        "USE CATALOG main",
        "BEGIN DELETE FROM t; END",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
        "CREATE TABLE t AS SELECT 1",
        "COPY INTO t FROM 'x'",
        "TRUNCATE TABLE t",
        "SELECT http_request(conn => 'c', method => 'POST', path => '/')",
        "SELECT `http_request`('c')",
        "SELECT system.builtin.HTTP_REQUEST('c')",
        "SELECT (SELECT max(secret('scope', 'key')))",
        "SELECT * FROM remote_query('c', query => 'DELETE FROM t')",
        "SELECT list_secrets()",
        "SELECT reflect('java.lang.System', 'exit', 0)",
        "SELECT * FROM IDENTIFIER('a' || 'b')",
        "SELECT * FROM vector_search(index => 'main.crews.unified', query_text => 'x', num_results => 5)",
        "SELECT 'a\\'; DROP TABLE x; --'; DROP TABLE y",
        "EXECUTE IMMEDIATE 'DROP TABLE t'",
        "SELECT " + "x" * 64_000,
        "SELECT 'open",
    ],
)
def test_statements_that_do_more_than_read(statement: str) -> None:
    assert read_statement(statement)["refused"]


async def test_what_only_reads_is_checked_before_anything_is_sent(tools: Tools) -> None:
    for statement in ("DELETE FROM t", "SELECT " + "(" * 20_000 + "1" + ")" * 20_000):
        result = await tools.run(statement)
        assert result.is_error
    assert tools.workspace.sql.statements == {}
    await tools.run("DELETE FROM t", config={"read_only": False})
    (statement_,) = tools.workspace.sql.statements.values()
    assert statement_.text == "DELETE FROM t"


async def test_a_parser_that_is_kept_busy_holds_up_nobody(tools: Tools) -> None:
    hard = "SELECT " + "(" * 300 + "1" + ")" * 300 + ", " + "CASE WHEN 1 THEN " * 400 + "1" + " END" * 400
    results = await asyncio.gather(*(tools.run(hard) for _ in range(2)), tools.run("SELECT 1"))
    assert not results[-1].is_error


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"state": "FAILED", "error": "TABLE_OR_VIEW_NOT_FOUND"}, "TABLE_OR_VIEW_NOT_FOUND"),
        ({"state": "CANCELED"}, "CANCELED"),
        ({"external_links": True, "rows": [["1"]]}, "not followed"),
    ],
)
async def test_ends_that_are_answers(tools: Tools, outcome: dict[str, Any], expected: str) -> None:
    tools.workspace.sql.on("SELECT", **outcome)
    result = await tools.run("SELECT 1")
    assert result.is_error
    assert expected in result.text
    assert "sig=" not in result.text


async def test_rows_are_limited_and_said_to_be(tools: Tools) -> None:
    tools.workspace.sql.on("SELECT", columns=[("n", "INT")], rows=[[str(n)] for n in range(50)])
    result = await tools.run("SELECT 1", config={"row_limit": 20})
    assert (result.structured["row_count"], result.structured["truncated"]) == (20, True)


async def test_questions_survive_a_workspace_that_stumbles(tools: Tools) -> None:
    tools.workspace.sql.on("SELECT", columns=[("n", "INT")], rows=[["1"]], polls=4)
    for fault in (
        ApiFault(method="GET", status=500),
        ApiFault(method="GET", status=429, retry_after="0"),
        ApiFault(method="GET", drop=True),
        ApiFault(method="GET", status=200, body="<html>"),
    ):
        tools.workspace.sql.fail(fault)
        result = await tools.run("SELECT 1")
        assert result.structured["rows"] == [[1]]
    submits = tools.workspace.sql.requests(method="POST")
    assert len(submits) == 4


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (ApiFault(method="POST", drop=True), OutcomeUnknown),
        (ApiFault(method="POST", status=500), OutcomeUnknown),
        (ApiFault(method="POST", status=503, retry_after="1"), OutcomeUnknown),
        (ApiFault(method="POST", status=500, after_effect=True), OutcomeUnknown),
        (ApiFault(method="POST", status=200, body="<html>"), OutcomeUnknown),
        (ApiFault(method="POST", status=429, retry_after="3"), NotSent),
        (ApiFault(method="POST", status=403), CallRefused),
        (ApiFault(method="POST", status=401), CallRefused),
    ],
)
async def test_a_submission_is_made_once(tools: Tools, fault: ApiFault, failure: type[Exception]) -> None:
    tools.workspace.sql.fail(fault)
    with pytest.raises(failure) as raised:
        await tools.sql().call(
            sql_call("DELETE FROM t", config={"read_only": False}, idempotent=False), RecordedProgress()
        )
    assert tools.token not in str(raised.value)
    assert len(tools.workspace.sql.requests(method="POST")) == 1


async def test_a_refused_statement_is_told_to_the_model(tools: Tools) -> None:
    tools.workspace.sql.fail(ApiFault(method="POST", status=400, message=f"bad warehouse {tools.token}"))
    result = await tools.run("SELECT 1")
    assert result.is_error
    assert "bad warehouse [secret]" in result.text


async def test_a_workspace_that_says_nothing_more_leaves_the_outcome_open(tools: Tools) -> None:
    tools.workspace.sql.fail(ApiFault(method="GET", status=500, times=None))
    progress = RecordedProgress()
    with pytest.raises(OutcomeUnknown):
        await tools.sql().call(sql_call("SELECT 1"), progress)
    tools.workspace.sql.clear_faults()
    # Another process takes the call over by its handle, and submits nothing.
    result = await tools.sql().resume(sql_call("SELECT 1"), progress.handles[0], RecordedProgress())
    assert not result.is_error
    assert len(tools.workspace.sql.statements) == 1
    for handle in ("", "unknown", "../../jobs/run-now"):
        with pytest.raises(OutcomeUnknown):
            await tools.sql().resume(sql_call("SELECT 1"), handle, RecordedProgress())
    assert tools.workspace.jobs.log == []


@pytest.mark.parametrize("goes_on", [False, True])
async def test_cancelling_a_call_cancels_the_statement_unless_another_process_will_ask(
    tools: Tools, goes_on: bool
) -> None:
    tools.workspace.sql.on("SELECT", polls=1_000_000)
    progress = RecordedProgress(goes_on=goes_on)
    task = asyncio.create_task(tools.sql().call(sql_call("SELECT 1"), progress))
    await progress.changes.wait(lambda: "PENDING" in progress.texts)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (statement,) = tools.workspace.sql.statements.values()
    assert statement.cancelled is not goes_on


async def test_another_users_statement_is_not_found(tools: Tools) -> None:
    await tools.run("SELECT 1")
    (statement,) = tools.workspace.sql.statements
    bob = tools.workspace.identity.add_pat(tools.workspace.identity.add_user("bob@example.com"))
    async with egress_of() as egress:
        theirs = DatabricksSql(workspaces_of(egress, tools.workspace.url, bob), tools.parser)
        with pytest.raises(OutcomeUnknown):
            await theirs.resume(sql_call("SELECT 1"), statement, RecordedProgress())


async def test_a_workspace_inside_is_not_for_groups(tools: Tools) -> None:
    async with egress_of(AddressPolicy(setting="ALLOWED")) as egress:
        with pytest.raises(CallRefused) as refused:
            await DatabricksSql(workspaces_of(egress, tools.workspace.url, "t"), tools.parser).call(
                sql_call("SELECT 1"), RecordedProgress()
            )
    assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
    async with egress_of() as egress:
        with pytest.raises(NotSent):
            await DatabricksSql(workspaces_of(egress, "http://127.0.0.1:9", "t"), tools.parser).call(
                sql_call("SELECT 1"), RecordedProgress()
            )


@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text())
def test_every_bound_value_is_a_text_of_some_type(value: Any) -> None:
    parameter = bound("x", value)
    assert parameter == {"name": "x"} if value is None else (parameter["type"] and isinstance(parameter["value"], str))


@given(st.lists(st.lists(st.none() | st.text(), max_size=3), max_size=3))
def test_cells_of_any_text_make_valid_json(rows: list[list[Any]]) -> None:
    columns = [{"name": name, "type_text": kind} for name, kind in (("a", "INT"), ("b", "DOUBLE"))]
    found = table({"schema": {"columns": columns}}, rows)
    json.dumps(found, allow_nan=False)
    assert [len(row) for row in found["rows"]] == [len(row) for row in rows]


# Functions of Unity Catalog


async def test_functions_are_called_with_named_bound_arguments(tools: Tools) -> None:
    config = {**WAREHOUSE, "function": "main.tools.odd`name"}
    function = DatabricksUcFunction(tools.workspaces)
    arguments = {"arguments": {"city": "'); DROP TABLE x", "days": 3}}
    result = await function.call(call_of("databricks_uc_function", arguments, config=config), RecordedProgress())
    (statement,) = tools.workspace.sql.statements.values()
    assert statement.text == "SELECT `main`.`tools`.`odd``name`(`city` => :city, `days` => :days) AS result"
    assert result.structured["rows"] == [["'); DROP TABLE x", 3]]
    odd = {"arguments": {"x) --": 1}}
    assert (await function.call(call_of("databricks_uc_function", odd, config=config), RecordedProgress())).is_error
    assert len(tools.workspace.sql.statements) == 1
    await function.call(
        call_of("databricks_uc_function", {}, config={**config, "function": "a.b.c", "returns_table": True}),
        RecordedProgress(),
    )
    assert [one.text for one in tools.workspace.sql.statements.values()][1] == "SELECT * FROM `a`.`b`.`c`()"


# Genie


async def test_genie_answers_with_sql_and_rows_and_goes_on(tools: Tools) -> None:
    tools.workspace.genie.add_space("space1")
    tools.workspace.genie.on(
        "How many", text="Three.", sql="SELECT count(*)", columns=[("n", "BIGINT")], rows=[["3"], ["4"]], polls=3
    )
    genie = DatabricksGenie(tools.workspaces)
    config = {"space_id": "space1", "row_limit": 1}
    progress = RecordedProgress()
    asked = call_of("databricks_genie", {"question": "How many orders?"}, config=config)
    result = await genie.call(asked, progress)
    assert result.structured["answer"] == "Three."
    (query,) = result.structured["queries"]
    assert (query["sql"], query["rows"], query["truncated"]) == ("SELECT count(*)", [[3]], True)
    conversation = result.structured["conversation_id"]
    assert json.loads(progress.handles[0])[0] == conversation
    further = call_of("databricks_genie", {"question": "And?", "conversation_id": conversation}, config=config)
    assert (await genie.call(further, RecordedProgress())).structured["conversation_id"] == conversation
    assert len(tools.workspace.genie.messages[conversation]) == 2
    resumed = await genie.resume(asked, progress.handles[0], RecordedProgress())
    assert resumed.structured["answer"] == "Three."
    assert len(tools.workspace.genie.messages[conversation]) == 2


async def test_genie_fails_in_words(tools: Tools) -> None:
    tools.workspace.genie.add_space("space1")
    tools.workspace.genie.on("Bad", status="FAILED", error="the warehouse is stopped")
    genie = DatabricksGenie(tools.workspaces)
    failed = await genie.call(
        call_of("databricks_genie", {"question": "Bad"}, config={"space_id": "space1"}), RecordedProgress()
    )
    assert failed.is_error
    assert "the warehouse is stopped" in failed.text
    for space, conversation in (("none", ""), ("space1", "none"), ("../../jobs", ""), ("space1", "../..")):
        arguments = {"question": "x", "conversation_id": conversation}
        refused = await genie.call(
            call_of("databricks_genie", arguments, config={"space_id": space}), RecordedProgress()
        )
        assert refused.is_error
    assert tools.workspace.jobs.log == []


# Jobs


async def test_a_call_starts_one_run_however_often_it_is_made(tools: Tools) -> None:
    tools.workspace.jobs.add_job(7, tasks=("load", "report"), output="42 rows", polls=3)
    job = DatabricksJobRun(tools.workspaces)
    request = call_of("databricks_job_run", {"parameters": {"day": "1", "n": 2}}, config={"job_id": 7}, idempotent=True)
    tools.workspace.jobs.fail(ApiFault(path="run-now", status=500, after_effect=True))
    with pytest.raises(OutcomeUnknown):
        await job.call(request, RecordedProgress())
    progress = RecordedProgress()
    result = await job.resume(request, "", progress)
    assert (result.structured["state"], result.structured["output"]) == ("SUCCESS", "42 rows (report)")
    again = await job.resume(request, progress.handles[0], RecordedProgress())
    assert again.structured == result.structured
    (run,) = tools.workspace.jobs.runs.values()
    assert run.parameters == {"day": "1", "n": "2"}
    (first, *_) = tools.workspace.jobs.requests(path="run-now")
    assert first.body["idempotency_token"] == request.call_id


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"result_state": "FAILED", "message": "out of memory"}, "FAILED"),
        ({"life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED"}, "FAILED"),
        ({"life_cycle_state": "SKIPPED", "result_state": ""}, "SKIPPED"),
    ],
)
async def test_runs_that_fail(tools: Tools, changes: dict[str, Any], state: str) -> None:
    tools.workspace.jobs.add_job(7, **changes)
    result = await DatabricksJobRun(tools.workspaces).call(
        call_of("databricks_job_run", config={"job_id": 7}), RecordedProgress()
    )
    assert result.is_error
    assert result.structured["state"] == state
    assert result.structured["message"] == changes.get("message", "")


async def test_cancelling_a_call_cancels_the_run(tools: Tools) -> None:
    tools.workspace.jobs.add_job(7, polls=1_000_000)
    progress = RecordedProgress()
    request = call_of("databricks_job_run", config={"job_id": 7})
    task = asyncio.create_task(DatabricksJobRun(tools.workspaces).call(request, progress))
    await progress.changes.wait(lambda: bool(progress.texts))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = tools.workspace.jobs.runs.values()
    assert run.cancelled


# Vector Search


def search_call(arguments: dict[str, Any], group: str = "acme", **config: Any) -> ToolCallRequest:
    settings = {"index": INDEX, "columns": ["id", "content"], **config}
    return call_of("databricks_vector_search", arguments, config=settings, principal=principal_of(group))


@pytest.fixture
def vectors(tools: Tools) -> Tools:
    search = tools.workspace.vector_search
    search.add_endpoint("ep")
    model = [{"embedding_model_endpoint_name": "gte", "name": "content"}]
    plain = {"id": "string", "content": "string", "lang": "string", "embedding": "array<float>"}
    search.add_index(INDEX, "ep", plain, 8, embedding_source_columns=model)
    kept = {**plain, "group_id": "string", "crew_id": "string", "embedding_model": "string"}
    search.add_index(MEMORIES, "ep", kept, 8, embedding_source_columns=model)
    return tools


async def _upsert(tools: Tools, index: str, rows: list[dict[str, Any]]) -> None:
    async with egress_of() as egress:
        response = await egress.request(
            "POST",
            f"{tools.workspace.url}/api/2.0/vector-search/indexes/{index}/upsert-data",
            trusted=True,
            data=json.dumps({"inputs_json": json.dumps(rows)}).encode(),
            headers={"authorization": f"Bearer {tools.token}", "content-type": "application/json"},
        )
        async with response:
            assert response.status == 200


@pytest.mark.parametrize("camel_case", [False, True])
async def test_an_index_is_searched_by_text(vectors: Tools, camel_case: bool) -> None:
    rows = [
        {"id": str(n), "content": f"word{n} invoice", "lang": "de" if n % 2 else "en", "embedding": [0.1] * 8}
        for n in range(6)
    ]
    await _upsert(vectors, INDEX, rows)
    vectors.workspace.vector_search.behaviour.camel_case = camel_case
    search = DatabricksVectorSearch(vectors.workspaces)
    for kind in ("ANN", "HYBRID", "FULL_TEXT"):
        request = search_call(
            {"query": "invoice", "num_results": 2, "filters": {"lang": "en"}}, query_type=kind, filters={"id NOT": "0"}
        )
        result = await search.call(request, RecordedProgress())
        assert not result.is_error, result.text
        found = result.structured["results"]
        assert 0 < len(found) <= 2
        assert {row["id"] for row in found} <= {"2", "4"}
        assert set(found[0]) == {"id", "content", "score"}


async def test_memories_of_other_groups_are_never_found(vectors: Tools) -> None:
    def row(n: int, group: str) -> dict[str, Any]:
        text = {"id": str(n), "content": "plans", "lang": "en", "crew_id": "c", "embedding_model": "m"}
        return {**text, "group_id": group, "embedding": [0.1] * 8}

    await _upsert(vectors, MEMORIES, [row(n, "acme" if n < 2 else "other") for n in range(6)])
    search = DatabricksVectorSearch(vectors.workspaces)
    for filters in ({}, {"group_id": "other"}, {"group_id": ["acme", "other"]}, {"group_id NOT": "acme"}):
        request = search_call(
            {"query": "plans", "num_results": 50, "filters": filters}, index=MEMORIES, query_type="FULL_TEXT"
        )
        result = await search.call(request, RecordedProgress())
        assert {row["id"] for row in result.structured["results"]} <= {"0", "1"}
        assert all("group_id" not in row for row in result.structured["results"])
    refused = await search.call(
        search_call({"query": "x", "filters": {"group_id OR lang": ["other", "en"]}}, index=MEMORIES),
        RecordedProgress(),
    )
    assert refused.is_error


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (ApiFault(status=403, times=None), CallRefused),
        (ApiFault(status=500, times=None), NotSent),
        (ApiFault(path="/query", drop=True), OutcomeUnknown),
    ],
)
async def test_a_search_that_fails(vectors: Tools, fault: ApiFault, failure: type[Exception]) -> None:
    vectors.workspace.vector_search.fail(fault)
    with pytest.raises(failure):
        await DatabricksVectorSearch(vectors.workspaces).call(search_call({"query": "x"}), RecordedProgress())


async def test_an_index_that_is_not_there_is_told_to_the_model(vectors: Tools) -> None:
    search = DatabricksVectorSearch(vectors.workspaces)
    for index in ("main.docs.none", "../../../2.2/jobs/run-now"):
        assert (await search.call(search_call({"query": "x"}, index=index), RecordedProgress())).is_error
    assert vectors.workspace.jobs.log == []


def test_a_query_has_what_the_crew_has_set() -> None:
    request = search_call(
        {"query": "x", "num_results": 999},
        query_type="ANN",
        rerank_columns=["content"],
        score_threshold=0.0,
    )
    body = query_body(request, memories=False)
    assert body["num_results"] == 200
    assert body["reranker"] == {"model": "databricks_reranker", "parameters": {"columns_to_rerank": ["content"]}}
    assert body["score_threshold"] == 0.0


def test_filters_of_storage_optimized_endpoints_cannot_be_escaped() -> None:
    def filter_of(filters: dict[str, Any]) -> str:
        request = search_call({"query": "x", "filters": filters}, storage_optimized=True)
        return str(query_body(request, memories=True)["filter_string"])

    assert filter_of({"a": 1, "b NOT": "x", "c": ["y", "z"], "d >=": 1.5, "group_id": "other"}) == (
        "a = 1 AND b != 'x' AND c IN ('y', 'z') AND d >= 1.5 AND group_id = 'acme'"
    )
    faulty: list[dict[str, Any]] = [
        {"a": "x' OR 'a' = 'a"},
        {"a OR 1=1": 1},
        {"a": "x\\"},
        {"a": {}},
        {"a": []},
        {"a) OR (b": 1},
        {"a": None},
    ]
    for bad in faulty:
        with pytest.raises(ValueError, match=r"filter|value|needs"):
            filter_of(bad)
