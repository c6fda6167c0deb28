"""Calls at a provider that cuts them, made by replicas of the gateway that are killed: each is made at most once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from coxswain.tools.v1 import tool_provider_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.service_identity import ServiceIdentity
from services.orchestrator.domain.tool_outcome import Outcome, Returned, Unknown
from services.orchestrator.domain.tool_source import GrpcProvider, SourceKind
from services.orchestrator.tables import gateway_calls
from services.orchestrator.tool_gateway.adapters.grpc_provider.adapter import GrpcProviderAdapter
from services.orchestrator.tool_gateway.usecases.call_runner import CallOrder
from tests.integration.tool_gateway.support import Replica, order, running
from tests.support.tool_provider import LOOPBACK, EmulatedProvider, GivenHeaders, accepted, result, served

CALLS = 40


class PayingProvider(EmulatedProvider):
    """Pays, and cuts half of what it is asked: before it is accepted, before or after it is paid."""

    def __init__(self, *, keeps_calls: bool, seed: int) -> None:
        super().__init__(deliver=_pay, get_call=self.known if keeps_calls else None)
        self.keeps_calls = keeps_calls
        self.random = random.Random(seed)
        self.paying = asyncio.Event()
        """That enough calls are under way for a replica to be killed."""
        self.go_on = asyncio.Event()

    async def known(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        if request.call_id in self.made:
            return pb.GetCallResponse(state=pb.CALL_STATE_DONE, result=pb.CallResult(text="paid"))
        return pb.GetCallResponse(state=pb.CALL_STATE_NEVER_SEEN)


async def _pay(provider: Any, request: pb.CallToolRequest, context: Any) -> AsyncIterator[pb.CallToolResponse]:
    if provider.keeps_calls and request.call_id in provider.made:
        yield accepted(repeated=True)
        yield result("paid")
        return
    fate = provider.random.randrange(6)
    if fate == 0:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy has lost its patience")
    yield accepted()
    if fate == 1:
        await context.abort(grpc.StatusCode.INTERNAL, "before it was paid")
    provider.work(request)
    if len(provider.made) >= CALLS // 4:
        provider.paying.set()
        await provider.go_on.wait()
    if fate == 2:
        return
    yield result("paid")


@contextlib.asynccontextmanager
async def adapters(count: int) -> AsyncIterator[list[GrpcProviderAdapter]]:
    made = [GrpcProviderAdapter(LOOPBACK, GivenHeaders(), look_up_seconds=5.0) for _ in range(count)]
    try:
        yield made
    finally:
        for adapter in made:
            await adapter.close()


async def tell_nobody(_call: object) -> None:
    """A process that is killed tells no provider that its calls are cancelled."""


@pytest.mark.parametrize("keeps_calls", [False, True])
async def test_no_call_is_made_twice_while_replicas_are_killed(
    database: Database, identity: ServiceIdentity, keeps_calls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = PayingProvider(keeps_calls=keeps_calls, seed=7)
    async with served(provider) as port, adapters(2) as (first, second):
        monkeypatch.setattr(first._cancelling, "_cancel", tell_nobody)
        # Half of the calls have not left the process that is killed.
        limits = {"at_once": CALLS // 2, "outage_threshold": 0}
        killed, other = (Replica(database, identity, adapter, **limits) for adapter in (first, second))
        endpoint = GrpcProvider(f"127.0.0.1:{port}", plaintext=True)
        orders = [order(kind=SourceKind.GRPC, endpoint=endpoint) for _ in range(CALLS)]
        async with running(killed, other):
            asking = [asyncio.create_task(killed.call(made)) for made in orders]
            await provider.paying.wait()
            await killed.die()
            await asyncio.gather(*asking, return_exceptions=True)
            async with database.write() as connection:
                await connection.execute(update(gateway_calls).values(leased_until=utc_now() - timedelta(hours=1)))
            provider.go_on.set()
            outcomes = await asyncio.gather(*map(other.call, orders))
    _check(provider, orders, outcomes, keeps_calls=keeps_calls)


def _check(provider: PayingProvider, orders: list[CallOrder], outcomes: list[Outcome], *, keeps_calls: bool) -> None:
    assert set(provider.made.values()) == {1}, "no call was made twice"
    kinds = {type(outcome) for outcome in outcomes}
    for made, outcome in zip(orders, outcomes, strict=True):
        if not isinstance(outcome, Unknown):
            assert isinstance(outcome, Returned) == (made.request.call_id in provider.made), outcome
    # Without a memory of the provider's people are asked; with one nobody is.
    assert (Unknown in kinds) != keeps_calls
    assert Returned in kinds
