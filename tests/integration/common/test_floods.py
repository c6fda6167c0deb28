"""What strangers who flood a server with HTTP/2 frames take from others: nothing but time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.principal_pb2 import WhoAmIRequest
from tests.support.http2_flood import Http2Flood
from tests.support.suite_process import SuiteProcess

METHOD = "/coxswain.models.v1.ModelService/ListModels"
OPEN_METHOD = "/coxswain.auth.v1.AuthService/WhoAmI"
GUARDED_METHOD = "/coxswain.orchestrator.v1.CrewService/ListCrews"
HEALTH = "/grpc.health.v1.Health/Check"
FLOODS: dict[str, Callable[[Http2Flood], None]] = {
    "calls that are reset at once": lambda flood: flood.begin_and_reset(METHOD, 9000),
    "calls that never end": lambda flood: flood.begin_without_end(METHOD, 2000),
    "calls of strangers that never end": lambda flood: flood.begin_without_end(OPEN_METHOD, 300),
    "pings": lambda flood: flood.ping(20_000),
    "settings": lambda flood: flood.change_settings(20_000),
}


@contextlib.asynccontextmanager
async def calling_all_the_while(port: int) -> AsyncIterator[None]:
    """Make one call after the other for several tasks, each of which has to succeed."""
    ended = asyncio.Event()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        auth = AuthServiceStub(channel)

        async def call() -> None:
            await auth.WhoAmI(WhoAmIRequest())
            while not ended.is_set():
                await auth.WhoAmI(WhoAmIRequest())

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call())
            yield
            ended.set()


def flood(port: int, send: Callable[[Http2Flood], None]) -> None:
    """Send until all is sent or the server ends the connection; leave it open for as long as it takes to tell."""
    with Http2Flood(port) as connection, contextlib.suppress(OSError):
        send(connection)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteProcess]:
    with SuiteProcess(tmp_path_factory.mktemp("flooded") / "data", workers=0).running() as suite:
        yield suite


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_costs_no_call_of_others(suite: SuiteProcess, kind: str) -> None:
    async with calling_all_the_while(suite.port):
        await asyncio.gather(*(asyncio.to_thread(flood, suite.port, FLOODS[kind]) for _ in range(4)))


async def test_more_calls_of_a_group_than_there_are_places_for_cost_no_call_of_another(suite: SuiteProcess) -> None:
    loud = (("authorization", "Bearer dev:eve:loud=editor"),)

    async def call_much(options: list[tuple[str, int]]) -> list[object]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{suite.port}", options=options) as channel:
            auth = AuthServiceStub(channel)
            calls = (auth.WhoAmI(WhoAmIRequest(), metadata=loud) for _ in range(600))
            return list(await asyncio.gather(*calls, return_exceptions=True))

    async with calling_all_the_while(suite.port):
        own = ([("grpc.use_local_subchannel_pool", 1)], [("grpc.use_local_subchannel_pool", 1), ("loud", 1)])
        outcomes = [each for some in await asyncio.gather(*map(call_much, own)) for each in some]
    refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert {each.code() for each in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refused) < len(outcomes)


def test_who_pings_without_end_loses_the_connection(suite: SuiteProcess) -> None:
    with Http2Flood(suite.port) as connection:
        connection.ping(100)
        connection.wait_for_end()


def test_nothing_is_read_of_who_is_not_let_in(suite: SuiteProcess) -> None:
    with Http2Flood(suite.port) as connection:
        connection.begin_without_end(GUARDED_METHOD, 50, authorization="Bearer nobody")
        assert connection.read_until_ended(50) == 0


@pytest.mark.parametrize("method", [OPEN_METHOD, HEALTH])
def test_of_strangers_few_unfinished_requests_are_waited_for(suite: SuiteProcess, method: str) -> None:
    with Http2Flood(suite.port) as connection:
        connection.begin_without_end(method, 50)
        connection.read_until_ended(50 - 16)
