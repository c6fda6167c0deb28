"""Memory backends: where a group's records are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.memory.domain.records import MemoryKind
from services.memory.domain.scores import ScoreMeasure
from services.memory.domain.vectors import EmbeddingSpace


@dataclass(frozen=True, slots=True)
class DatabricksConfig:
    """The workspace and indexes that hold memories, and their embedding space."""

    workspace_url: str
    endpoint: str
    catalog: str
    schema: str
    indexes: Mapping[MemoryKind, str]
    """The last part of each index's name."""
    space: EmbeddingSpace
    scores: ScoreMeasure | None = None
    """How the workspace computes scores, once that was measured."""
    target_qps: int | None = None
    """Queries a second that an endpoint is made for; None leaves it to the workspace."""

    def index_name(self, kind: MemoryKind) -> str | None:
        """Return the full name of a kind's index, or None when it has none."""
        name = self.indexes.get(kind)
        return None if name is None else f"{self.catalog}.{self.schema}.{name}"


class TlsMode(StrEnum):
    """How connections to a database are encrypted."""

    VERIFY_FULL = "VERIFY_FULL"
    """Encrypted, and the certificate is checked."""
    REQUIRE = "REQUIRE"
    """Encrypted; any certificate is taken."""
    DISABLE = "DISABLE"
    """Not encrypted."""


@dataclass(frozen=True, slots=True)
class LakebaseInstance:
    """The workspace that issues passwords of a Lakebase database, and the instance or endpoint they are for."""

    workspace_url: str
    instance: str


@dataclass(frozen=True, slots=True)
class PgvectorConfig:
    """A PostgreSQL database with pgvector, and how to connect to it."""

    host: str
    port: int
    database: str
    schema: str
    user: str
    """Empty for whoever the Databricks token belongs to."""
    tls_mode: TlsMode
    ca_certificates: str
    """PEM; empty for the authorities that the system trusts."""
    password_secret: str
    """Name of the group's secret; not used with Lakebase."""
    lakebase: LakebaseInstance | None = None

    @property
    def address(self) -> str:
        """Host and port, as people write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def subject(self) -> str:
        """The database in errors and checks. Example: `database memories on db.example.com:5432`."""
        return f"database {self.database} on {self.address}"


@dataclass(frozen=True, slots=True)
class MemoryBackend:
    """Where a group may keep its memories."""

    id: str
    group_id: str
    name: str
    databricks: DatabricksConfig | None
    """None for every other kind of store."""
    disabled_kinds: frozenset[MemoryKind]
    created_at: datetime
    updated_at: datetime
    made_endpoint: str = ""
    """The endpoint that was made for it."""
    active: bool = False
    pgvector: PgvectorConfig | None = None
    """None for every other kind of store."""

    @property
    def embedded(self) -> bool:
        """Whether it stands for the embedded default."""
        return self.databricks is None and self.pgvector is None

    @property
    def disabled(self) -> bool:
        """Whether it stores nothing, and is therefore passed over."""
        return self.disabled_kinds >= frozenset(MemoryKind)


@dataclass(frozen=True, slots=True)
class RegisteredIndex:
    """An index that a backend names."""

    name: str
    kind: MemoryKind
    backend: MemoryBackend
    shared: bool
    """Whether backends of other groups name it too."""
