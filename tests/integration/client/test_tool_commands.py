"""Tools and their sources on the command line, against real services; the tool gateway is played."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from typer.testing import Result

from services.common.errors import FailedPrecondition
from tests.integration.client.command_line import CREW, Run, rows
from tests.support.fake_tool_gateway import FakeToolGateway, serve_fake_gateway, tool
from tests.support.harness import serve_services

SOURCE = """\
name: billing
description: Pays
mcp:
  url: https://mcp.example.com/mcp
  era: legacy
secret: {secret_name: tools/billing}
headers: {x-client: coxswain}
denied_tools: refund
policies:
  - {tools: peek, trust_hints: true, timeout: 1m30s}
  - {approval: when, approval_condition: arguments.amount > 100}
"""
HTTP = """\
name: shop
http:
  base_url: https://api.example.com
  operations:
    - name: order
      description: Orders.
      method: POST
      path: /orders
      body: {item: "{item}", count: 1, tags: [a, null]}
      arguments_schema: {type: object, properties: {item: {type: string}}}
"""


@pytest.fixture
def gateway() -> FakeToolGateway:
    tools = [tool("pay", "Pays a bill."), tool("peek", "Looks.", idempotent_hint=True), tool("refund")]
    return FakeToolGateway(tools=tools)


@pytest.fixture
async def run(tmp_path: Path, gateway: FakeToolGateway) -> AsyncIterator[Run]:
    with structlog.testing.capture_logs():
        async with (
            serve_fake_gateway(gateway) as address,
            serve_services(tmp_path / "data", "models", "memory", "orchestrator") as harness,
        ):
            harness.host._addresses["tools"] = address  # type: ignore[index]
            yield Run(harness.address)


def said(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


async def test_a_source_is_stored_from_a_file_shown_changed_and_deleted(
    run: Run, tmp_path: Path, gateway: FakeToolGateway
) -> None:
    file = tmp_path / "billing.yaml"
    file.write_text(SOURCE)
    created = await run("tool", "source", "create", "-f", str(file))
    assert said(created) == "billing stored: 3 tools"
    assert created.stderr == ""
    [stored] = rows(await run("tool", "source", "get", "billing", "--json"))
    spec = stored["source"]["spec"]
    assert spec["mcp"] == {
        "url": "https://mcp.example.com/mcp",
        "transport": "MCP_TRANSPORT_STREAMABLE_HTTP",
        "era": "MCP_ERA_LEGACY",
    }
    assert (spec["headers"], spec["denied_tools"]) == ({"x-client": "coxswain"}, ["refund"])
    assert spec["policies"][0]["timeout"] == "90s"
    assert "billing mcp 3 ready" in said(await run("tool", "source", "list"))
    listed = await run("tool", "list", "--source", "billing")
    lines = {line.split()[0]: " ".join(line.split()) for line in listed.stdout.splitlines()}
    assert lines["billing/pay"] == "billing/pay no when Pays a bill."
    assert lines["billing/peek"] == "billing/peek yes when Looks."
    assert "cannot be used" in lines["billing/refund"]
    crew = tmp_path / "crew.yaml"
    crew.write_text(
        CREW.replace("model: offline/extract", "model: openai/gpt-4o-mini").replace(
            "    goal: Read\n",
            "    goal: Read\n    tools: [{name: billing/pay, max_calls: 2, timeout: 5s}, billing/*]\n",
        )
    )
    assert (await run("apply", "-f", str(crew))).exit_code == 0
    gateway.tools = [tool("pay", "Pays\u202e two bills."), tool("new")]
    refreshed = await run("tool", "source", "refresh", "billing")
    assert "changed pay (description) since" in said(refreshed)
    assert "stored with other tools: brief" in refreshed.stderr
    details = said(await run("tool", "source", "get", "billing"))
    assert "4 changes to accept" in details
    assert "stale crews brief" in details
    # Nobody accepts a change by storing a crew; what has changed is said, and who may accept it.
    refused = await run("apply", "-f", str(crew))
    assert refused.exit_code == 2
    wanted = (
        "`coxswain tool changes` shows what is different, and an admin accepts it with `coxswain tool source accept`"
    )
    assert wanted in " ".join(refused.stderr.split())
    assert (await run("tool", "changes", "billing", "pay")).stdout.splitlines()[1:] == [
        "@@ -1,5 +1,5 @@",
        " description:",
        "-  Pays a bill.",
        "+  Pays two bills.",
        " arguments_schema:",
        "   {",
        '     "properties": {',
    ]
    as_editor = await run("tool", "source", "accept", "billing", "pay", "-y", token="dev:erin:sales=editor")
    assert as_editor.exit_code == 17
    accepted = await run("tool", "source", "accept", "billing", "-y")
    assert "+  Pays two bills." in accepted.stdout
    assert accepted.stdout.splitlines()[-1] == "billing: 4 changes accepted"
    assert (await run("apply", "-f", str(crew))).exit_code == 0
    assert "billing mcp 2 ready" in said(await run("tool", "source", "list"))
    said(await run("tool", "source", "update", "billing", "--disable"))
    assert "disabled" in said(await run("tool", "source", "list"))
    assert said(await run("tool", "source", "update", "billing", "-f", str(file))).startswith("billing updated")
    assert (await run("tool", "source", "delete", "billing", "-y")).exit_code == 19
    assert said(await run("tool", "source", "delete", "billing", "-y", "--force")) == "billing deleted"
    assert (await run("tool", "source", "get", "billing")).exit_code == 15


async def test_a_file_that_is_wrong_is_refused_with_its_lines(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(SOURCE.replace("era: legacy", "era: stone").replace("denied_tools", "denied_tool"))
    result = await run("tool", "source", "create", "-f", str(file))
    assert result.exit_code == 2
    assert "mcp.era" in result.stderr
    assert "did you mean 'denied_tools'?" in result.stderr
    file.write_text(SOURCE.replace("name: billing", "name: Not a name"))
    assert (await run("tool", "source", "create", "-f", str(file))).exit_code == 2
    assert (await run("tool", "source", "create", "billing")).exit_code == 2
    file.write_text(HTTP)
    assert said(await run("tool", "source", "create", "-f", str(file))).startswith("shop stored")
    [stored] = rows(await run("tool", "source", "get", "shop", "--json"))
    body = stored["source"]["spec"]["http"]["operations"][0]["body"]
    assert body == {"item": "{item}", "count": 1.0, "tags": ["a", None]}


async def test_a_tool_is_tried_and_a_source_is_checked(run: Run, gateway: FakeToolGateway) -> None:
    created = await run(
        "tool", "source", "create", "billing", "--mcp", "https://mcp.example.com", "--secret", "tools/b"
    )
    assert created.exit_code == 0
    assert (await run("tool", "test", "billing/pay", '{"amount": 3}')).exit_code == 19
    paid = await run("tool", "test", "billing/pay", '{"amount": 3}', "--allow-side-effects")
    assert said(paid) == '{"ok": true}'
    shown = said(await run("tool", "usage", "--by", "source", "--by", "subject", "--source", "billing"))
    assert shown.startswith("source subject calls failed refused unknown cancelled seconds in out cost billing")
    counted = await run("tool", "usage", "--tool", "billing/pay", "--outcome", "ok", "--since", "1d", "--json")
    [[used]] = rows(counted)
    assert (used["tool"], used["calls"]) == ("billing/pay", "1")
    assert said(await run("tool", "usage", "--label", "team=a", "--by", "label=team")) == "no calls"
    assert (await run("tool", "usage", "--outcome", "odd")).exit_code == 2
    assert (await run("tool", "usage", "--by", "label")).exit_code == 2
    assert (await run("tool", "test", "billing/pay", "[1]")).exit_code == 2
    gateway.outcome.Clear()
    gateway.outcome.unknown.message = "the connection was cut"
    unknown = await run("tool", "test", "billing/pay", "--allow-side-effects")
    assert (unknown.exit_code, "not known" in unknown.stderr) == (1, True)
    assert "ok list: 3 tools" in said(await run("tool", "source", "check", "billing"))
    assert "tool gateway: serving" in (await run("status")).stdout
    within = await run("tool", "test", "calculator", '{"expression": "1+1"}')
    assert within.exit_code == 19
    assert "give it to an agent (tools: [calculator])" in within.stderr


async def test_a_source_that_cannot_be_used_yet_is_stored_with_the_reason(run: Run, gateway: FakeToolGateway) -> None:
    gateway.failure = FailedPrecondition(
        'your group has no secret "tools/b"; an admin can store one with PutSecret', reason="CREDENTIAL_NOT_CONFIGURED"
    )
    created = await run(
        "tool", "source", "create", "billing", "--mcp", "https://mcp.example.com", "--secret", "tools/b"
    )
    assert (created.exit_code, created.stdout) == (1, "billing stored, but not usable yet\n")
    assert said(await run("tool", "source", "accept", "billing", "-y")) == "billing: nothing to accept"
    assert "an admin can store one with `coxswain secret put`" in created.stderr
    listed = (await run("tool", "source", "list")).stdout
    assert "not usable: the tools of the source" in listed
    assert "`coxswain secret put`" in listed
    elsewhere = await run("secret", "put", "tools/other", "--origin", "https://mcp.example.com", stdin="s")
    assert "listed" not in elsewhere.stderr
    gateway.failure = None
    put = await run("secret", "put", "tools/b", stdin="s3cret")
    assert "tools/b stored for https://mcp.example.com" in put.stdout
    assert (put.exit_code, put.stderr) == (0, "billing listed: 3 tools\n")
    updated = await run("tool", "source", "update", "billing", "--mcp", "https://mcp.example.com/v2")
    assert updated.stdout == "billing updated: 3 tools\n", updated.stderr
    [stored] = rows(await run("tool", "source", "get", "billing", "--json"))
    assert stored["source"]["spec"]["secret"]["secret_name"] == "tools/b"
    assert (await run("tool", "source", "update", "billing", "--secret", "")).exit_code == 0
    [stored] = rows(await run("tool", "source", "get", "billing", "--json"))
    assert "secret" not in stored["source"]["spec"]
    plain = await run("tool", "source", "create", "desk", "--grpc", "127.0.0.1:50061", "--plaintext")
    assert (plain.exit_code, "--grpc: http://127.0.0.1:50061 may not be called" in plain.stderr) == (13, True)
    assert (await run("tool", "source", "update", "billing", "--plaintext")).exit_code == 2


async def test_a_server_names_the_line_of_a_file_that_it_refuses(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "billing.yaml"
    file.write_text(SOURCE.replace("https://mcp.example.com", "http://10.0.0.1"))
    refused = await run("tool", "source", "create", "-f", str(file))
    assert refused.exit_code == 2
    [line] = [line.split() for line in refused.stderr.splitlines() if "mcp.url" in line]
    assert line[:2] == ["4", "mcp.url"]
