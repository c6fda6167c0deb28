"""Real servers of both eras behind a network that breaks: no call is made twice, and no made one is called failed."""

import asyncio
import sys
from collections.abc import Iterator

import pytest

from services.orchestrator.domain.tool_source import McpEra
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, ToolResult
from tests.support.cutting_proxy import cutting_proxy
from tests.support.mcp_calls import Told, calling, over_http, principal, request
from tests.support.mcp_servers.processes import LEGACY, MODERN, McpServerProcess, modern_python, serving

CALLS = 60


@pytest.fixture(scope="module", params=[McpEra.LEGACY, McpEra.MODERN])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpServerProcess]:
    python, script = (sys.executable, LEGACY) if request.param is McpEra.LEGACY else (str(modern_python()), MODERN)
    with serving(python, script, tmp_path_factory.mktemp("mcp") / "ledger") as running:
        yield running


@pytest.mark.parametrize("idempotent", [False, True])
async def test_every_call_is_made_at_most_once_and_its_outcome_is_true(
    server: McpServerProcess, idempotent: bool
) -> None:
    async with cutting_proxy(server.port) as proxy, calling() as caller:
        source = over_http(f"http://127.0.0.1:{proxy.port}/mcp")
        await caller.adapter.list_tools(source, principal())
        proxy.cutting = True
        turns = asyncio.Semaphore(8)

        async def pay(number: int) -> object:
            key = f"{idempotent}-{number}"
            async with turns:
                wanted = request(source, "pay", {"key": key, "pause": number % 3 / 100}, idempotent=idempotent)
                [outcome] = await asyncio.gather(caller.adapter.call(wanted, Told()), return_exceptions=True)
            return outcome

        outcomes = await asyncio.gather(*(pay(number) for number in range(CALLS)))
    assert all(proxy.cuts.values()), "each kind of cut has to have happened"
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds <= {ToolResult, OutcomeUnknown, NotSent, CallRefused}
    assert {ToolResult, OutcomeUnknown} <= kinds
    for number, outcome in enumerate(outcomes):
        paid = server.paid(f"{idempotent}-{number}")
        if isinstance(outcome, ToolResult):
            assert (outcome.is_error, paid) == (False, 1)
        elif isinstance(outcome, OutcomeUnknown):
            assert paid <= 1
        else:
            assert paid == 0
