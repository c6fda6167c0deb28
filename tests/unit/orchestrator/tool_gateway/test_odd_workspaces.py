"""Odd answers of a workspace to the Databricks tools: none counts as a result, and none shows what is others'."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from services.orchestrator.tool_gateway.builtin.databricks.workspace import PollPauses, Workspaces
from services.orchestrator.tool_gateway.builtin.databricks_genie import DatabricksGenie
from services.orchestrator.tool_gateway.builtin.databricks_job_run import DatabricksJobRun
from services.orchestrator.tool_gateway.builtin.databricks_sql import DatabricksSql
from services.orchestrator.tool_gateway.builtin.databricks_vector_search import DatabricksVectorSearch
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, ToolCallRequest, ToolResult
from tests.support.databricks_http import ApiFault
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.tool_adapters import RecordedProgress, call_of, egress_of, principal_of
from tests.unit.orchestrator.tool_gateway.test_databricks_tools import OneToken

FAILURES = 3
INDEX = "main.docs.handbook"
MEMORIES = "main.crews.unified"
FOLLOWED = "main.crews.followed"
TOOLS = ("sql", "genie", "job", "search")


class Bench:
    """A tool of each kind beside one workspace."""

    def __init__(self, workspace: DatabricksWorkspace, workspaces: Workspaces, parser: BoundedParser) -> None:
        self.workspace = workspace
        self._tools: Mapping[str, Any] = {
            "sql": DatabricksSql(workspaces, parser),
            "genie": DatabricksGenie(workspaces),
            "job": DatabricksJobRun(workspaces),
            "search": DatabricksVectorSearch(workspaces),
        }
        self._calls = {
            "sql": call_of("databricks_sql", {"statement": "SELECT * FROM t"}, config={"warehouse_id": "w"}),
            "genie": call_of("databricks_genie", {"question": "How many"}, config={"space_id": "s"}),
            "job": call_of("databricks_job_run", {}, config={"job_id": 7}),
            "search": search_of(),
        }

    def emulator(self, tool: str) -> Any:
        return {
            "sql": self.workspace.sql,
            "genie": self.workspace.genie,
            "job": self.workspace.jobs,
            "search": self.workspace.vector_search,
        }[tool]

    async def call(self, tool: str, request: ToolCallRequest | None = None) -> ToolResult:
        result: ToolResult = await self._tools[tool].call(request or self._calls[tool], RecordedProgress())
        return result

    async def outcome(self, tool: str) -> ToolResult | Exception:
        """What becomes of a call; anything but the failures of tools fails the test."""
        try:
            return await self.call(tool)
        except (CallRefused, NotSent, OutcomeUnknown) as failure:
            return failure


def search_of(group: str = "acme", index: str = INDEX, **config: Any) -> ToolCallRequest:
    settings = {"index": index, "columns": ["id", "content"], "query_type": "FULL_TEXT", **config}
    asked = {"query": "plans", "num_results": 50}
    return call_of("databricks_vector_search", asked, config=settings, principal=principal_of(group))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    parser = BoundedParser(cpu_seconds=2)
    async with DatabricksWorkspace() as workspace, egress_of() as egress:
        token = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
        pauses = PollPauses(first=0.001, longest=0.002, failures=FAILURES)
        workspaces = Workspaces(egress, OneToken(workspace.url, token), max_result_bytes=200_000, pauses=pauses)
        workspace.sql.on("FROM t", columns=[("n", "INT"), ("x", "DOUBLE")], rows=[["1", "1.5"], ["2", "2.5"]])
        workspace.genie.add_space("s")
        workspace.genie.on("How many", text="Three.", sql="SELECT 3", columns=[("n", "BIGINT")], rows=[["3"]])
        workspace.jobs.add_job(7, tasks=("load",), output="42 rows")
        search = workspace.vector_search
        search.add_endpoint("ep")
        plain = {"id": "string", "content": "string", "embedding": "array<float>"}
        search.add_index(INDEX, "ep", plain, 2)
        kept = {**plain, "group_id": "string", "crew_id": "string", "embedding_model": "string"}
        search.add_index(MEMORIES, "ep", kept, 2)
        for group in ("acme", "other"):
            row = {"id": f"{group}-1", "content": f"plans of {group}", "embedding": [1.0, 0.0]}
            search._indexes[INDEX].table.put(row)
            row = {**row, "group_id": group, "crew_id": "c", "embedding_model": "m"}
            search._indexes[MEMORIES].table.put(row)
            search.add_table("main.crews.source", kept, 2, [row])
        search.add_table("main.docs.source", plain, 2, [{"id": "1", "content": "plans", "embedding": [1.0, 0.0]}])
        for name, source in ((FOLLOWED, "main.crews.source"), ("main.docs.followed", "main.docs.source")):
            spec = {
                "source_table": source,
                "pipeline_type": "TRIGGERED",
                "embedding_vector_columns": [{"name": "embedding", "embedding_dimension": 2}],
            }
            body = {"name": name, "index_type": "DELTA_SYNC", "primary_key": "id", "endpoint_name": "ep"}
            search._advance_index(search._new_index(body | {"delta_sync_index_spec": spec}, creator="admin"))
        yield Bench(workspace, workspaces, parser)
    await parser.close()


async def test_each_tool_answers_when_nothing_is_odd(bench: Bench) -> None:
    for tool in TOOLS:
        result = await bench.call(tool)
        assert not result.is_error, (tool, result.text)
        assert result.structured


NO_ANSWERS = [
    "<html>sign in</html>",
    "",
    "{}",
    "[]",
    "null",
    '"SUCCEEDED"',
    '{"statement_id": "x", "status": {"sta',
    '{"status": 7, "state": [], "name": {}, "statement_id": 1, "run_id": "x", "conversation_id": 2}',
    "[" * 50_000,
    '{"status": ' + "9" * 5000 + "}",
    '{"status": NaN}',
    "x" * 300_000,
]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("body", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
async def test_what_is_no_answer_is_no_result(bench: Bench, tool: str, body: str) -> None:
    for method, path in (("POST", None), ("GET", None), (None, None)):
        emulator = bench.emulator(tool)
        emulator.clear_faults()
        emulator.fail(ApiFault(method=method, path=path, status=200, body=body, times=None))
        found = await bench.outcome(tool)
        assert isinstance(found, OutcomeUnknown | NotSent), (method, found)
        assert len(str(found)) < 5000


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "fault",
    [
        ApiFault(method="GET", status=502, body="<html>"),
        ApiFault(method="GET", status=504, body="<html>"),
        ApiFault(method="GET", status=429, retry_after="0.001"),
        ApiFault(method="GET", status=503, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
        ApiFault(method="GET", drop=True),
        ApiFault(method="GET", status=200, body="{}"),
    ],
    ids=["502", "504", "429", "503", "dropped", "empty"],
)
async def test_one_odd_answer_in_between_changes_nothing(bench: Bench, tool: str, fault: ApiFault) -> None:
    expected = await bench.call(tool)
    bench.emulator(tool).fail(fault)
    result = await bench.call(tool)
    assert not result.is_error
    assert _lasting(result) == _lasting(expected)


def _lasting(result: ToolResult) -> Any:
    """What does not differ from call to call."""
    gone = ("statement_id", "conversation_id", "run_id", "run_page_url")
    return {name: value for name, value in result.structured.items() if name not in gone}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_with_the_token(bench: Bench, tool: str, status: int) -> None:
    bench.emulator(tool).fail(ApiFault(status=status, body="<html>elsewhere</html>", times=None))
    found = await bench.outcome(tool)
    assert not isinstance(found, ToolResult) or found.is_error


MANIFEST = {"schema": {"columns": [{"name": "n", "type_text": "INT"}, {"name": "x", "type_text": "DOUBLE"}]}}
ROWS = [["1", "1.5"]]


def _succeeded(**changes: Any) -> str:
    answer = {"status": {"state": "SUCCEEDED"}, "manifest": MANIFEST, "result": {"data_array": ROWS}}
    return json.dumps(answer | changes)


@pytest.mark.parametrize(
    "answer",
    [
        _succeeded(manifest=None),
        _succeeded(manifest=5),
        _succeeded(manifest=5, result=None),
        _succeeded(manifest=None, result=5),
        _succeeded(result={"data_array": {"0": ROWS}}),
        _succeeded(result={"data_array": ["12"]}),
        _succeeded(result={"data_array": [["1"]]}),
        _succeeded(result={"data_array": [["1", "2", "3"]]}),
        _succeeded(manifest={**MANIFEST, "total_row_count": 5}, result={}),
        _succeeded(result={"data_array": ROWS, "next_chunk_index": 0}),
        _succeeded(result={"data_array": ROWS, "next_chunk_index": -1}),
    ],
    ids=range(11),
)
async def test_a_statement_with_a_spoilt_result_gives_none(bench: Bench, answer: str) -> None:
    bench.workspace.sql.fail(ApiFault(method="GET", status=200, body=answer, times=None))
    assert isinstance(await bench.outcome("sql"), OutcomeUnknown)


@pytest.mark.parametrize("answer", [{}, {"manifest": None, "result": None}, {"result": {}}], ids=range(3))
async def test_a_statement_that_succeeded_and_has_no_result_is_done(bench: Bench, answer: dict[str, Any]) -> None:
    done = json.dumps({"status": {"state": "SUCCEEDED"}, **answer})
    bench.workspace.sql.fail(ApiFault(method="GET", status=200, body=done, times=None))
    result = await bench.call("sql")
    assert not result.is_error
    assert (result.structured["columns"], result.structured["rows"], result.structured["truncated"]) == ([], [], False)


@pytest.mark.parametrize("chunk", [{}, {"chunk_index": 2}, {"chunk_index": 1, "data_array": [["1"]]}], ids=range(3))
async def test_parts_of_a_result_that_are_others_are_not_taken(bench: Bench, chunk: dict[str, Any]) -> None:
    bench.workspace.sql.on("FROM t", columns=[("n", "INT"), ("x", "DOUBLE")], rows=[["1", "1"]] * 3, chunk_rows=1)
    bench.workspace.sql.fail(ApiFault(path="/chunks/", status=200, body=json.dumps(chunk), times=None))
    assert isinstance(await bench.outcome("sql"), OutcomeUnknown)
    bench.workspace.sql.clear_faults()
    circle = json.dumps({"chunk_index": 1, "data_array": ROWS, "next_chunk_index": 1})
    bench.workspace.sql.fail(ApiFault(path="/chunks/", status=200, body=circle, times=None))
    assert isinstance(await bench.outcome("sql"), OutcomeUnknown)


async def test_numbers_that_json_has_not_stay_texts(bench: Bench) -> None:
    cells = ["1e999", "-1e999", "nan", "Infinity", "1.5"]
    bench.workspace.sql.on("FROM t", columns=[("x", "DOUBLE")], rows=[[cell] for cell in cells])
    result = await bench.call("sql")
    assert result.structured["rows"] == [["1e999"], ["-1e999"], ["nan"], ["Infinity"], [1.5]]
    assert json.loads(result.text) == result.structured


@pytest.mark.parametrize("value", ["x" * 300, ["x"], 7, ""])
async def test_ids_that_are_none_are_not_followed(bench: Bench, value: Any) -> None:
    for tool, body in (
        ("sql", {"statement_id": value}),
        ("genie", {"conversation_id": value, "message_id": value}),
        ("job", {"run_id": -7 if value == 7 else value}),
    ):
        bench.emulator(tool).fail(ApiFault(method="POST", status=200, body=json.dumps(body)))
        assert isinstance(await bench.outcome(tool), OutcomeUnknown), tool


async def test_genie_without_an_answer_says_so(bench: Bench) -> None:
    for attachments, kind in ((None, OutcomeUnknown), ({}, OutcomeUnknown), ([], ToolResult), ([7], ToolResult)):
        bench.workspace.genie.clear_faults()
        body = json.dumps({"status": "COMPLETED", "attachments": attachments})
        bench.workspace.genie.fail(ApiFault(method="GET", status=200, body=body, times=None))
        found = await bench.outcome("genie")
        assert isinstance(found, kind)
        assert not isinstance(found, ToolResult) or found.is_error
    bench.workspace.genie.clear_faults()
    rows = json.dumps({"statement_response": {"manifest": MANIFEST, "result": {"data_array": [["1"], "2"]}}})
    bench.workspace.genie.fail(ApiFault(path="query-result", status=200, body=rows, times=None))
    [query] = (await bench.call("genie")).structured["queries"]
    assert "rows_missing" in query
    assert "rows" not in query


async def test_tasks_in_a_circle_are_said_to_be_incomplete(bench: Bench) -> None:
    run = {
        "state": {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"},
        "tasks": [{"run_id": 2**70, "task_key": "huge"}, {"run_id": True}, 7],
        "next_page_token": "again",
    }
    bench.workspace.jobs.fail(ApiFault(path="runs/get", status=200, body=json.dumps(run), times=None))
    result = await bench.call("job")
    assert result.structured["tasks_incomplete"]
    assert "output" not in result.structured
    assert len(bench.workspace.jobs.requests(path="runs/get")) == 2


def _page(**changes: Any) -> str:
    manifest = {"columns": [{"name": "id"}, {"name": "content"}]}
    return json.dumps({"manifest": manifest, "result": {"data_array": [["1", "a", 0.5]]}} | changes)


@pytest.mark.parametrize(
    "answer",
    [
        _page(manifest={"columns": [1, 2]}),
        _page(manifest={"columns": 5}),
        _page(manifest={"columns": True}),
        _page(manifest={"columns": [{"name": 1}, {"name": 2}]}),
        _page(manifest={}),
        _page(result=None),
        _page(result={"data_array": ["ab"]}),
        _page(result={"data_array": {"0": []}}),
        _page(result={"data_array": [["1"]]}),
        _page(result={"data_array": [["1", "a", 0.5, "more"]]}),
        _page(result={"row_count": 9, "data_array": [["1", "a", 0.5]]}),
        _page(result={"row_count": 1}),
    ],
    ids=range(12),
)
async def test_a_search_with_a_spoilt_answer_finds_nothing_for_certain(bench: Bench, answer: str) -> None:
    bench.workspace.vector_search.fail(ApiFault(path="/query", status=200, body=answer))
    assert isinstance(await bench.outcome("search"), OutcomeUnknown)


@pytest.mark.parametrize("index", [MEMORIES, FOLLOWED])
async def test_an_odd_description_opens_no_way_to_memories_of_others(bench: Bench, index: str) -> None:
    odd = [
        "{}",
        json.dumps({"name": index}),
        json.dumps({"name": index, "index_type": "OTHER"}),
        json.dumps({"name": index, "index_type": "DIRECT_ACCESS", "direct_access_index_spec": {}}),
        json.dumps({"name": index, "index_type": "DIRECT_ACCESS", "direct_access_index_spec": {"schema_json": "{"}}),
    ]
    for body in ["", *odd]:
        if body:
            bench.workspace.vector_search.fail(ApiFault(method="GET", status=200, body=body))
        for filters in ({}, {"group_id": "other"}, {"group_id NOT": "acme"}):
            request = search_of(index=index, filters=filters)
            found = (await bench.call("search", request)).structured["results"]
            # What excludes the own group finds nothing.
            own = [] if "group_id NOT" in filters else ["acme-1"]
            assert [row["id"] for row in found] == own, (body, filters)


async def test_an_index_that_follows_a_table_of_something_else_is_searched_as_it_is(bench: Bench) -> None:
    result = await bench.call("search", search_of(index="main.docs.followed"))
    assert [row["id"] for row in result.structured["results"]] == ["1"]


_MISSING = "Requested columns to fetch are not present in index: "


@pytest.mark.parametrize(
    ("status", "message", "owned"),
    [
        (400, f"{_MISSING}group_id", False),
        (400, f"{_MISSING}[group_id].", False),
        (400, "Column `group_id` does not exist in index main.docs.followed", False),
        (400, f"{_MISSING}id. The columns of the index are content, embedding_model, group_id", True),
        (400, "Column group_id does not exist; did you mean GROUP_ID or group_id", True),
        (400, "group_id is of a type that is not returned", True),
        (400, "the index is not ready", True),
        (404, f"{_MISSING}group_id", True),
    ],
)
async def test_what_may_have_groups_is_searched_for_the_own_one_alone(
    bench: Bench, status: int, message: str, owned: bool
) -> None:
    search = bench.workspace.vector_search
    search.fail(ApiFault(path="/query", status=status, message=message))
    await bench.call("search", search_of(index="main.docs.followed"))
    probe, query = search.requests(path="/query")
    assert probe.body["columns"] == ["group_id"]
    assert ("group_id" in query.body["columns"], "filters_json" in query.body) == (owned, owned)
