"""A tool that pays is called by crews whose hosts, and then the gateway as well, are killed every few seconds.

`make chaos` runs it. `CHAOS_SEED` (printed) says when which host is killed, and what becomes of which answer.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import grpc
import pytest
from aiohttp import web

from coxswain.orchestrator.v1 import execution_pb2, question_pb2, question_state_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.orchestrator.domain.tool_source import HttpApi, HttpOperation, SourceKind, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.http import HttpAdapter
from services.orchestrator.tool_identity import listed_hash
from tests.integration.worker.installation import Installation, install, kinds
from tests.integration.worker.test_calls_of_crews import Shop, add_source, add_tools, crew
from tests.support.child_process import free_port
from tests.support.http_emulator import Changes
from tests.support.llm_script import Reply, ToolCall
from tests.support.played_gateway import PlayedCall, PlayedGateway, result, unknown
from tests.support.tool_adapters import principal_of

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


@dataclass
class Ledger:
    """A service that pays: slowly, sometimes without an answer, and not knowing what it has been asked before."""

    dice: random.Random
    paid: Counter[int] = field(default_factory=Counter)
    url: str = ""
    under_way: Counter[int | None] = field(default_factory=Counter)
    """Payments that have arrived and are not made yet; None: how much is not read yet."""
    changes: Changes = field(default_factory=Changes)

    @contextlib.contextmanager
    def being_made(self, amount: int | None) -> Iterator[None]:
        self.under_way[amount] += 1
        try:
            yield
        finally:
            self.under_way[amount] -= 1
            self.changes.notify()

    async def pay(self, request: web.Request) -> web.Response:
        with self.being_made(None):
            amount = (await request.json())["amount"]
        with self.being_made(amount):
            await asyncio.sleep(self.dice.random() * 1.5)
            self.paid[amount] += 1
        await asyncio.sleep(self.dice.random() * 1.5)
        if request.transport is not None and self.dice.random() < 0.1:
            request.transport.abort()
        return web.json_response({"paid": amount})

    async def has_paid(self, amount: int) -> bool:
        """Return whether a payment was made, once it is if it had been asked for by now."""
        # What was sent before this request has been read when it is answered.
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                async with session.get(f"{self.url}/asked") as answer:
                    assert answer.status == 200
        await self.changes.wait(lambda: not self.under_way[None] and not self.under_way[amount])
        return self.paid[amount] > 0

    async def asked(self, _request: web.Request) -> web.Response:
        return web.Response()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/pay", self.pay)
        app.router.add_get("/asked", self.asked)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self.url
        finally:
            await runner.cleanup()


class Gateway:
    """The tool gateway as a process that is killed and started again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._process: Process | None = None

    async def start(self, environment: dict[str, str]) -> None:
        arguments = ("-m", "services.orchestrator.tool_gateway", "--internal-address", self.address)
        own = {
            "COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
            "COXSWAIN_TOOLS_PORT": str(free_port()),
            "COXSWAIN_TOOLS_LEASE_SECONDS": "3",
            # Answers are lost all the time, and what dead hosts have asked for is made all the same.
            "COXSWAIN_TOOLS_OUTAGE_THRESHOLD": "0",
            "COXSWAIN_TOOLS_WAITING_CALLS_PER_SOURCE": "1000",
        }
        self._process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment | own)
        async with grpc.aio.insecure_channel(self.address) as channel:
            await channel.channel_ready()

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@pytest.mark.chaos
async def test_three_hundred_payments_while_hosts_and_the_gateway_are_killed(tmp_path: Path, postgres_url: str) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    dice = random.Random(seed)
    ledger, gateway = Ledger(dice), Gateway(f"127.0.0.1:{free_port()}")
    environment = {
        "COXSWAIN_WORKER_MAX_LOST_HOSTS": "1000",
        "COXSWAIN_WORKER_SLOTS": str(AT_ONCE),
        "COXSWAIN_TOOLS_ADDRESS": gateway.address,
    }
    async with (
        ledger.serving() as url,
        install(tmp_path, database_url=postgres_url, **environment) as installation,
    ):
        await _add_ledger(installation, url)
        await gateway.start(installation.environment)
        for number in range(EXECUTIONS):
            amounts = range(number * CALLS_EACH, (number + 1) * CALLS_EACH)
            calls = [ToolCall(name="ledger_pay", arguments={"amount": amount}) for amount in amounts]
            installation.llm.on(Reply(tool_calls=calls), last_contains=f"Settle batch {number};")
        installation.llm.on(Reply(text="Settled."), last_role="tool")
        await installation.hosts(2)
        shop = Shop(installation, PlayedGateway())

        async def start_one(number: int) -> str:
            spec = crew(["ledger/pay"])
            spec.tasks[0].description = f"Settle batch {number}; then say so."
            return (await installation.start(spec)).id

        started = [await start_one(number) for number in range(EXECUTIONS)]
        answering = asyncio.create_task(_look_up(shop, ledger))
        killing = asyncio.create_task(_kill_all(installation, gateway, dice))
        try:
            async with asyncio.timeout(1800):
                await asyncio.gather(*(_ended(installation, execution_id) for execution_id in started))
        finally:
            answering.cancel()
            killing.cancel()
            outcomes = await asyncio.gather(answering, killing, return_exceptions=True)
            await gateway.kill()
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2, outcomes

        asked = 0
        for execution_id in started:
            execution = await installation.get(execution_id)
            assert execution.state == S.EXECUTION_STATE_SUCCEEDED, execution.error
            events = await installation.watch(execution_id)
            failed = [e.tool_call_failed for e in events if e.HasField("tool_call_failed")]
            assert failed == []
            asked += kinds(events).count("tool_outcome_unknown")
        assert ledger.paid == Counter(range(EXECUTIONS * CALLS_EACH))
        assert asked > 5
        print(f"{asked} questions")


async def _add_ledger(installation: Installation, url: str) -> None:
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
    operation = HttpOperation("pay", "Pays.", "POST", "/pay", schema, body={"amount": "{amount}"})
    spec = ToolSourceSpec("ledger", SourceKind.HTTP, HttpApi(url, (operation,)))
    (listed,) = await HttpAdapter(cast("Any", None), cast("Any", None)).list_tools(spec, principal_of())
    await add_tools(installation, spec, replace(listed, hash=listed_hash(listed)))


async def _look_up(shop: Shop, ledger: Ledger) -> None:
    """Be the person who looks up every payment of unknown outcome, once it must have arrived."""
    found: set[asyncio.Task[None]] = set()

    async def answer(question: question_pb2.Question) -> None:
        amount = json.loads(question.call.arguments_json)["amount"]
        paid = await ledger.has_paid(amount)
        happened = {"happened": True, "result": "found paid"} if paid else {"happened": False}
        await shop.accept(question, happened)

    async for change in shop.inbox.WatchQuestions(question_pb2.WatchQuestionsRequest()):
        if change.question.state == question_state_pb2.QUESTION_STATE_OPEN:
            found.add(asyncio.create_task(answer(change.question)))


async def _kill_all(installation: Installation, gateway: Gateway, dice: random.Random) -> None:
    """Kill hosts and, every third time, the gateway."""
    killing = asyncio.create_task(_kill(installation, dice))
    try:
        while True:
            await asyncio.sleep(3 * KILL_SECONDS)
            await gateway.kill()
            await gateway.start(installation.environment)
    finally:
        killing.cancel()


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
