"""The official SDK against the emulated SQL, Genie and jobs: what it understands is what the tools are tested on."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("DO_NOT_TRACK", "true")

from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import BadRequest, NotFound
from databricks.sdk.errors import PermissionDenied as SdkPermissionDenied
from databricks.sdk.service.dashboards import MessageStatus
from databricks.sdk.service.jobs import RunResultState
from databricks.sdk.service.sql import (
    Disposition,
    ExecuteStatementRequestOnWaitTimeout,
    Format,
    StatementParameterListItem,
    StatementState,
)

from tests.support.databricks_workspace import DatabricksWorkspace


@pytest.fixture(scope="module")
def workspace() -> Iterator[DatabricksWorkspace]:
    with DatabricksWorkspace() as running:
        yield running


@pytest.fixture
def client(workspace: DatabricksWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    token = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
    return WorkspaceClient(
        config=Config(host=workspace.url, token=token, http_timeout_seconds=60, retry_timeout_seconds=5)
    )


def submitted(client: Any, statement: str, **more: Any) -> Any:
    return client.statement_execution.execute_statement(
        statement=statement,
        warehouse_id="w1",
        wait_timeout="0s",
        on_wait_timeout=ExecuteStatementRequestOnWaitTimeout.CONTINUE,
        disposition=Disposition.INLINE,
        format=Format.JSON_ARRAY,
        **more,
    )


def test_a_statement_is_submitted_asked_for_and_read_in_chunks(workspace: DatabricksWorkspace, client: Any) -> None:
    rows = [[str(n), None] for n in range(5)]
    workspace.sql.on("FROM chunked", columns=[("n", "INT"), ("x", "STRING")], rows=rows, chunk_rows=2, polls=2)
    parameters = [StatementParameterListItem(name="a", value="1", type="BIGINT")]
    answer = submitted(client, "SELECT :a FROM chunked", parameters=parameters, row_limit=100, byte_limit=1000)
    assert answer.status.state is StatementState.PENDING
    api = client.statement_execution
    states = [api.get_statement(answer.statement_id).status.state for _ in range(3)]
    assert states == [StatementState.PENDING, StatementState.RUNNING, StatementState.SUCCEEDED]
    done = api.get_statement(answer.statement_id)
    found, chunk = list(done.result.data_array), done.result
    while chunk.next_chunk_index is not None:
        chunk = api.get_statement_result_chunk_n(answer.statement_id, chunk.next_chunk_index)
        found += chunk.data_array
    assert found == rows
    assert [column.name for column in done.manifest.schema.columns] == ["n", "x"]
    assert (done.manifest.total_row_count, done.manifest.truncated) == (5, False)


def test_statements_fail_are_cancelled_and_bind_parameters(workspace: DatabricksWorkspace, client: Any) -> None:
    workspace.sql.on("FROM broken", state="FAILED", error="no such table")
    workspace.sql.on("FROM slow", polls=1000)
    api = client.statement_execution
    failed = api.get_statement(submitted(client, "SELECT 1 FROM broken").statement_id)
    assert (failed.status.state, failed.status.error.message) == (StatementState.FAILED, "no such table")
    slow = submitted(client, "SELECT 1 FROM slow").statement_id
    api.cancel_execution(slow)
    assert api.get_statement(slow).status.state is StatementState.CANCELED
    with pytest.raises(BadRequest, match="not used"):
        submitted(client, "SELECT 1", parameters=[StatementParameterListItem(name="b", value="1")])
    with pytest.raises(NotFound):
        api.get_statement("none")


def test_genie_answers_and_goes_on(workspace: DatabricksWorkspace, client: Any) -> None:
    workspace.genie.add_space("space1")
    workspace.genie.on("How many", text="Three.", sql="SELECT count(*)", columns=[("n", "BIGINT")], rows=[["3"]])
    message = client.genie.start_conversation_and_wait("space1", "How many orders?")
    assert message.status is MessageStatus.COMPLETED
    assert message.attachments is not None
    query = next(attachment for attachment in message.attachments if attachment.query)
    assert query.query is not None
    assert query.query.query == "SELECT count(*)"
    assert query.attachment_id is not None
    result: Any = client.genie.get_message_attachment_query_result(
        "space1", message.conversation_id, message.message_id, query.attachment_id
    )
    assert result.statement_response.result.data_array == [["3"]]
    further = client.genie.create_message_and_wait("space1", message.conversation_id, "And now?")
    assert further.conversation_id == message.conversation_id
    with pytest.raises(NotFound):
        client.genie.start_conversation("elsewhere", "x")


def test_one_token_starts_one_run(workspace: DatabricksWorkspace, client: Any) -> None:
    workspace.jobs.add_job(7, tasks=("load", "report"), output="42 rows")
    started = [client.jobs.run_now(7, idempotency_token="t" * 64, job_parameters={"day": "1"}) for _ in range(2)]
    assert started[0].run_id == started[1].run_id
    run = started[0].result()
    assert run.state is not None
    assert run.state.result_state is RunResultState.SUCCESS
    assert run.tasks is not None
    output = client.jobs.get_run_output(run.tasks[-1].run_id or 0)
    assert output.notebook_output is not None
    assert output.notebook_output.result == "42 rows (report)"
    workspace.jobs.add_job(8, polls=1000)
    slow = client.jobs.run_now(8)
    client.jobs.cancel_run(slow.run_id)
    cancelled = client.jobs.get_run(slow.run_id).state
    assert cancelled is not None
    assert cancelled.result_state is RunResultState.CANCELED
    with pytest.raises(BadRequest):
        client.jobs.run_now(7, idempotency_token="t" * 65)


def test_a_token_without_the_scope_is_refused(workspace: DatabricksWorkspace) -> None:
    ann = workspace.identity.add_user("bob@example.com")
    token = workspace.identity.mint(ann, scopes={"vector-search"}, client_id="app")
    narrow: Any = WorkspaceClient(
        config=Config(
            host=workspace.url, token=token, auth_type="pat", http_timeout_seconds=60, retry_timeout_seconds=5
        )
    )
    with pytest.raises(SdkPermissionDenied):
        submitted(narrow, "SELECT 1")
    with pytest.raises(SdkPermissionDenied):
        narrow.jobs.run_now(7)
