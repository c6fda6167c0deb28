"""What memories of the two groups are kept in: each store that groups can share, and what it takes to use it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.memory.rows.columns import DatabricksIndexSchemas
from tests.e2e.tenants.things import KINDS, OFFLINE_EMBEDDINGS, Group
from tests.integration.memory.pgvector_support import PASSWORD, USER, database_of, make_tables, socket_of
from tests.support.postgres_front import PostgresFront, postgres_front
from tests.support.vector_search_emulator import VectorSearchEmulator

_DIMENSION = 256
"""That of the packaged embedding model."""


@dataclass(frozen=True)
class Store:
    """A store: what the installation has to know of it, and how a group takes it into use."""

    environment: Mapping[str, str] = field(default_factory=dict)
    take: Callable[[Group, str, str], None] = lambda _group, _mark, _told: None
    """Makes a group use it: the group, what its names contain, what its texts contain."""


@contextlib.contextmanager
def databricks() -> Iterator[Store]:
    """A workspace whose indexes both groups share; besides, each has an index of its own that the other never names."""
    with VectorSearchEmulator() as vectors:
        vectors.add_endpoint("shared", "STANDARD")
        for kind in KINDS:
            schema = DatabricksIndexSchemas.get_schema(kind.lower())
            vectors.add_index(f"main.memories.{kind.lower()}", "shared", schema, _DIMENSION)

        def take(group: Group, mark: str, told: str) -> None:
            shared = _workspace(vectors.url, "shared", "memories", KINDS)
            created = _create(group, f"{mark}-shared", databricks=shared)
            group.api.ok("MemoryBackendService.ActivateMemoryBackend", id=created)
            endpoint, schema = f"{mark}-endpoint", DatabricksIndexSchemas.get_schema("unified")
            vectors.add_endpoint(endpoint, "STANDARD")
            index = f"main.{mark}.unified"
            vectors.add_index(index, endpoint, schema, _DIMENSION)
            _create(group, f"{mark}-own", databricks=_workspace(vectors.url, endpoint, mark, ("UNIFIED",)))
            content = {"content": f"{told} as a record of an index"}
            record = {"id": f"{mark}-indexed", "unified": content, "embedding": [1.0] * _DIMENSION}
            group.api.ok(
                "VectorIndexService.UpsertIndexRecords", index=index, memory_id=f"{mark}-memory", records=[record]
            )
            group.keep("index", index)
            group.keep("endpoint", endpoint)

        environment = {"DATABRICKS_HOST": vectors.url, "DATABRICKS_TOKEN": "dapi-operator"}
        quick = {
            "COXSWAIN_MEMORY_DATABRICKS_VISIBILITY_SECONDS": "0.01",
            "COXSWAIN_MEMORY_DATABRICKS_SETTLE_SECONDS": "0",
        }
        yield Store(environment | quick, take)


def _workspace(url: str, endpoint: str, schema: str, kinds: Any) -> Mapping[str, Any]:
    return {
        "workspace_url": url,
        "endpoint": endpoint,
        "catalog": "main",
        "schema": schema,
        "indexes": [{"kind": f"MEMORY_KIND_{kind}", "index": kind.lower()} for kind in kinds],
        "embedding_model": OFFLINE_EMBEDDINGS,
        "embedding_dimension": _DIMENSION,
    }


@contextlib.contextmanager
def pgvector(url: str, directory: Path) -> Iterator[Store]:
    """A database of PostgreSQL with pgvector that both groups share."""
    asyncio.run(make_tables(url))
    with _front(url, directory) as front:

        def take(group: Group, mark: str, _told: str) -> None:
            config = {
                "host": "localhost",
                "port": front.port,
                "database": database_of(url),
                "user": USER,
                "ca_certificates": front.certificate,
            }
            created = _create(group, f"{mark}-database", pgvector=config)
            group.api.ok("MemoryBackendService.ActivateMemoryBackend", id=created)

        environment = {
            "POSTGRESQL_PASSWORD": PASSWORD,
            "POSTGRESQL_BASE_URL": f"postgresql://localhost:{front.port}",
            "COXSWAIN_MEMORY_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]',
        }
        yield Store(environment, take)


@contextlib.contextmanager
def chroma() -> Iterator[Store]:
    """The embedded ChromaDB."""
    yield Store({"COXSWAIN_MEMORY_DEFAULT_STORE": "chroma"})


@contextlib.contextmanager
def embedded() -> Iterator[Store]:
    """Rows of the memory service's own database."""
    yield Store()


def _create(group: Group, name: str, **config: Any) -> str:
    backend = {"name": name, **config}
    created = group.api.ok("MemoryBackendService.CreateMemoryBackend", backend=backend).backend
    group.keep("backend_id", created.id)
    group.keep("backend_name", name)
    return str(created.id)


@contextlib.contextmanager
def _front(url: str, directory: Path) -> Iterator[PostgresFront]:
    """Serve a front of a database server in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    front = postgres_front(socket_of(url), directory, **{USER: PASSWORD})
    try:
        yield asyncio.run_coroutine_threadsafe(front.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(front.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
