"""Remembered requests end, in every service that remembers some."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from sqlalchemy import Table, select, update

from coxswain.auth.v1 import group_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.memory.v1 import memory_backend_pb2
from coxswain.memory.v1.memory_backend_service_pb2_grpc import MemoryBackendServiceStub
from coxswain.models.v1 import model_pb2
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.orchestrator.v1 import crew_pb2
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from services.auth.settings import AuthSettings
from services.auth.tables import requests as auth_requests
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import forget_requests
from services.memory.settings import MemorySettings
from services.memory.tables import requests as memory_requests
from services.models.settings import ModelsSettings
from services.models.tables import requests as models_requests
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import requests as orchestrator_requests
from tests.support.harness import Harness, serve_services
from tests.support.service_tables import make_service_tables

PORTION = 1000
KEY = {"group_id": "sales", "subject": "s", "method": "m", "request_hash": "h"}
TABLES = {
    "auth": auth_requests,
    "memory": memory_requests,
    "models": models_requests,
    "orchestrator": orchestrator_requests,
}


async def ids(database: Database, requests: Table) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(select(requests.c.request_id).order_by(requests.c.request_id)))


@pytest.mark.parametrize("service", TABLES)
async def test_requests_made_before_a_time_are_forgotten_and_no_others(service: str, database_url: str) -> None:
    make_service_tables(service, database_url)
    requests = TABLES[service]
    made = {"resource_id" if "resource_id" in requests.c else "model_id": "r"}
    now = utc_now()
    ages = {f"old{n}": n for n in range(1, 2 * PORTION + 2)} | {"at-the-time": 0, "young": -1}
    database = Database(database_url, service)
    async with database.write() as connection:
        rows: list[dict[str, Any]] = [
            {**KEY, **made, "request_id": name, "created_at": now - timedelta(seconds=age)}
            for name, age in ages.items()
        ]
        await connection.execute(requests.insert(), rows)
    assert await forget_requests(database, requests, now) == 2 * PORTION + 1
    assert await ids(database, requests) == ["at-the-time", "young"]
    assert await forget_requests(database, requests, now) == 0
    await database.close()


async def make_group(harness: Harness, request_id: str) -> Message:
    request = group_pb2.CreateGroupRequest(display_name="Sales", admin_subject="dev|carol", request_id=request_id)
    answer: Message = await GroupServiceStub(harness.channel("")).CreateGroup(request)
    return answer


async def make_model(harness: Harness, request_id: str) -> Message:
    model = model_pb2.Model(
        name=f"own/{request_id}",
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="m",
        capabilities=model_pb2.Capabilities(chat=True),
    )
    request = model_pb2.CreateModelRequest(model=model, request_id=request_id)
    answer: Message = await ModelServiceStub(harness.channel()).CreateModel(request)
    return answer


async def make_backend(harness: Harness, request_id: str) -> Message:
    backend = memory_backend_pb2.MemoryBackend(name=request_id, default=memory_backend_pb2.DefaultBackendConfig())
    request = memory_backend_pb2.CreateMemoryBackendRequest(backend=backend, request_id=request_id)
    answer: Message = await MemoryBackendServiceStub(harness.channel()).CreateMemoryBackend(request)
    return answer


async def make_crew(harness: Harness, request_id: str) -> Message:
    spec = crew_pb2.CrewSpec(
        name=request_id,
        agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read")],
        tasks=[crew_pb2.TaskSpec(name="read", description="Read", expected_output="Notes", agent="reader")],
    )
    request = crew_pb2.CreateCrewRequest(spec=spec, request_id=request_id)
    answer: Message = await CrewServiceStub(harness.channel()).CreateCrew(request)
    return answer


@pytest.mark.parametrize(
    ("service", "make"),
    [("auth", make_group), ("memory", make_backend), ("models", make_model), ("orchestrator", make_crew)],
)
async def test_a_service_remembers_a_request_for_its_time_and_not_longer(
    service: str,
    make: Callable[[Harness, str], Awaitable[Message]],
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.orchestrator.service._REMOVAL_SECONDS", 0.02)
    cleaning: dict[str, Any] = {"cleaning_seconds": 0.02, "request_retention_seconds": 3600}
    settings = {
        "auth": AuthSettings(**cleaning),
        "memory": MemorySettings(sweep_seconds=0.02, request_retention_seconds=3600),
        "models": ModelsSettings(**cleaning),
        "orchestrator": OrchestratorSettings(request_retention_seconds=3600),
    }
    url = f"sqlite:///{tmp_path / service}.db" if database_url.startswith("sqlite") else database_url
    requests = TABLES[service]
    beside = ["models"] if service == "orchestrator" else []
    async with serve_services(tmp_path, service, *beside, database_url=database_url, settings=settings) as harness:
        first = {name: await make(harness, name) for name in ("old", "recent")}
        database = Database(url, service)
        async with database.write() as connection:
            for name, age in (("recent", 3000), ("old", 3601)):
                await connection.execute(
                    update(requests)
                    .where(requests.c.request_id == name)
                    .values(created_at=utc_now() - timedelta(seconds=age))
                )
        async with asyncio.timeout(60):
            while await ids(database, requests) != ["recent"]:  # noqa: ASYNC110 - nobody could tell us
                await asyncio.sleep(0.02)
        assert await make(harness, "recent") == first["recent"]
        await database.close()
