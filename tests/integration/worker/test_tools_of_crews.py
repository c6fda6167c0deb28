"""Crews call an HTTP API, a provider over gRPC, and Databricks: from the crew process to the world and back."""

import json
from pathlib import Path

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2, tool_source_pb2
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceStub
from examples.tool_provider.python.server import Provider
from services.common.grpc.json_values import to_struct, to_value
from tests.integration.worker.installation import CAPABLE, Installation, install_with_tools, is_kind
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.harness import ALICE
from tests.support.llm_script import Reply, ToolCall
from tests.support.tool_adapters import RecordingApi
from tests.support.tool_provider import served

KEY = "marked-key-0a91d5e7"


async def put_secret(installation: Installation, name: str, value: str, origin: str) -> None:
    request = secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=[origin])
    await SecretServiceStub(installation.harness.channel(ALICE)).PutSecret(request)


async def add_shop(installation: Installation, url: str) -> None:
    """Store a source of one operation, whose tools the gateway lists."""
    schema = {"type": "object", "properties": {"id": {"type": "string"}, "reason": {}}, "required": ["id"]}
    spec = tool_source_pb2.ToolSourceSpec(name="shop")
    spec.secret.secret_name = "tools/shop"
    spec.http.base_url = f"{url}/v1"
    spec.http.operations.add(
        name="cancel_order",
        description="Cancels an order.",
        method="POST",
        path="/orders/{id}/cancellations",
        arguments_schema=to_struct(schema),
        body=to_value({"why": "{reason}"}),
        result_pointer="/receipt",
        idempotency_header="Idempotency-Key",
    )
    stub = ToolSourceServiceStub(installation.harness.channel(ALICE))
    created = await stub.CreateToolSource(tool_source_pb2.CreateToolSourceRequest(spec=spec))
    assert created.source.list_error == ""
    assert created.source.tool_count == 1


async def add_billing(installation: Installation, port: int) -> None:
    """Store the example of a tool provider as a source."""
    spec = tool_source_pb2.ToolSourceSpec(name="billing")
    spec.grpc.address, spec.grpc.plaintext = f"127.0.0.1:{port}", True
    stub = ToolSourceServiceStub(installation.harness.channel(ALICE))
    created = await stub.CreateToolSource(tool_source_pb2.CreateToolSourceRequest(spec=spec))
    assert created.source.list_error == ""
    assert created.source.tool_count == 2


def crew() -> crew_pb2.CrewSpec:
    agent = crew_pb2.AgentSpec(name="clerk", role="Clerk", goal="Help")
    agent.tools.add(name="shop/cancel_order")
    agent.tools.add(name="billing/*")
    agent.tools.add(name="databricks_sql", config=to_struct({"warehouse_id": "w1"}))
    task = crew_pb2.TaskSpec(name="help", description="Help the customer.", expected_output="Words", agent="clerk")
    return crew_pb2.CrewSpec(name="help", model=CAPABLE, agents=[agent], tasks=[task])


def stored_bytes(directory: Path) -> bytes:
    """All that the databases hold."""
    return b"".join(file.read_bytes() for file in directory.rglob("*.db*"))


async def test_a_crew_queries_and_acts(tmp_path: Path) -> None:
    provider = Provider()
    async with (
        served(provider) as provider_port,
        DatabricksWorkspace() as workspace,
        RecordingApi() as api,
        install_with_tools(tmp_path) as installation,
    ):
        token = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
        await put_secret(installation, "databricks/api-key", token, workspace.url)
        await put_secret(installation, "tools/shop", KEY, api.url)
        await add_shop(installation, api.url)
        await add_billing(installation, provider_port)
        workspace.sql.on("FROM orders", columns=[("id", "STRING")], rows=[["A/7"]], polls=2)
        api.answer("/v1/orders/A/7/cancellations", json.dumps({"receipt": {"number": 12, "seen": KEY}}))
        query = {"statement": "SELECT id FROM orders WHERE name = :name", "parameters": {"name": "O'Neil; --"}}
        cancel = {"id": "A/7", "reason": {"code": None, "text": "ü"}}
        llm = installation.llm
        llm.on(Reply(text="It is cancelled and paid."), last_contains='"payment":"P-17"')
        pay = {"number": "17"}
        llm.on(Reply(tool_calls=[ToolCall(name="billing_pay_invoice", arguments=pay)]), last_contains='"number":12')
        llm.on(Reply(tool_calls=[ToolCall(name="shop_cancel_order", arguments=cancel)]), last_contains="A/7")
        llm.on(Reply(tool_calls=[ToolCall(name="databricks_sql", arguments=query)]), last_contains="Help the customer.")
        await installation.hosts(1)

        execution = await installation.start(crew())
        ended = await installation.finished(execution.id)
        events = await installation.watch(execution.id)
        assert ended.state == execution_pb2.EXECUTION_STATE_SUCCEEDED, events
        assert ended.usage.tool_calls == 3
        (statement,) = workspace.sql.statements.values()
        assert statement.parameters == [{"name": "name", "value": "O'Neil; --", "type": "STRING"}]
        (sent,) = api.requests
        assert sent.target == "/v1/orders/A%2F7/cancellations"
        assert json.loads(sent.body) == {"why": {"code": None, "text": "ü"}}
        assert sent.header("authorization") == [f"Bearer {KEY}"]
        completed = [event.tool_call_completed for event in events if is_kind("tool_call_completed")(event)]
        assert sent.header("idempotency-key") == [completed[1].call_id]
        assert list(provider.calls) == [completed[2].call_id]
        # No model, event or row ever has the credentials, not even when a server repeats them.
        shown = "".join(str(call.body) for call in llm.calls_where(route="chat")) + str(events)
        assert "[secret]" in shown
        assert KEY not in shown
        assert token not in shown
        stored = stored_bytes(tmp_path)
        assert KEY.encode() not in stored
        assert token.encode() not in stored
