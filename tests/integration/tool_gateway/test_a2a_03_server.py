"""An agent that the official SDK of A2A 0.3 serves, from an environment of its own, is called as those of 1.0 are."""

import asyncio
import contextlib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import pytest

from services.orchestrator.tool_gateway.ports import SourceAnswer
from services.orchestrator.tool_identity import listed_hash
from tests.integration.tool_gateway.test_a2a_agents import ASK, accepting, adapter
from tests.support.a2a_agent import agent_source
from tests.support.own_environment import ROOT, python_of
from tests.support.tool_provider import RecordedProgress, call_of, principal

FOLDER = ROOT / "tests" / "support" / "a2a_03"


@contextlib.asynccontextmanager
async def official_agent() -> AsyncIterator[int]:
    """Serve it, and give its port."""
    python = await asyncio.to_thread(python_of, "a2a-03", FOLDER / "client.txt")
    program = await asyncio.create_subprocess_exec(python, FOLDER / "server.py", stdout=PIPE)
    assert program.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield int(await program.stdout.readline())
    finally:
        program.kill()
        await program.wait()


@pytest.mark.large
async def test_an_agent_of_the_official_sdk_of_0_3_is_asked_answered_resumed_and_cancelled() -> None:
    async with official_agent() as port, adapter() as calls:
        spec = agent_source(f"127.0.0.1:{port}")
        (listed,) = await calls.list_tools(spec, principal())
        assert listed.name == "brief"
        assert "Briefs you on a topic." in listed.description
        request = call_of(spec, tool="brief", arguments=ASK, tool_hash=listed_hash(listed))
        progress = RecordedProgress(accepting(answer="2026"))
        assert (await calls.call(request, progress)).text == f"{ASK['message']}: a brief of 2026."
        assert [question.text for question in progress.questions] == ["Which year?"]
        after_a_crash = RecordedProgress()
        result = await calls.resume(request, progress.handles[-1], after_a_crash)
        assert (result.text, after_a_crash.questions) == (f"{ASK['message']}: a brief of 2026.", [])

        declined = RecordedProgress(SourceAnswer("decline"))
        refused = await calls.call(request, declined)
        assert refused.is_error
        assert "nobody answered what it asked (decline): Which year?" in refused.text
        # It was cancelled there, so nobody is asked again.
        result = await calls.resume(request, declined.handles[-1], RecordedProgress())
        assert result.is_error
        assert "cancelled" in result.text
