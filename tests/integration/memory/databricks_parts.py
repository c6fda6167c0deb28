"""The Databricks repository and store without the service around them, and an emulator for them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any, Literal

from services.common.egress import AddressPolicy
from services.common.grpc.call import Call, enter_call
from services.common.http import EgressClient
from services.common.identity.credentials import OutboundCredential
from services.memory.domain.backends import DatabricksConfig, MemoryBackend
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.repositories.memory_backends import RemoteNamespace
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.listed_positions import ListedPositions
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.store import DatabricksMemoryStore, NamespaceNotes
from services.memory.stores.databricks.transport import ClientLimits, Transport
from tests.integration.memory.store_model import KEYS, NOW
from tests.support.vector_search_emulator import VectorSearchEmulator

INDEX = "main.memories.unified"
SHORT = "main.memories.short_term"
ENDPOINT = "shared"
KEY = KEYS[0]
OWNER = Owner(MemoryKind.UNIFIED, "sales", "a")
EndpointType = Literal["STANDARD", "STORAGE_OPTIMIZED"]


class FixedCredentials:
    """One token, which may be refused once and then be another."""

    def __init__(self, *tokens: str, on_behalf_of_user: bool = False) -> None:
        self._tokens = list(tokens)
        self._on_behalf_of_user = on_behalf_of_user
        self._asked = False

    async def resolve(self, origin: str, provider: str = "") -> OutboundCredential:
        asked, self._asked = self._asked, True
        return OutboundCredential(self._tokens[0], self._on_behalf_of_user, from_cache=asked)

    def forget(self, origin: str, provider: str = "") -> None:
        self._asked = False
        if len(self._tokens) > 1:
            self._tokens.pop(0)


LIMITS = ClientLimits(
    attempts=4,
    attempt_seconds=60,
    call_seconds=120,
    upsert_rows=200,
    upsert_bytes=4_000_000,
    delete_keys=1000,
    scan_rows=1000,
    response_bytes=128 * 1024 * 1024,
)


@asynccontextmanager
async def workspace_client(
    credentials: FixedCredentials | None = None, limits: ClientLimits = LIMITS, *, connect_seconds: float = 60
) -> AsyncIterator[VectorSearchClient]:
    """A client that may call loopback addresses."""
    enter_call(Call(request_id="test", method="/test"))
    policy = AddressPolicy([ip_network("127.0.0.0/8")], setting="TEST")
    http = EgressClient(policy, connect_timeout=connect_seconds, connections_per_origin=10)
    try:
        yield VectorSearchClient(Transport(http, credentials or FixedCredentials("dapi-x"), limits), limits)
    finally:
        await http.close()


def emulator(endpoint_type: EndpointType = "STANDARD", dimension: int = 3, **options: Any) -> VectorSearchEmulator:
    """An endpoint with an index for unified and one for short-term memories, online at once."""
    vectors = VectorSearchEmulator(**options)
    vectors.add_endpoint(ENDPOINT, endpoint_type)
    for index, kind in ((INDEX, "unified"), (SHORT, "short_term")):
        vectors.add_index(index, ENDPOINT, DatabricksIndexSchemas.get_schema(kind), dimension)
    return vectors


def open_repository(
    client: VectorSearchClient, url: str, endpoint: str = ENDPOINT, *, settle_seconds: float = 0
) -> DatabricksVectorIndexRepository:
    """The indexes of the emulator, nothing known of them yet."""
    recent = RecentWrites(settle_seconds)
    return DatabricksVectorIndexRepository(client, Location(url, endpoint), EndpointTypes(), recent)


def open_store(
    client: VectorSearchClient,
    url: str,
    dimension: int = 3,
    *,
    settle_seconds: float = 0,
    listed: ListedPositions | None = None,
) -> DatabricksMemoryStore:
    """The store of a backend whose notes of namespaces are kept in memory."""
    config = DatabricksConfig(
        url,
        ENDPOINT,
        "main",
        "memories",
        {MemoryKind.UNIFIED: "unified", MemoryKind.SHORT_TERM: "short_term"},
        EmbeddingSpace("test/embed", dimension),
    )
    backend = MemoryBackend("b", "sales", "workspace", config, frozenset(), NOW, NOW)
    noted: set[RemoteNamespace] = set()

    async def note(written: RemoteNamespace) -> None:
        noted.add(written)

    async def page(limit: int, after: tuple[str, MemoryKind] | None) -> list[RemoteNamespace]:
        return sorted(noted, key=lambda written: (written.memory_id, written.kind))[:limit]

    async def names(memory_ids: Sequence[str]) -> dict[tuple[str, MemoryKind], str]:
        return {(w.memory_id, w.kind): w.crew_name for w in noted if w.memory_id in memory_ids}

    repository = open_repository(client, url, settle_seconds=settle_seconds)
    notes = NamespaceNotes(note, page, names, lambda _: True)
    return DatabricksMemoryStore(
        repository,
        backend,
        notes,
        listed=listed or ListedPositions(60),
        pause_seconds=0.001,
        private_ids=b"test",
    )


def unified_records(count: int, prefix: str = "r", **fields: Any) -> list[Record]:
    """Records with ids of prefix and number."""
    return [
        Record(f"{prefix}{n}", Unified(f"text {n}", **fields), unit_vector([1, n % 7, n % 3]), created_at=NOW)
        for n in range(count)
    ]
