"""Settings of memory. Each is an environment variable with the prefix `COXSWAIN_MEMORY_`."""

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.egress import origin_of

_MIB = 1024 * 1024


class MemorySettings(BaseSettings):
    """What only memory needs to know."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_MEMORY_", extra="ignore", populate_by_name=True)

    embedding_model: str = Field(
        "", max_length=128, description="Embedding model of new namespaces; empty means the default of models."
    )
    default_store: Literal["sql", "chroma"] = Field(
        "sql",
        description="What keeps the memories of groups without a backend: rows of the service's database, or ChromaDB "
        "(needs the extra memory-chroma; promises less: one process, approximate search, no crash safety of its own).",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that serve memory at its ports, where it runs alone; each has the bounds on memory, "
        "connections and calls for itself. ChromaDB needs 1; in Kubernetes use more replicas instead. With Databricks "
        "a TouchRecords may undo what another process has just saved.",
    )
    short_term_ttl_hours: int = Field(
        168, ge=1, le=87600, description="Hours a short-term memory lives when it does not say so itself."
    )
    sweep_seconds: float = Field(
        300, gt=0, description="Seconds between two removals of expired memories and old requests."
    )
    request_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which a request_id is remembered; a request repeated later is a new one.",
    )
    history_days: int = Field(
        30,
        ge=0,
        le=36500,
        description="Days for which former versions of records are kept in groups that set no policy of their own "
        "(SetHistoryPolicy); 0 keeps none.",
    )
    history_most_days: int = Field(
        365, ge=0, le=36500, description="Days for which a group can have former versions of its records kept, at most."
    )
    history_versions: int = Field(
        50, ge=1, le=10000, description="Former versions of one record that are kept, the newest ones."
    )
    history_bytes: int = Field(
        1024 * _MIB,
        ge=_MIB,
        description="Bytes of former versions that are kept of one group, about; what ended first is removed first.",
    )
    cache_bytes: int = Field(
        256 * _MIB,
        ge=0,
        description="Bytes of vectors that searches of the default store keep in memory, at most; records found lately "
        "take up to a quarter of as many beside them.",
    )
    cached_namespace_bytes: int = Field(
        64 * _MIB,
        ge=0,
        description="Bytes of vectors, and some 90 beside each, of one namespace kept in memory; of larger ones one "
        "byte for each component, from which searches decide which vectors to read. What does not fit either is read "
        "each time.",
    )

    document_bytes: int = Field(32 * _MIB, ge=1, le=48 * _MIB, description="Bytes of the file of a document, at most.")
    document_characters: int = Field(
        5_000_000, ge=1, le=10_000_000, description="Characters of text that are found in a document, at most."
    )
    document_parts: int = Field(10_000, ge=1, le=100_000, description="Parts of a document, at most.")
    document_saves_per_group: int = Field(
        4, ge=1, description="Documents of one group that are saved at the same time; more are refused for a while."
    )
    document_held_bytes: int = Field(
        256 * _MIB,
        ge=_MIB,
        description="Bytes of all files that are received at the same time and held in memory; more are refused for a "
        "while. A group has a quarter of them, or as many as one file may have.",
    )
    document_upload_seconds: float = Field(
        600, gt=0, description="Seconds in which the file of a document has to arrive."
    )
    document_readers: int = Field(
        2, ge=1, le=64, description="Helper processes that read documents, each with at most 1 GiB of memory."
    )
    document_reads_per_group: int = Field(
        1, ge=1, description="Documents of one group that are read at the same time; others wait."
    )
    document_read_seconds: int = Field(60, ge=1, description="Seconds of processor time for reading one document.")

    databricks_embedding_model: str = Field(
        "databricks/databricks-gte-large-en",
        min_length=1,
        max_length=128,
        description="Embedding model of Databricks backends that name none.",
    )
    databricks_embedding_dimension: int = Field(
        1024, ge=1, le=4096, description="Length of the vectors of Databricks backends that name none."
    )
    databricks_host: str = Field(
        "",
        validation_alias=AliasChoices("DATABRICKS_HOST", "databricks_host"),
        description="The operator's own workspace, which may be in any network (DATABRICKS_HOST).",
    )
    egress_allowed_networks: list[IPv4Network | IPv6Network] = Field(
        [],
        description="JSON list of networks besides the public internet in which groups' workspaces may be; plain http "
        'is allowed there too. Example: ["10.20.0.0/16"].',
    )
    databricks_connect_seconds: float = Field(10, gt=0, description="Seconds until a connection to a workspace stands.")
    databricks_attempt_seconds: float = Field(30, gt=0, description="Seconds one request to a workspace may take.")
    databricks_call_seconds: float = Field(
        300, gt=0, description="Seconds a request may take with all its repetitions when its caller sets no deadline."
    )
    databricks_attempts: int = Field(6, ge=1, description="Times a request is sent when a workspace is busy or fails.")
    databricks_connections: int = Field(100, ge=1, description="Connections to one workspace, at most.")
    databricks_upsert_rows: int = Field(200, ge=1, description="Rows written in one request, at most.")
    databricks_upsert_bytes: int = Field(4_000_000, ge=1, description="Bytes of rows written in one request, at most.")
    databricks_delete_keys: int = Field(1000, ge=1, description="Rows removed in one request, at most.")
    databricks_scan_rows: int = Field(1000, ge=1, description="Rows read in one request of a scan.")
    databricks_response_bytes: int = Field(
        128 * _MIB, ge=1024, description="Bytes of the largest answer that is taken from a workspace."
    )
    databricks_visibility_seconds: float = Field(
        2, gt=0, description="Seconds to wait before checking again whether removed rows are gone."
    )
    databricks_settle_seconds: float = Field(
        60,
        ge=0,
        description="Seconds in which TouchRecords leaves a row as it is that this process wrote or removed, since "
        "what is read of it may be older.",
    )
    pgvector_connections: int = Field(
        5, ge=1, description="Connections to the database of one backend for one login, at most."
    )
    pgvector_databases: int = Field(
        50, ge=1, description="Databases of backends, each counted once for every login, that are connected to at once."
    )
    pgvector_databases_per_group: int = Field(
        20,
        ge=1,
        description="Databases that the backends of one group may name; connected to at once are as many, each counted "
        "once for every login.",
    )
    pgvector_idle_seconds: float = Field(
        60, gt=0, description="Seconds after which unused connections to a backend's database are closed."
    )
    pgvector_connect_seconds: float = Field(
        10, gt=0, description="Seconds to wait for a connection to a backend's database, a free one or a new one."
    )
    pgvector_statement_seconds: float = Field(
        30, ge=0.1, description="Seconds one statement in a backend's database may take."
    )
    pgvector_answer_bytes: int = Field(
        64 * _MIB,
        ge=_MIB,
        description="Bytes that a backend's database may send in answer to one request; more end the connection. Each "
        "row counts as 512 more, and each of its values as 64.",
    )
    pgvector_held_bytes: int = Field(
        128 * _MIB,
        ge=_MIB,
        description="Bytes of all answers of backends' databases that are held at the same time, counted in the same "
        "way; more end the connection. A group has half of them, or as many as one answer may have.",
    )
    pgvector_exact_rows: int = Field(
        10_000,
        ge=0,
        description="Records of a namespace in a backend's database up to which every search compares all of them; "
        "larger ones get an index.",
    )
    provision_poll_seconds: float = Field(10, gt=0, description="Seconds between two checks of what is being created.")
    provision_seconds: float = Field(
        1800,
        gt=0,
        description="Seconds ProvisionMemoryBackend waits for one endpoint or index; in a database the seconds that "
        "building one index may take.",
    )

    @field_validator("processes")
    @classmethod
    def _fits_store(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and info.data.get("default_store") == "chroma":
            raise ValueError("must be 1 with COXSWAIN_MEMORY_DEFAULT_STORE=chroma, whose files take one process")
        return value

    @field_validator("databricks_host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value.strip() and origin_of(value) is None:
            raise ValueError("must be an address in the form https://HOST")
        return value
