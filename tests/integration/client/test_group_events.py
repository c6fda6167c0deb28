"""The events of a group from Python and from the command line."""

import asyncio
import json
import os
import signal
import sys
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest

from coxswain.client import AsyncClient, FailedPrecondition
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.paging import encode_page_token
from tests.integration.client.command_line import INTERRUPTIBLE, Run
from tests.integration.client.installation import Relay
from tests.support.harness import ALICE

ROOT = Path(__file__).parents[3]


async def test_a_watch_of_the_group_outlives_cut_connections(run: Run, crew_file: str) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0
    relay = Relay(run.address)
    try:
        async with AsyncClient(relay.address, token=ALICE) as watching, AsyncClient(run.address, token=ALICE) as client:
            seen: list[tuple[str, str | None]] = []
            made: list[str] = []
            said: list[str] = []
            following = watching.watch_executions(
                labels={"team": "a"},
                on_outage=lambda _: said.append("lost"),
                on_return=lambda: said.append("back"),
            )
            async with aclosing(following) as responses:
                async for response in responses:
                    if response.HasField("event"):
                        seen.append((response.event.execution_id, response.event.WhichOneof("event")))
                        if len(seen) == 6:
                            break
                    if len(made) < 3:
                        await asyncio.to_thread(relay.cut)
                        started = await client.start("brief", {"text": "x"}, labels={"team": "a"})
                        made.append(started.id)
                        await client.executions.CancelExecution(pb.CancelExecutionRequest(id=started.id))
    finally:
        relay.close()
    assert relay.connections >= 3
    assert said.count("back") >= 2
    # However often it failed to connect, it is said once that it is back.
    assert "back" not in [after for before, after in pairwise(["back", *said]) if before == "back"]
    kinds = ("execution_queued", "execution_cancelled")
    assert seen == [(execution_id, kind) for execution_id in made for kind in kinds]


async def test_the_events_of_a_group_are_lines_until_one_has_seen_enough(run: Run, crew_file: str) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", INTERRUPTIBLE, "--token", ALICE, "events", "--crew", "brief", "--kind", "execution_cancelled"),
        "--json",
        env={**os.environ, "COXSWAIN_ADDRESS": run.address, "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert set(json.loads(await process.stdout.readline())) == {"position"}, "the watch stands"
    execution_id = (await run("run", "brief", "-i", "text=x", "--detach")).stdout.strip()
    await run("cancel", execution_id)
    line = json.loads(await process.stdout.readline())
    assert (line["event"]["execution_id"], line["crew_name"]) == (execution_id, "brief")
    assert "execution_cancelled" in line["event"]
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    wrong = await run("events", "--kind", "llm_chunk")
    assert wrong.exit_code == 2
    assert "expected one of execution_queued" in wrong.stderr
    async with AsyncClient(run.address, token=ALICE) as client:
        old = encode_page_token("group_events", {"group": "sales"}, [0, 0, 0])
        with pytest.raises(FailedPrecondition) as caught:
            async for _ in client.watch_executions(old):
                pass
        assert caught.value.reason == "POSITION_EXPIRED"
