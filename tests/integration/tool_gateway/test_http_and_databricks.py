"""HTTP APIs, a service with an OpenAPI document, and Databricks, called through the gateway as crews call them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import fastapi
import pytest
import uvicorn

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from services.orchestrator.domain.tool_source import (
    AuthKind,
    HttpApi,
    HttpOperation,
    OpenApiDocument,
    SourceAuth,
    SourceKind,
    ToolSourceSpec,
)
from tests.support.databricks_http import ApiFault
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.harness import ALICE, BOB, Harness, serve_services
from tests.support.tool_adapters import RecordingApi
from tests.support.tool_gateway import FixedSources, GatewayCaller

KEY = "marked-key-7d31f0c2"


def orders() -> fastapi.FastAPI:
    """A service such as people write, whose document comes from its framework."""
    app = fastapi.FastAPI()
    app.state.seen = []

    @app.get("/orders/{order_id}", operation_id="get_order")
    async def get_order(
        order_id: int, request: fastapi.Request, tag: Annotated[list[str], fastapi.Query()], note: str | None = None
    ) -> dict[str, Any]:
        app.state.seen.append(request.headers.get("authorization"))
        return {"id": order_id, "tags": tag, "note": note}

    @app.post("/orders", operation_id="create_order", status_code=201)
    async def create_order(body: dict[str, Any], idempotency_key: Annotated[str, fastapi.Header()]) -> dict[str, Any]:
        app.state.seen.append(idempotency_key)
        return {"made": body}

    return app


@asynccontextmanager
async def serving(app: fastapi.FastAPI) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def put_secret(harness: Harness, name: str, value: str, origin: str, bearer: str = ALICE) -> None:
    request = secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=[origin])
    await SecretServiceStub(harness.channel(bearer)).PutSecret(request)


async def test_apis_are_called_with_the_groups_secret_and_only_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    app = orders()
    async with serving(app) as url, RecordingApi() as elsewhere:
        secret = SourceAuth(AuthKind.SECRET, secret_name="tools/orders")
        pay = HttpOperation("pay", "Pays", "POST", "/pay", {"type": "object"}, body={})
        sources = FixedSources(
            [
                ToolSourceSpec(
                    "orders",
                    SourceKind.OPENAPI,
                    OpenApiDocument(url, url=f"{url}/openapi.json", idempotency_header="Idempotency-Key"),
                    auth=secret,
                ),
                ToolSourceSpec("elsewhere", SourceKind.HTTP, HttpApi(elsewhere.url, (pay,)), auth=secret),
                ToolSourceSpec("open", SourceKind.HTTP, HttpApi(elsewhere.url, (pay,))),
            ]
        )
        async with serve_services(tmp_path, "tools", sources=sources) as harness:
            await put_secret(harness, "tools/orders", KEY, url)
            gateway = GatewayCaller.of(harness)
            listed = {tool.name: tool for tool in await gateway.list(sources.sources[0].id)}
            assert listed["get_order"].idempotent_hint
            assert listed["create_order"].idempotent_hint
            arguments = json.dumps({"order_id": 7, "tag": ["a,b", "c&d"], "note": "ü/%"})
            read = await gateway.call("orders/get_order", arguments, idempotent=True)
            assert json.loads(read.result.structured_json) == {"id": 7, "tags": ["a,b", "c&d"], "note": "ü/%"}
            assert app.state.seen == [f"Bearer {KEY}"]
            body: dict[str, Any] = {"empty": {}, "none": None, "big": 1e16}
            made = await gateway.call("orders/create_order", json.dumps({"body": body}), call_id="call-77")
            assert json.loads(made.result.structured_json) == {"made": body}
            assert app.state.seen[-1] == "call-77"
            wrong = await gateway.call("orders/get_order", '{"order_id": "seven"}')
            assert wrong.result.is_error
            assert wrong.result.text.startswith("HTTP 422")

            # The secret belongs to one origin, and to one group.
            refused = await gateway.call("elsewhere/pay")
            assert refused.WhichOneof("outcome") == "failure"
            assert elsewhere.requests == []
            assert KEY not in str(refused)

            # A lost answer is no failure.
            elsewhere.drop("/pay")
            lost = await gateway.call("open/pay")
            assert lost.WhichOneof("outcome") == "unknown"
            assert len(elsewhere.requests) == 1
    assert KEY not in "".join(capfd.readouterr())


async def test_databricks_is_reached_with_the_groups_key(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"warehouse_id": "w1"}
    statement = json.dumps({"statement": "SELECT :n AS n", "parameters": {"n": 3}})
    async with DatabricksWorkspace() as workspace, serve_services(tmp_path, "tools") as harness:
        token = workspace.identity.add_pat(workspace.identity.add_user("ann@example.com"))
        await put_secret(harness, "databricks/api-key", token, workspace.url)
        gateway = GatewayCaller.of(harness)
        workspace.sql.fail(ApiFault(method="POST", path="/statements", status=429, retry_after="0"))
        found = await gateway.call("databricks_sql", statement, config=config, idempotent=True)
        assert json.loads(found.result.structured_json)["rows"] == [[3]]
        refused = await gateway.call("databricks_sql", '{"statement": "DROP TABLE x"}', config=config, idempotent=True)
        assert refused.result.is_error
        assert len(workspace.sql.statements) == 1

        # A submission whose answer is lost is made again where it only reads, and asked about otherwise.
        workspace.sql.fail(ApiFault(method="POST", path="/statements", drop=True))
        read = await gateway.call("databricks_sql", statement, config=config, idempotent=True)
        assert json.loads(read.result.structured_json)["rows"] == [[3]]
        workspace.sql.fail(ApiFault(method="POST", path="/statements", status=500, after_effect=True))
        written = await gateway.call(
            "databricks_sql", '{"statement": "INSERT INTO x VALUES (1)"}', config={**config, "read_only": False}
        )
        assert written.WhichOneof("outcome") == "unknown", written
        assert [one.text[:6] for one in workspace.sql.statements.values()] == ["SELECT", "SELECT", "INSERT"]

        # What has an id is asked for again, and not submitted again.
        workspace.sql.on("DELETE", polls=3)
        workspace.sql.fail(ApiFault(method="GET", path="/statements", status=500))
        deleted = await gateway.call(
            "databricks_sql", '{"statement": "DELETE FROM x"}', config={**config, "read_only": False}
        )
        assert deleted.WhichOneof("outcome") == "result", deleted
        assert len(workspace.sql.statements) == 4

        # One group's credential is not the other's.
        theirs = await gateway.call("databricks_sql", statement, config=config, bearer=BOB, idempotent=True)
        assert theirs.failure.reason == "CREDENTIAL_NOT_CONFIGURED", theirs

        workspace.jobs.add_job(7, output="42 rows")
        ran = await gateway.call("databricks_job_run", "{}", config={"job_id": 7}, call_id="call-78", idempotent=True)
        assert json.loads(ran.result.structured_json)["output"] == "42 rows (main)"
        (first, *_) = workspace.jobs.requests(path="run-now")
        assert first.body["idempotency_token"] == "call-78"
        assert {exchange.caller for exchange in workspace.sql.log} == {"ann@example.com", None}
    assert token not in "".join(capfd.readouterr())
