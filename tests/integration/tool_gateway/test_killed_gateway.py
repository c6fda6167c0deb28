"""The gateway is killed in the middle of calls: what was sent is never sent again, what was not is."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from aiohttp import web

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.ids import new_id
from tests.support.gateway_process import GatewayProcess
from tests.support.harness import Harness, serve_services
from tests.support.http_emulator import Changes, HttpEmulator
from tests.support.marked_secrets import MarkedSecrets
from tests.support.tool_gateway import GatewayCaller

SECRET = "marked-receipt-0f7c41d9"
CALLS = 24


@dataclass
class Bank(HttpEmulator):
    """Pays what is ordered, some of it slowly, and loses one answer in ten."""

    held: bool = False
    """Whether payments wait until the bank is let go."""
    paid: Counter[str] = field(default_factory=Counter)
    changes: Changes = field(default_factory=Changes)
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__()

    def install(self, app: web.Application) -> None:
        app.router.add_post("/pay", self._pay)

    def let_go(self) -> None:
        self._open.set()

    def has_seen(self, calls: int) -> bool:
        """Whether so many calls have come."""
        return len(self.paid) >= calls

    async def _pay(self, request: web.Request) -> web.Response:
        self.paid[(await request.json())["id"]] += 1
        self.changes.notify()
        if self.held:
            await self._open.wait()
        else:
            await asyncio.sleep(self.chance.random())
        if self.chance.random() < 0.1:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"receipt": SECRET})


@pytest.fixture
async def harness(tmp_path: Any) -> AsyncIterator[Harness]:
    async with serve_services(tmp_path, "orchestrator") as served:
        yield served


async def pay(caller: GatewayCaller, bank: Bank, call_id: str) -> pb.ToolOutcome:
    arguments = json.dumps({"url": f"{bank.url}/pay", "method": "POST", "json": {"id": call_id}})
    config = {"origins": [bank.url], "read_only": False}
    return await caller.call("http_request", arguments, call_id=call_id, config=config, begun_before=True)


async def until_outcome(caller: GatewayCaller, bank: Bank, call_id: str) -> pb.ToolOutcome:
    """Ask for a call until a gateway tells its outcome, as worker hosts do."""
    while True:
        try:
            return await pay(caller, bank, call_id)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        await asyncio.sleep(0.2)


async def test_what_was_sent_is_not_sent_again_and_what_waited_is(harness: Harness) -> None:
    gateway = GatewayProcess(harness, {"COXSWAIN_TOOLS_CALLS_PER_SOURCE": "1"})
    gateway.start()
    try:
        async with Bank(held=True) as bank, gateway.caller(harness) as caller:
            sent, waiting = new_id(), new_id()
            asking = [asyncio.create_task(pay(caller, bank, call_id)) for call_id in (sent, waiting)]
            await bank.changes.wait(lambda: bank.paid.total() == 1)
            (first,) = bank.paid
            gateway.kill()
            lost = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(error, grpc.aio.AioRpcError) for error in lost), lost
            bank.held = False
            bank.let_go()
            gateway.start()
            outcomes = {call_id: await until_outcome(caller, bank, call_id) for call_id in (sent, waiting)}
            assert outcomes.pop(first).WhichOneof("outcome") == "unknown"
            (other,) = outcomes
            assert bank.paid == {first: 1, other: 1}
    finally:
        gateway.kill()


async def test_no_call_is_made_twice_while_the_gateway_is_killed_again_and_again(harness: Harness) -> None:
    gateway = GatewayProcess(harness)
    gateway.start()
    ids = [new_id() for _ in range(CALLS)]
    try:
        async with Bank() as bank, gateway.caller(harness) as caller:
            asking = [asyncio.create_task(until_outcome(caller, bank, call_id)) for call_id in ids]
            for share in (1, 2):
                await bank.changes.wait(partial(bank.has_seen, CALLS * share // 4))
                await asyncio.to_thread(gateway.kill)
                await asyncio.to_thread(gateway.start)
            outcomes = dict(zip(ids, await asyncio.gather(*asking), strict=True))
            kinds = Counter(str(outcome.WhichOneof("outcome")) for outcome in outcomes.values())
            assert max(bank.paid.values()) == 1
            # One that was about to leave when the gateway was killed may never have come.
            unpaid = set(ids) - set(bank.paid)
            assert all(outcomes[call_id].WhichOneof("outcome") == "unknown" for call_id in unpaid)
            assert set(kinds) == {"result", "unknown"}, kinds
            # What has an outcome keeps it.
            known = next(call_id for call_id in ids if outcomes[call_id].WhichOneof("outcome") == "result")
            again = await pay(caller, bank, known)
            assert (again.replayed, again.result.text) == (True, outcomes[known].result.text)
            assert bank.paid[known] == 1
        assert gateway.process is not None
        marks = MarkedSecrets()
        marks.add("receipt", SECRET)
        assert marks.found_in(gateway.process.output) == []
        for file in harness.data_dir.rglob("*"):
            if file.is_file():
                assert marks.found_in(file.read_bytes()) == [], file
    finally:
        gateway.kill()
