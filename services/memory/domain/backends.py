"""Memory backends: where a group's records are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

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


@dataclass(frozen=True, slots=True)
class MemoryBackend:
    """Where a group may keep its memories."""

    id: str
    group_id: str
    name: str
    databricks: DatabricksConfig | None
    """None for the embedded default."""
    disabled_kinds: frozenset[MemoryKind]
    created_at: datetime
    updated_at: datetime
    made_endpoint: str = ""
    """The endpoint that was made for it."""
    active: bool = False

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
