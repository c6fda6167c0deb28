"""Backends that are databases: how they are reached, made, checked and searched, and what happens when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import asyncpg
import grpc
import numpy as np
import pytest
from aiohttp import web
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import secret_pb2
from coxswain.memory.v1 import memory_backend_pb2 as backend_pb
from coxswain.memory.v1 import memory_pb2 as pb
from services.memory.domain.backends import TlsMode
from services.memory.service import MemoryService
from services.memory.stores.pgvector.indexes import NamespaceIndex
from services.memory.stores.pgvector.logins import Login
from services.memory.stores.pgvector.upgrades import TableUpgrades
from tests.integration.auth.support import refused, secrets
from tests.integration.memory.databricks_support import backends_stub
from tests.integration.memory.pgvector_support import (
    PASSWORD,
    USER,
    config_of,
    connector_here,
    database_message,
    database_of,
    front_of,
    serve_with_databases,
    use_database,
)
from tests.integration.memory.support import DIMENSION, place, stub, unified
from tests.support.harness import ALICE, BOB, Harness
from tests.support.postgres_front import PostgresFront
from tests.support.vector_search_emulator import VectorSearchEmulator
from tests.support.waiting import until

FAILED, UNAVAILABLE = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE


class Databases:
    """Memory beside a server with one provisioned database."""

    def __init__(self, harness: Harness, front: PostgresFront, url: str) -> None:
        self.harness = harness
        self.front = front
        self.url = url
        self.memories = stub(harness.channel(ALICE))
        self.backends = backends_stub(harness, ALICE)

    async def use(self, *bearers: str, **fields: Any) -> None:
        await use_database(
            self.harness, database_message(self.front, self.url, **fields), *bearers or (ALICE,), provision=False
        )

    async def save(self, *contents: str) -> Any:
        return await self.memories.SaveRecords(
            pb.SaveRecordsRequest(namespace=place(), records=[unified(content) for content in contents])
        )

    async def search(self, text: str = "storm", memories: Any = None, **fields: Any) -> list[str]:
        request = pb.SearchRecordsRequest(namespace=place(), text=text, **fields)
        found = await (memories or self.memories).SearchRecords(request)
        return [result.record.unified.content for result in found.results]

    async def verify(self) -> dict[str, Any]:
        answer = await self.backends.VerifyMemoryBackend(backend_pb.VerifyMemoryBackendRequest(name="database"))
        assert answer.ok == all(check.ok for check in answer.checks)
        return {check.subject: check for check in answer.checks}

    async def provision(self) -> list[Any]:
        request = backend_pb.ProvisionMemoryBackendRequest(name="database")
        return [step async for step in self.backends.ProvisionMemoryBackend(request)]

    async def execute(self, *statements: str) -> None:
        async with connected(self.url) as connection:
            for statement in statements:
                await connection.execute(statement)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET search_path = coxswain_memory, public")
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def served(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Any]:
    async with (
        front_of(url, directory, monkeypatch) as front,
        serve_with_databases(directory, **settings) as harness,
    ):
        yield Databases(harness, front, url)


@pytest.fixture
async def databases(pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Databases]:
    async with served(pgvector_url, tmp_path, monkeypatch) as beside:
        yield beside


async def test_provision_makes_what_verify_misses_and_can_be_repeated(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(postgres_url, tmp_path, monkeypatch) as databases:
        await databases.use()
        checks = await databases.verify()
        assert [check.ok for check in checks.values()] == [True, True, False, False]
        assert "CREATE EXTENSION vector;" in checks["extension vector"].remedy
        assert "ProvisionMemoryBackend" in checks["schema coxswain_memory"].remedy
        with refused(FAILED, "STORE_FAILED") as refusal:
            await databases.save("a storm")
        assert "CREATE EXTENSION vector;" in refusal.message
        steps = await databases.provision()
        assert (steps[-1].step, steps[-1].done, steps[-1].total) == ("ready", 3, 3)
        assert all(check.ok for check in (await databases.verify()).values())
        await databases.save("a storm", "a calm")
        assert (await databases.provision())[-1].rate == 0
        assert await databases.search() == ["a storm", "a calm"]
        # An older version left its tables.
        await databases.execute("UPDATE alembic_version SET version_num = '0007'")
        assert "0007" in (await databases.verify())["schema coxswain_memory"].finding
        await databases.execute("DROP TABLE unified_records")
        with refused(FAILED, "INDEX_NOT_READY"):
            await databases.search()


async def test_a_login_that_is_refused_halfway_is_named_as_one(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(postgres_url, tmp_path, monkeypatch) as databases:
        await databases.use()
        databases.front.accepted = 1
        with refused(FAILED, "UPSTREAM_CREDENTIAL_REJECTED"):
            await databases.provision()
        assert len(databases.front.offered) == 2


async def test_a_database_that_falls_silent_holds_no_thread(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, login = connector_here(), Login(USER, PASSWORD)
    async with front_of(pgvector_url, tmp_path, monkeypatch) as front:
        config = config_of(
            pgvector_url,
            host="localhost",
            port=front.port,
            tls_mode=TlsMode.VERIFY_FULL,
            ca_certificates=front.certificate,
        )
        upgrades = TableUpgrades(connector, seconds=600)
        front.silent_at = b"idle_in_transaction_session_timeout = 0"
        calls = [asyncio.ensure_future(upgrades.run(config, login)) for _ in range(3)]
        await until(lambda: front.silenced == 2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: front.connections == 0)
        late = TableUpgrades(connector, seconds=0.5)
        with pytest.raises(TimeoutError):
            await late.run(config, login)
        await until(lambda: front.connections == 0)
        front.silent_at = b""
        async with asyncio.timeout(60):
            await asyncio.gather(*(upgrades.run(config, login) for _ in range(2)))
        upgrades.close()
        late.close()


async def test_a_group_moves_its_memories_into_a_database_and_back(databases: Databases) -> None:
    await databases.save("a storm", "a calm", "an order of 17 lamps")
    stream = databases.memories.ExportRecords(pb.ExportRecordsRequest(namespace=place(), include_embeddings=True))
    exported = [record async for response in stream for record in response.records]
    await databases.use()
    assert await databases.search() == []
    target = pb.ImportTarget(namespace=place())
    moved = databases.memories.ImportRecords(iter([pb.ImportRecordsRequest(target=target, records=exported)]))
    assert [response.created async for response in moved][-1] == 3
    here = await databases.search(limit=3)
    await databases.backends.ActivateMemoryBackend(backend_pb.ActivateMemoryBackendRequest(id="default"))
    assert await databases.search(limit=3) == here
    assert here[0] == "a storm"


async def test_groups_share_a_database_and_never_meet(databases: Databases) -> None:
    await databases.use(ALICE, BOB)
    other = stub(databases.harness.channel(BOB))
    await databases.save("a storm of sales")
    assert await databases.search(memories=other) == []
    await other.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=[unified("a storm of law", "r1")]))
    assert await databases.search() == ["a storm of sales"]
    assert await databases.search(memories=other) == ["a storm of law"]
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await databases.memories.GetRecord(pb.GetRecordRequest(namespace=place(), id="r1"))
    async with connected(databases.url) as connection:
        groups = await connection.fetch("SELECT group_id, count(*) FROM unified_records GROUP BY 1 ORDER BY 1")
        # Something else has moved the row of one group to the other's namespace.
        await connection.execute(
            "UPDATE unified_records SET namespace_id = (SELECT id FROM namespaces WHERE group_id = 'sales')"
        )
    assert [tuple(row) for row in groups] == [("legal", 1), ("sales", 1)]
    assert await databases.search() == ["a storm of sales"]


async def test_a_lost_connection_is_replaced_and_a_server_that_is_away_says_when_to_return(
    databases: Databases,
) -> None:
    await databases.use()
    await databases.save("a storm")
    databases.front.cut()
    assert await databases.search() == ["a storm"]
    databases.front.is_down = True
    databases.front.cut()
    for call in (databases.search(), databases.save("a calm")):
        with refused(UNAVAILABLE, "DEPENDENCY_UNAVAILABLE") as refusal:
            await call
        assert refusal.retry_seconds
        assert PASSWORD not in refusal.message
    assert "cannot be used" in (await databases.verify()).popitem()[1].finding
    databases.front.is_down = False
    await databases.save("a calm")
    assert sorted(await databases.search(limit=5)) == ["a calm", "a storm"]


async def test_a_refused_password_is_named_by_its_secret_and_a_new_one_counts(databases: Databases) -> None:
    databases.front.passwords["writer"] = "another-password-18"
    await databases.execute("CREATE ROLE writer SUPERUSER LOGIN")
    await databases.use(user="writer", password_secret="postgresql/lake")
    home = f"postgresql://localhost:{databases.front.port}"
    vault = secrets(databases.harness, ALICE)

    async def put(value: str) -> None:
        await vault.PutSecret(secret_pb2.PutSecretRequest(name="postgresql/lake", value=value, allowed_origins=[home]))

    await put("wrong-password-19")
    with refused(FAILED, "UPSTREAM_CREDENTIAL_REJECTED") as refusal:
        await databases.search()
    assert "postgresql/lake" in refusal.message
    assert "wrong-password-19" not in refusal.message
    assert "postgresql/lake" in (await databases.verify()).popitem()[1].remedy
    await put("another-password-18")
    await databases.save("a storm")
    assert databases.front.logins[-1] == "writer"
    databases.front.passwords["writer"] = "third-password-20"
    await put("third-password-20")
    databases.front.cut()
    assert await databases.search() == ["a storm"]


async def test_a_password_goes_to_no_other_server(databases: Databases) -> None:
    await databases.use(port=databases.front.port + 1 if databases.front.port < 65535 else 1)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED"):
        await databases.search()
    assert databases.front.offered == []


@pytest.mark.parametrize("tls_mode", [backend_pb.TLS_MODE_REQUIRE, backend_pb.TLS_MODE_DISABLE])
async def test_the_operators_password_goes_to_no_server_that_is_not_checked(
    databases: Databases, tls_mode: backend_pb.TlsMode.ValueType
) -> None:
    await databases.use(tls_mode=tls_mode, ca_certificates="")
    with refused(FAILED, "DESTINATION_NOT_ALLOWED") as refusal:
        await databases.search()
    assert refusal.fields == ["backend.pgvector.tls_mode"]
    assert databases.front.offered == []
    # With one of its own the group may do as it likes.
    home = f"postgresql://localhost:{databases.front.port}"
    await secrets(databases.harness, ALICE).PutSecret(
        secret_pb2.PutSecretRequest(name="postgresql/password", value=PASSWORD, allowed_origins=[home])
    )
    assert (await databases.verify())["encryption"].ok
    assert await databases.search() == []


async def test_a_user_who_may_too_little_is_told_what_to_run(databases: Databases) -> None:
    databases.front.passwords["reader"] = PASSWORD
    await databases.execute(
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        "GRANT USAGE ON SCHEMA coxswain_memory TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA coxswain_memory TO reader",
    )
    try:
        await databases.use(user="reader")
        assert await databases.search() == []
        with refused(FAILED, "STORE_FAILED") as refusal:
            await databases.save("a storm")
        assert 'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "coxswain_memory"' in refusal.message
        check = (await databases.verify())["schema coxswain_memory"]
        assert "INSERT on" in check.finding
        assert "GRANT" in check.remedy
    finally:
        await databases.execute("DROP OWNED BY reader", "DROP ROLE reader")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"ca_certificates": ""}, "certificate"), ({"host": "127.0.0.1"}, "certificate"), ({"database": "none"}, "3D000")],
)
async def test_a_server_that_is_not_the_one_that_was_meant_is_refused(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], reason: str
) -> None:
    home = f"postgresql://{fields.get('host', 'localhost')}:{databases.front.port}"
    await secrets(databases.harness, ALICE).PutSecret(
        secret_pb2.PutSecretRequest(name="postgresql/password", value=PASSWORD, allowed_origins=[home])
    )
    await databases.use(**fields)
    with refused(FAILED, "STORE_FAILED") as refusal:
        await databases.search()
    assert refusal.metadata["error_code"] == reason
    if reason == "certificate":
        assert databases.front.offered == []


async def test_addresses_inside_are_not_connected_to(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(pgvector_url, tmp_path, monkeypatch, egress_allowed_networks=[]) as databases:
        await databases.use()
        with refused(grpc.StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED") as refusal:
            await databases.search()
        assert "COXSWAIN_MEMORY_EGRESS_ALLOWED_NETWORKS" in refusal.message
        assert "127.0.0.1" not in refusal.message
        assert databases.front.offered == []


async def test_a_server_cannot_make_the_service_compute_for_minutes(databases: Databases) -> None:
    await databases.use()
    databases.front.rounds = 2_000_000_000
    async with asyncio.timeout(60):
        with refused(UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await databases.search()
    assert not databases.front.is_answered
    databases.front.rounds = 0
    # What a record says is not what the server asks for.
    await databases.save("a storm,i=2000000000")
    assert await databases.search() == ["a storm,i=2000000000"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"user": ""}, "backend.pgvector.user"),
        ({"host": "db.example.com:5432"}, "backend.pgvector.host"),
        ({"host": "db..example.com"}, "backend.pgvector.host"),
        ({"host": f"{'a' * 64}.example.com"}, "backend.pgvector.host"),
        ({"host": "."}, "backend.pgvector.host"),
        ({"host": "1:2:3"}, "backend.pgvector.host"),
        ({"schema": 'a"b'}, "backend.pgvector.schema"),
        ({"password_secret": "tools/billing"}, "backend.pgvector.password_secret"),
        ({"tls_mode": backend_pb.TLS_MODE_REQUIRE}, "backend.pgvector.ca_certificates"),
        (
            {"lakebase": {"workspace_url": "https://example.com", "instance": "m"}, "password_secret": "postgresql/a"},
            "backend.pgvector.password_secret",
        ),
        (
            {
                "lakebase": {"workspace_url": "https://example.com", "instance": "m"},
                "tls_mode": backend_pb.TLS_MODE_REQUIRE,
                "ca_certificates": "",
            },
            "backend.pgvector.tls_mode",
        ),
        (
            {"lakebase": {"workspace_url": "https://example.com", "instance": "projects/../m"}},
            "backend.pgvector.lakebase.instance",
        ),
    ],
)
async def test_configurations_that_contradict_themselves_name_the_field(
    databases: Databases, fields: dict[str, Any], field: str
) -> None:
    message = database_message(databases.front, databases.url, **fields)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await databases.backends.CreateMemoryBackend(backend_pb.CreateMemoryBackendRequest(backend=message))
    assert refusal.fields == [field]


async def test_a_backend_is_changed_by_its_fields_and_shows_no_password(databases: Databases) -> None:
    await databases.use()
    shown = (
        await databases.backends.UpdateMemoryBackend(
            backend_pb.UpdateMemoryBackendRequest(
                name="database",
                backend=backend_pb.MemoryBackend(pgvector=backend_pb.PgvectorBackendConfig(schema="elsewhere")),
                update_mask=FieldMask(paths=["pgvector.schema"]),
            )
        )
    ).backend
    assert (shown.pgvector.schema, shown.pgvector.database) == ("elsewhere", database_of(databases.url))
    assert PASSWORD not in str(shown)
    with refused(FAILED, "INDEX_NOT_READY"):
        await databases.search()


async def test_a_group_names_so_many_databases_and_no_more(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(pgvector_url, tmp_path, monkeypatch, pgvector_databases_per_group=2) as databases:

        async def create(database: str, bearer: str = ALICE, **fields: Any) -> str:
            name = f"{database}{len(fields)}"
            message = database_message(databases.front, databases.url, name, database=database, **fields)
            request = backend_pb.CreateMemoryBackendRequest(backend=message)
            created = await backends_stub(databases.harness, bearer).CreateMemoryBackend(request)
            return str(created.backend.id)

        first, second = [await create(name) for name in ("one", "two")]
        await create("one", schema="another")
        await create("three", BOB)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
            await create("three")
        assert refusal.metadata == {"quota": "databases", "limit": "2", "used": "2"}

        async def move(backend_id: str, database: str) -> None:
            backend = backend_pb.MemoryBackend(pgvector=backend_pb.PgvectorBackendConfig(database=database))
            mask = FieldMask(paths=["pgvector.database"])
            request = backend_pb.UpdateMemoryBackendRequest(id=backend_id, backend=backend, update_mask=mask)
            await databases.backends.UpdateMemoryBackend(request)

        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
            await move(first, "three")
        # What is there may be more, as where the limit was lowered: what a backend names already it keeps.
        backends = cast("MemoryService", databases.harness.services["memory"])._backends._backends
        backends._most_databases = 1
        await move(second, "two")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
            await move(second, "four")
        backends._most_databases = 2
        await move(first, "two")
        await databases.backends.DeleteMemoryBackend(backend_pb.DeleteMemoryBackendRequest(name="one1"))
        await create("three")


ROWS, LIMIT = 3000, 10


async def test_large_namespaces_are_searched_by_an_index_that_finds_what_is_nearest(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(ROWS, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    async with served(pgvector_url, tmp_path, monkeypatch, pgvector_exact_rows=1000) as databases:
        await databases.use(ALICE, BOB)
        for start in range(0, ROWS, 1000):
            rows = [
                unified(f"text {row}", f"r{row}", embedding=vectors[row].tolist(), scope=f"/s{row % 50}")
                for row in range(start, start + 1000)
            ]
            await databases.memories.SaveRecords(
                pb.SaveRecordsRequest(namespace=place(), records=rows, embedding_model="test/embed")
            )
        assert not (await databases.verify())["indexes"].ok
        assert (await databases.provision())[-1].total == 4
        assert (await databases.verify())["indexes"].ok
        async with connected(databases.url) as connection:
            definition = await connection.fetchval("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")
            namespace = await connection.fetchval("SELECT id FROM namespaces")
            await connection.execute("ANALYZE unified_records")
        assert namespace in definition
        found = 0
        questions = vectors[:20] + rng.normal(scale=0.1, size=(20, DIMENSION)).astype(np.float32)
        for question in questions:
            exact = {f"r{row}" for row in np.argsort(-(vectors @ question))[:LIMIT]}
            answer = await databases.memories.SearchRecords(
                pb.SearchRecordsRequest(namespace=place(), vector=pb.Vector(values=question.tolist()), limit=LIMIT)
            )
            found += len(exact & {result.record.id for result in answer.results})
        assert found / (20 * LIMIT) >= 0.95
        # A filter that leaves fewer than the index offers is decided on all records.
        in_scope = pb.RecordFilter(scope_prefix="/s7")
        request = pb.SearchRecordsRequest(
            namespace=place(), vector=pb.Vector(values=vectors[0].tolist()), limit=60, filter=in_scope
        )
        answer = await databases.memories.SearchRecords(request)
        assert {result.record.id for result in answer.results} == {f"r{row}" for row in range(7, ROWS, 50)}
        # A row that something else wrote with another dimension costs nobody else's.
        await databases.execute(
            "UPDATE unified_records SET embedding = '[1,2,3]' WHERE content = 'text 7'",
        )
        answer = await databases.memories.SearchRecords(request)
        assert {result.record.id for result in answer.results} == {f"r{row}" for row in range(57, ROWS, 50)}


def test_the_name_of_an_index_fits_and_tells_namespaces_and_dimensions_apart() -> None:
    from services.memory.domain.records import MemoryKind

    index = NamespaceIndex("a" * 64, MemoryKind.UNIFIED, 4000)
    assert len(index.name) <= 63
    assert index.name != NamespaceIndex("a" * 64, MemoryKind.UNIFIED, 384).name
    assert "halfvec(4000)" in index.statement((0, 8, 0))
    assert "vector(4000)" in index.statement((0, 6, 2))


class Lakebase(VectorSearchEmulator):
    """A workspace that issues passwords of databases too."""

    asked: list[tuple[str, str, dict[str, Any]]]

    def install(self, app: web.Application) -> None:
        self.asked = []
        self.issued = "lakebase-token-21"
        self.host = "localhost"
        app.router.add_get("/api/2.0/database/instances/memories", self._database_instance)
        app.router.add_get("/api/2.0/postgres/projects/p1/branches/main/endpoints/primary", self._database_endpoint)
        app.router.add_get("/api/2.0/preview/scim/v2/Me", self._me)
        app.router.add_post("/api/2.0/database/credentials", self._credentials)
        app.router.add_post("/api/2.0/postgres/credentials", self._credentials)
        super().install(app)

    async def _me(self, request: web.Request) -> web.Response:
        return web.json_response({"userName": USER})

    async def _database_instance(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "memories", "read_write_dns": self.host, "read_only_dns": "ro.example.com"})

    async def _database_endpoint(self, request: web.Request) -> web.Response:
        hosts = {"host": "rw.example.com", "read_write_pooled_host": self.host}
        return web.json_response({"name": request.path[18:], "status": {"endpoint_id": "primary", "hosts": hosts}})

    async def _credentials(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response({"token": self.issued, "expiration_time": "2030-01-01T00:00:00Z"})


@pytest.mark.parametrize("instance", ["memories", "projects/p1/branches/main/endpoints/primary"])
async def test_a_workspace_issues_the_password_of_its_database(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str
) -> None:
    with Lakebase() as workspace:
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
        async with served(pgvector_url, tmp_path, monkeypatch) as databases:
            lakebase = {"workspace_url": workspace.url, "instance": instance}
            await databases.use(user="", lakebase=lakebase)
            databases.front.passwords[USER] = "lakebase-token-21"
            await databases.save("a storm")
            assert await databases.search() == ["a storm"]
            [(path, authorization, body)] = workspace.asked
            assert authorization == "Bearer dapi-operator"
            assert body.get("instance_names", [body.get("endpoint")]) == [instance]
            assert path == f"/api/2.0/{'postgres' if '/' in instance else 'database'}/credentials"
            # The token was withdrawn: another one is asked for, once.
            databases.front.passwords[USER] = workspace.issued = "lakebase-token-22"
            databases.front.cut()
            assert await databases.search() == ["a storm"]
            assert len(workspace.asked) == 2
            assert set(databases.front.offered) == {"lakebase-token-21", "lakebase-token-22"}
            databases.front.passwords[USER] = "nobody's"
            databases.front.cut()
            with refused(FAILED, "UPSTREAM_CREDENTIAL_REJECTED") as refusal:
                await databases.search()
            assert "lakebase-token" not in refusal.message + json.dumps(refusal.metadata)


@pytest.mark.parametrize("instance", ["memories", "projects/p1/branches/main/endpoints/primary"])
async def test_a_token_of_a_workspace_goes_to_the_hosts_of_its_instance_alone(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str
) -> None:
    with Lakebase() as workspace:
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-operator")
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        async with served(pgvector_url, tmp_path, monkeypatch) as databases:
            lakebase = {"workspace_url": workspace.url, "instance": instance}
            await databases.use(user="", lakebase=lakebase)
            databases.front.passwords[USER] = workspace.issued
            workspace.host = "lake.example.com"
            for call in (databases.search(), databases.provision()):
                with refused(FAILED, "DESTINATION_NOT_ALLOWED") as refusal:
                    await call
                assert refusal.fields == ["backend.pgvector.host"]
                assert "lake.example.com" in refusal.message
            assert "lake.example.com" in (await databases.verify()).popitem()[1].remedy
            assert (workspace.asked, databases.front.offered) == ([], [])
            workspace.host = "LocalHost."
            assert await databases.search() == []
            # A host that is named later does not get what was remembered for this one.
            message = backend_pb.MemoryBackend(pgvector=backend_pb.PgvectorBackendConfig(host="127.0.0.1"))
            await databases.backends.UpdateMemoryBackend(
                backend_pb.UpdateMemoryBackendRequest(
                    name="database", backend=message, update_mask=FieldMask(paths=["pgvector.host"])
                )
            )
            with refused(FAILED, "DESTINATION_NOT_ALLOWED"):
                await databases.search()
            assert len(workspace.asked) == 1
