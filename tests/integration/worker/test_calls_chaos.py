"""A tool that pays is called by crews whose hosts are killed every few seconds. `make chaos` runs it.

`CHAOS_SEED` (printed) says when which host is killed, and what becomes of which answer.
"""

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest

from coxswain.orchestrator.v1 import execution_pb2, question_pb2, question_state_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from tests.integration.worker.installation import Installation, install, kinds
from tests.integration.worker.test_calls_of_crews import Shop, add_source, crew
from tests.support.played_gateway import PlayedCall, PlayedGateway, result, unknown

S = execution_pb2
EXECUTIONS = 60
CALLS_EACH = 5
AT_ONCE = 8
KILL_SECONDS = 3.0


@pytest.mark.chaos
async def test_three_hundred_payments_of_crews_whose_hosts_are_killed_every_three_seconds(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    dice = random.Random(seed)

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        await asyncio.sleep(dice.random() * 1.5)
        gateway.did(call)
        await asyncio.sleep(dice.random() * 1.5)
        return unknown("the answer was lost") if dice.random() < 0.1 else result(f"paid {call.request.arguments_json}")

    environment = {"COXSWAIN_WORKER_MAX_LOST_HOSTS": "1000", "COXSWAIN_WORKER_SLOTS": str(AT_ONCE)}
    async with (
        PlayedGateway() as gateway,
        install(tmp_path, COXSWAIN_TOOLS_ADDRESS=gateway.address, **environment) as installation,
    ):
        shop = Shop(installation, gateway)
        await add_source(installation)
        gateway.tools["billing/pay"] = pay
        gateway.breaks = lambda _request: dice.random() * 2 if dice.random() < 0.1 else None
        shop.script(*range(1, CALLS_EACH + 1))
        await installation.hosts(2)
        slots = asyncio.Semaphore(AT_ONCE)

        async def run_one() -> str:
            async with slots:
                return (await installation.start(crew())).id

        started = await asyncio.gather(*(run_one() for _ in range(EXECUTIONS)))
        answering = asyncio.create_task(_answer_all(shop))
        killing = asyncio.create_task(_kill(installation, dice))
        try:
            async with asyncio.timeout(1800):
                await asyncio.gather(*(_ended(installation, execution_id) for execution_id in started))
        finally:
            answering.cancel()
            killing.cancel()
            outcomes = await asyncio.gather(answering, killing, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2

        asked = 0
        for execution_id in started:
            execution = await installation.get(execution_id)
            assert execution.state == S.EXECUTION_STATE_SUCCEEDED, execution.error
            events = kinds(await installation.watch(execution_id))
            assert "tool_call_failed" not in events
            assert events.count("tool_outcome_unknown") == await _questions(shop, execution_id)
            asked += events.count("tool_outcome_unknown")
        assert len(gateway.effects) == EXECUTIONS * CALLS_EACH
        assert set(gateway.effects.values()) == {1}
        assert asked > 5
        print(f"{asked} questions, {len(installation.workers)} hosts alive, {len(gateway.requests)} requests")


async def _ended(installation: Installation, execution_id: str) -> None:
    ended = False
    while not ended:
        with contextlib.suppress(TimeoutError):
            await installation.watch(execution_id)
            ended = True


async def _questions(shop: Shop, execution_id: str) -> int:
    request = question_pb2.ListQuestionsRequest(execution_id=execution_id, page_size=1000)
    return len((await shop.inbox.ListQuestions(request)).questions)


async def _answer_all(shop: Shop) -> None:
    """Be the person who looks up every payment: it was made."""
    async for change in shop.inbox.WatchQuestions(question_pb2.WatchQuestionsRequest()):
        if change.question.state == question_state_pb2.QUESTION_STATE_OPEN:
            assert change.question.kind == question_state_pb2.QUESTION_KIND_OUTCOME_UNKNOWN
            await shop.accept(change.question, {"happened": True, "result": "found paid"})


async def _kill(installation: Installation, dice: random.Random) -> None:
    while True:
        await asyncio.sleep(KILL_SECONDS)
        living = [worker for worker in installation.workers if worker.process.returncode is None]
        victim = dice.choice(living)
        victim.kill()
        await victim.ended()
        await installation.hosts(2)
