"""The memory service put together."""

import structlog

from coxswain.auth.v1 import credential_pb2
from coxswain.memory.v1 import (
    document_service_pb2_grpc,
    memory_backend_service_pb2_grpc,
    memory_service_pb2_grpc,
    vector_index_service_pb2_grpc,
)
from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.idempotency import forget_old_requests
from services.common.egress import AddressPolicy, required_origin
from services.common.grpc.server import Registry
from services.common.http import EgressClient
from services.common.identity.credentials import AuthCredentials
from services.common.periodic import every
from services.common.runtime import Runtime
from services.common.startup import StartError
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.embedding import ModelsEmbedder
from services.memory.parsing.reader import DocumentReader, ReadLimits
from services.memory.repositories.documents import remove_expired_documents
from services.memory.servicers.documents import DocumentServicer
from services.memory.servicers.memories import MemoryServicer
from services.memory.servicers.memory_backends import MemoryBackendServicer
from services.memory.servicers.vector_indexes import VectorIndexServicer
from services.memory.settings import MemorySettings
from services.memory.stores.base import MemoryStore
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.provisioning import ProvisionLimits
from services.memory.stores.databricks.transport import ClientLimits, Transport
from services.memory.stores.group_stores import BackendStores
from services.memory.stores.pgvector.answer_room import AnswerRoom
from services.memory.stores.pgvector.connector import Connector
from services.memory.stores.pgvector.indexes import IndexKeeper
from services.memory.stores.pgvector.logins import Logins
from services.memory.stores.pgvector.pools import ConnectionPools, PoolLimits
from services.memory.stores.pgvector.provisioning import Provisioner
from services.memory.stores.pgvector.stores import PgvectorStores
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import requests
from services.memory.usecases.backend_checks import BackendChecks
from services.memory.usecases.batch_search import BatchSearches
from services.memory.usecases.database_checks import DatabaseChecks
from services.memory.usecases.document_parts import DocumentParts
from services.memory.usecases.document_repairs import DocumentRepairs
from services.memory.usecases.document_subjects import DocumentSubjects
from services.memory.usecases.document_uploads import UploadLimits
from services.memory.usecases.documents import Documents
from services.memory.usecases.index_adoption import IndexAdoptions
from services.memory.usecases.index_resources import IndexResources
from services.memory.usecases.memories import Memories
from services.memory.usecases.memory_backends import MemoryBackends
from services.memory.usecases.namespaces import Namespaces
from services.memory.usecases.record_history import HistoryLimits, RecordHistory
from services.memory.usecases.record_quota import RecordQuota
from services.memory.usecases.registered_indexes import RegisteredIndexes
from services.memory.usecases.store_size import measure_store
from services.memory.usecases.subjects import Subjects
from services.memory.usecases.transfers import Transfers
from services.memory.usecases.vector_indexes import IndexLimits, VectorIndexes

logger = structlog.get_logger(__name__)


class MemoryService:
    """Serves memories, and removes expired ones in the background."""

    def __init__(self, settings: MemorySettings, runtime: Runtime) -> None:
        self._background = BackgroundTasks()
        self._store = SqlMemoryStore(
            runtime.database,
            cache_bytes=settings.cache_bytes,
            cached_namespace_bytes=settings.cached_namespace_bytes,
        )
        policy = AddressPolicy(settings.egress_allowed_networks, setting="COXSWAIN_MEMORY_EGRESS_ALLOWED_NETWORKS")
        self._workspaces = EgressClient(
            policy,
            connect_timeout=settings.databricks_connect_seconds,
            connections_per_origin=settings.databricks_connections,
        )
        client_limits = _client_limits(settings)
        transport = Transport(
            self._workspaces,
            AuthCredentials(runtime.peers.channel("auth"), credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH),
            client_limits,
            trusted_origins=_own_workspace(settings),
        )
        client = VectorSearchClient(transport, client_limits)
        connector = Connector(
            policy,
            AnswerRoom(answer_bytes=settings.pgvector_answer_bytes, all_bytes=settings.pgvector_held_bytes),
            connect_seconds=settings.pgvector_connect_seconds,
            statement_seconds=settings.pgvector_statement_seconds,
        )
        logins = self._database_logins(settings, runtime, client_limits)
        self._pgvector = _pgvector_stores(settings, logins, connector)
        self._provisioner = provisioner = Provisioner(
            logins, connector, exact_rows=settings.pgvector_exact_rows, seconds=settings.provision_seconds
        )
        self._default = self._store if settings.default_store == "sql" else _chroma_store(runtime)
        private_ids = runtime.identity.derive("ids of private memories")
        stores = BackendStores(
            self._default,
            runtime.database,
            client,
            self._pgvector,
            pause_seconds=settings.databricks_visibility_seconds,
            settle_seconds=settings.databricks_settle_seconds,
            sweep_seconds=settings.sweep_seconds,
            private_ids=private_ids,
        )
        registered = RegisteredIndexes(runtime.database, stores)
        limits = ProvisionLimits(settings.provision_poll_seconds, settings.provision_seconds)
        embedder = ModelsEmbedder(runtime.peers.channel("models"))
        batches = BatchSearches(stores, embedder, max_message_bytes=runtime.settings.max_message_bytes)
        limits_of_history = HistoryLimits(
            settings.history_days, settings.history_most_days, settings.history_versions, settings.history_bytes
        )
        self._history = RecordHistory(
            stores, runtime.database, limits_of_history, max_message_bytes=runtime.settings.max_message_bytes
        )
        parts = DocumentParts(runtime.database, self._background)
        self._repairs = repairs = DocumentRepairs(runtime.database, parts, self._background)
        quota = RecordQuota()
        self._documents = Documents(
            runtime.database,
            stores,
            embedder,
            DocumentReader(_read_limits(settings)),
            parts,
            repairs,
            _upload_limits(settings),
            quota,
            default_model=settings.embedding_model,
        )
        memories = Memories(
            stores,
            embedder,
            parts,
            repairs,
            self._history,
            quota,
            default_model=settings.embedding_model,
            short_term_ttl_hours=settings.short_term_ttl_hours,
            max_message_bytes=runtime.settings.max_message_bytes,
        )
        namespaces = Namespaces(stores, parts, max_message_bytes=runtime.settings.max_message_bytes)
        self._memory = MemoryServicer(
            memories,
            batches,
            self._history,
            namespaces,
            Subjects(stores, DocumentSubjects(runtime.database, parts), self._history),
            Transfers(stores, memories),
        )
        self._backends = MemoryBackendServicer(
            MemoryBackends(
                runtime.database, stores, limits, provisioner, most_databases=settings.pgvector_databases_per_group
            ),
            BackendChecks(registered, DatabaseChecks(provisioner, connector, exact_rows=settings.pgvector_exact_rows)),
            EmbeddingSpace(settings.databricks_embedding_model, settings.databricks_embedding_dimension),
        )
        self._indexes = VectorIndexServicer(
            VectorIndexes(
                registered,
                IndexLimits(
                    pause_seconds=settings.databricks_visibility_seconds,
                    short_term_ttl_hours=settings.short_term_ttl_hours,
                    private_ids=private_ids,
                ),
            ),
            IndexResources(registered),
            IndexAdoptions(registered),
        )
        self._settings = settings
        self._database = runtime.database

    def _database_logins(self, settings: MemorySettings, runtime: Runtime, limits: ClientLimits) -> Logins:
        auth = runtime.peers.channel("auth")
        workspaces = Transport(
            self._workspaces,
            AuthCredentials(auth, credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS),
            limits,
            trusted_origins=_own_workspace(settings),
        )
        return Logins(AuthCredentials(auth, credential_pb2.CREDENTIAL_PURPOSE_POSTGRESQL), workspaces)

    def register(self, registry: Registry) -> None:
        """Register the servicers."""
        registry.add(memory_service_pb2_grpc.add_MemoryServiceServicer_to_server, self._memory)
        registry.add(document_service_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentServicer(self._documents))
        registry.add(vector_index_service_pb2_grpc.add_VectorIndexServiceServicer_to_server, self._indexes)
        registry.add(memory_backend_service_pb2_grpc.add_MemoryBackendServiceServicer_to_server, self._backends)

    async def start(self) -> None:
        """Start removing expired memories and requests."""
        seconds = self._settings.sweep_seconds
        self._background.start(every(seconds, self._remove_expired, name="expired_memories", first_pause=False))
        idle_seconds = self._settings.pgvector_idle_seconds
        self._background.start(every(idle_seconds, self._pgvector.close_idle, name="idle_databases"))
        self._background.start(
            forget_old_requests(
                self._database,
                requests,
                pause_seconds=seconds,
                retention_seconds=self._settings.request_retention_seconds,
            )
        )

    async def drain(self) -> None:
        """Running calls continue: there is nothing to hand over."""

    async def close(self) -> None:
        """Stop background work and release everything."""
        await self._background.stop()
        self._provisioner.close()
        await self._pgvector.close()
        await self._documents.close()
        await self._workspaces.close()

    async def _remove_expired(self) -> None:
        now = utc_now()
        removed = await self._store.sweep(now)
        # After their parts, none of which is there any more without it.
        async with self._database.write() as connection:
            await remove_expired_documents(connection, now, unfinished=self._default.removes_at_once)
        if removed:
            logger.info("expired_memories_removed", count=removed)
        pruned = await self._history.prune()
        if pruned:
            logger.info("former_versions_removed", count=pruned)
        await measure_store(self._database)
        await self._repairs.sweep(self._default)


def _pgvector_stores(settings: MemorySettings, logins: Logins, connector: Connector) -> PgvectorStores:
    limits = PoolLimits(
        connections=settings.pgvector_connections,
        databases=settings.pgvector_databases,
        group_databases=settings.pgvector_databases_per_group,
        idle_seconds=settings.pgvector_idle_seconds,
        wait_seconds=settings.pgvector_connect_seconds,
    )
    pools = ConnectionPools(logins, connector, limits)
    return PgvectorStores(
        pools,
        IndexKeeper(pools, build_seconds=settings.provision_seconds),
        exact_rows=settings.pgvector_exact_rows,
        sweep_seconds=settings.sweep_seconds,
    )


def _chroma_store(runtime: Runtime) -> MemoryStore:
    # An optional extra, whose import costs a second.
    from services.memory.stores.chroma.directories import ChromaDirectories
    from services.memory.stores.chroma.store import ChromaMemoryStore

    try:
        directories = ChromaDirectories(runtime.data_dir / "chroma")
    except ImportError as error:
        raise StartError(
            "COXSWAIN_MEMORY_DEFAULT_STORE is chroma, which is not installed: install the extra memory-chroma"
        ) from error
    logger.warning(
        "chroma_promises_less",
        detail="one process only; approximate search; saves that a crash interrupts may be lost or half done",
    )
    return ChromaMemoryStore(runtime.database, directories)


def _own_workspace(settings: MemorySettings) -> frozenset[str]:
    host = settings.databricks_host.strip()
    if not host:
        return frozenset()
    return frozenset({required_origin(host)})


def _read_limits(settings: MemorySettings) -> ReadLimits:
    return ReadLimits(
        characters=settings.document_characters,
        parts=settings.document_parts,
        cpu_seconds=settings.document_read_seconds,
        processes=settings.document_readers,
        group_readings=settings.document_reads_per_group,
    )


def _upload_limits(settings: MemorySettings) -> UploadLimits:
    return UploadLimits(
        document_bytes=settings.document_bytes,
        group_saves=settings.document_saves_per_group,
        all_bytes=settings.document_held_bytes,
        upload_seconds=settings.document_upload_seconds,
    )


def _client_limits(settings: MemorySettings) -> ClientLimits:
    return ClientLimits(
        attempts=settings.databricks_attempts,
        attempt_seconds=settings.databricks_attempt_seconds,
        call_seconds=settings.databricks_call_seconds,
        upsert_rows=settings.databricks_upsert_rows,
        upsert_bytes=settings.databricks_upsert_bytes,
        delete_keys=settings.databricks_delete_keys,
        scan_rows=settings.databricks_scan_rows,
        response_bytes=settings.databricks_response_bytes,
    )


def build(settings: MemorySettings, runtime: Runtime) -> MemoryService:
    """Return the service."""
    return MemoryService(settings, runtime)
