"""A replica stops, or stands still, while calls are under way, on their way and waiting: none is lost."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.client import AsyncClient, policy
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from services.common.settings import SERVICES
from tests.support.child_process import ChildProcess, free_port, scrubbed_environment

CALLS = 400
METADATA = (("authorization", "Bearer dev:alice:sales=admin"),)


class Replicas:
    """Auth, and replicas of models on one database."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port() for _ in range(2)]
        auth_port = free_port()
        self._environment = scrubbed_environment(
            directory,
            COXSWAIN_DATA_DIR=str(directory / "data"),
            COXSWAIN_AUTH_PORT=str(free_port()),
            COXSWAIN_AUTH_INTERNAL_PORT=str(auth_port),
            COXSWAIN_AUTH_ADDRESS=f"127.0.0.1:{auth_port}",
            COXSWAIN_LOG_LEVEL="WARNING",
        )
        self.auth = ChildProcess("auth", ["-m", "services.auth"], self._environment)
        self.auth.wait_for_line("serving on")
        self.models = [self.start(port) for port in self.ports]
        for process in self.models:
            process.wait_for_line("serving on")

    def start(self, port: int) -> ChildProcess:
        environment = {"COXSWAIN_MODELS_PORT": str(port), "COXSWAIN_MODELS_INTERNAL_PORT": str(free_port())}
        return ChildProcess("models", ["-m", "services.models"], self._environment | environment)

    def kill(self) -> None:
        for process in (*self.models, self.auth):
            process.kill()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    running = Replicas(tmp_path)
    yield running
    running.kill()


async def outcomes(ports: list[int], stopping: ChildProcess) -> Counter[str]:
    """Send many calls at once over both replicas, and stop one of them as the first is answered.

    Half of the calls come from a client that follows health, half from one that does not and repeats nothing.
    """
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    configs = policy.service_config(), json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
    found: Counter[str] = Counter()

    async def call(models: Any) -> None:
        try:
            await models.ListModels(model_pb2.ListModelsRequest(), metadata=METADATA, timeout=120)
        except grpc.aio.AioRpcError as error:
            found[f"{error.code().name}: {error.details()}"] += 1
        else:
            found["OK"] += 1
        if found.total() == 1:
            stopping.signal(signal.SIGTERM)

    async with contextlib.AsyncExitStack() as channels:
        stubs: list[Any] = []
        for config in configs:
            options = [("grpc.service_config", config), ("grpc.use_local_subchannel_pool", 1)]
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(target, options=options))
            stubs.append(model_service_pb2_grpc.ModelServiceStub(channel))  # type: ignore[no-untyped-call,unused-ignore]
        await asyncio.gather(*(call(stubs[number % 2]) for number in range(CALLS)))
    return found


def test_no_call_of_a_backlog_is_lost_when_a_replica_stops(replicas: Replicas) -> None:
    stopping, _ = replicas.models
    assert asyncio.run(outcomes(replicas.ports, stopping)) == {"OK": CALLS}
    assert stopping.wait() == 0


async def answered(ports: list[int], frozen: ChildProcess) -> int:
    """Return how many calls of the client are answered while one of the replicas stands still, and goes on standing."""
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    async with AsyncClient(dict.fromkeys(SERVICES, target), token="dev:alice:sales=admin") as client:
        list_models = client.models.ListModels
        # Both replicas answer some: gRPC asks whether a connection lives once it has brought something.
        for _ in range(8):
            await list_models(model_pb2.ListModelsRequest())
        frozen.signal(signal.SIGSTOP)
        found = await asyncio.gather(*(list_models(model_pb2.ListModelsRequest(), timeout=45) for _ in range(20)))
        return len(found)


def test_calls_leave_a_replica_that_stands_still(replicas: Replicas) -> None:
    assert asyncio.run(answered(replicas.ports, replicas.models[0])) == 20
