"""What a memory is: records of five kinds, namespaces, filters, and what a search returns."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
"""A point in the embedding space: one dimension, float32, of unit length."""

Scalar: TypeAlias = str | int | float | bool | datetime
"""A value of a column that conditions may name."""


class MemoryKind(IntEnum):
    """What a memory holds; the numbers are those of `coxswain.memory.v1.MemoryKind`."""

    UNIFIED = 1
    SHORT_TERM = 2
    LONG_TERM = 3
    ENTITY = 4
    DOCUMENT = 5


@dataclass(slots=True)
class Unified:
    """A memory as current CrewAI stores it."""

    content: str
    scope: str = "/"
    categories: tuple[str, ...] = ()
    importance: float = 0.0
    source: str = ""
    private: bool = False
    last_accessed: datetime | None = None
    session_id: str = ""


@dataclass(slots=True)
class ShortTerm:
    """Something said or done lately."""

    content: str
    query_text: str = ""
    session_id: str = ""
    interaction_sequence: int = 0
    ttl_hours: int = 0
    """0 until the installation's default is filled in."""


@dataclass(slots=True)
class LongTerm:
    """Something that proved its worth."""

    content: str
    task_description: str = ""
    quality: float = 0.0
    importance: float = 0.0
    last_accessed: datetime | None = None

    @property
    def task_hash(self) -> str:
        """Finds the memories of one task; empty without a description."""
        return hashlib.sha256(self.task_description.encode()).hexdigest()[:32] if self.task_description else ""


@dataclass(slots=True)
class Relationship:
    """An edge to another entity."""

    relation: str
    target: str


@dataclass(slots=True)
class Entity:
    """A person or a thing."""

    entity_name: str
    entity_type: str = ""
    description: str = ""
    relationships: tuple[Relationship, ...] = ()


@dataclass(slots=True)
class Document:
    """A piece of a document."""

    content: str
    title: str = ""
    source: str = ""
    document_type: str = ""
    section: str = ""
    chunk_index: int = 0
    chunk_size: int = 0
    parent_document_id: str = ""
    document_summary: str = ""
    agent_ids: tuple[str, ...] = ()
    updated_at: datetime | None = None


Body: TypeAlias = Unified | ShortTerm | LongTerm | Entity | Document

KIND_OF_BODY: Mapping[type[Body], MemoryKind] = {
    Unified: MemoryKind.UNIFIED,
    ShortTerm: MemoryKind.SHORT_TERM,
    LongTerm: MemoryKind.LONG_TERM,
    Entity: MemoryKind.ENTITY,
    Document: MemoryKind.DOCUMENT,
}


@dataclass(slots=True)
class Record:
    """One memory. Group and crew are not part of it: they are the namespace's."""

    id: str
    """As the client gave it."""
    body: Body
    embedding: Vector | None = None
    agent_id: str = ""
    llm_model: str = ""
    tools_used: tuple[str, ...] = ()
    metadata: str = "{}"
    """A JSON object in canonical form: sorted keys, no spaces."""
    created_at: datetime | None = None
    """None until it is stored."""

    @property
    def kind(self) -> MemoryKind:
        """The kind of its body."""
        return KIND_OF_BODY[type(self.body)]

    @property
    def text(self) -> str:
        """What is embedded when the client gives no vector."""
        if isinstance(self.body, Entity):
            sort = f" ({self.body.entity_type})" if self.body.entity_type else ""
            return f"{self.body.entity_name}{sort}: {self.body.description}"
        return self.body.content


def _digest(*parts: str) -> str:
    """Hash of parts that cannot run into each other: each is preceded by its length."""
    hashed = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(8, "big"))
        hashed.update(encoded)
    return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class NamespaceKey:
    """Whose records: a group's, a crew's, of one kind. A document belongs to the group alone."""

    group_id: str
    memory_id: str
    kind: MemoryKind

    @property
    def id(self) -> str:
        """The namespace's own id: the same on every machine."""
        return _digest("namespace", self.group_id, self.kind.name, self.memory_id)

    def stored_id(self, client_id: str) -> str:
        """Return the id under which a record lies in any store: no other namespace can produce it."""
        return _digest("record", self.group_id, self.kind.name, self.memory_id, client_id)


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """What makes vectors comparable."""

    model: str
    dimension: int


@dataclass(frozen=True, slots=True)
class DatabricksConfig:
    """Where in a workspace memories lie, and the space of all its indexes."""

    workspace_url: str
    endpoint: str
    catalog: str
    schema: str
    indexes: Mapping[MemoryKind, str]
    """The last part of each index's name."""
    space: EmbeddingSpace

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


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace and its figures."""

    key: NamespaceKey
    space: EmbeddingSpace
    record_count: int
    version: int


class Comparison(Enum):
    """How a condition compares a column with its values."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4
    GREATER = 5
    GREATER_OR_EQUAL = 6
    CONTAINS = 7
    STARTS_WITH = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison, already checked against the kind's schema."""

    column: str
    comparison: Comparison
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Narrows records down; everything given must hold."""

    conditions: tuple[Condition, ...] = ()
    scope_prefix: str = ""
    """Normalised; empty means all."""
    categories: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys and the canonical JSON each must have."""
    created_before: datetime | None = None
    source: str = ""
    include_private: bool = False


EVERYTHING = Filter(include_private=True)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Weights that sum to something above 0, and the days in which recency halves."""

    semantic_weight: float
    recency_weight: float
    importance_weight: float
    half_life_days: float

    def blend(
        self,
        similarity: npt.NDArray[np.float64],
        age_days: npt.NDArray[np.float64],
        importance: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """Return the weighted means."""
        recency = np.exp2(-np.maximum(age_days, 0.0) / self.half_life_days)
        total = self.semantic_weight + self.recency_weight + self.importance_weight
        blended = (
            self.semantic_weight * similarity + self.recency_weight * recency + self.importance_weight * importance
        )
        result: npt.NDArray[np.float64] = blended / total
        return result


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """The place of the last result of a page: its score, and among equal scores its stored id."""

    score: float
    stored_id: str
    rank: int
    """How many results were on the pages so far."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for."""

    vector: Vector
    limit: int
    filter: Filter = Filter()
    min_score: float | None = None
    ranking: Ranking | None = None
    include_embeddings: bool = False
    after: SearchPosition | None = None
    """Only what comes after this place."""
    asked_at: datetime | None = None
    """When the first page was asked for, from which all pages reckon ages; None: now."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record, its score (blended when ranked) and its cosine similarity."""

    record: Record
    score: float
    similarity: float


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a search found, best first, and how it went about it."""

    results: Sequence[Found] = ()
    scanned: int = 0
    """Records read one by one from the database, as the namespace is too large to be held in memory."""
    truncated: bool = False
    """Whether only the nearest candidates were looked at: others may match too, or rank higher."""
    cut: bool = False
    """Whether there are more results within the limit, too many bytes to be read at once."""


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The sort key of the last record of a page: when it was made (microseconds since 1970) and its stored id."""

    created: int
    stored_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first, and whether there are more; fewer than asked for where records are long."""

    records: Sequence[Record]
    more: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of records, exact unless there may be more."""

    count: int
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """The figures of a scope and all below it."""

    path: str
    record_count: int = 0
    categories: Sequence[str] = ()
    oldest: datetime | None = None
    newest: datetime | None = None
    child_scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """What the records of one exact scope and one set of categories add up to."""

    scope: str
    categories: Sequence[str]
    record_count: int
    oldest: datetime
    newest: datetime


def unit_vector(values: npt.ArrayLike) -> Vector:
    """Return the values as a float32 vector of unit length.

    Raises:
        ValueError: not one dimension, a component that is not finite, or a length of zero.
    """
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not vector.size:
        raise ValueError("a vector has one dimension and at least one component")
    if not np.isfinite(vector).all():
        raise ValueError("every component has to be finite")
    # Scaled first, so that squares of very large or very small components neither overflow nor vanish.
    largest = float(np.abs(vector).max())
    if largest == 0.0:
        raise ValueError("a vector of length zero has no direction")
    vector = vector / largest
    return (vector / math.sqrt(float(vector @ vector))).astype(np.float32)


def normalise_scope(path: str) -> str:
    """Return a scope as it is stored: one leading slash, none at the end, none doubled."""
    return "/" + "/".join(part for part in path.split("/") if part)


def within_scope(scope: str, prefix: str) -> bool:
    """Tell whether a scope is `prefix` or below it; both normalised, an empty prefix holds everything."""
    return prefix in ("", "/") or scope == prefix or scope.startswith(prefix + "/")


def summarise_scope(path: str, rows: Iterable[ScopeRow]) -> ScopeInfo:
    """Add up the rows at and below `path`."""
    count, categories, children = 0, set[str](), set[str]()
    oldest: datetime | None = None
    newest: datetime | None = None
    below = "/" if path == "/" else path + "/"
    for row in rows:
        if not within_scope(row.scope, path):
            continue
        count += row.record_count
        categories.update(row.categories)
        oldest = row.oldest if oldest is None else min(oldest, row.oldest)
        newest = row.newest if newest is None else max(newest, row.newest)
        if row.scope != path:
            children.add(below + row.scope[len(below) :].split("/", 1)[0])
    return ScopeInfo(path, count, sorted(categories), oldest, newest, sorted(children))


def summarise_children(parent: str, rows: Iterable[ScopeRow]) -> list[ScopeInfo]:
    """Add up the rows of each scope directly below `parent`, by path."""
    below = "/" if parent == "/" else parent + "/"
    children: defaultdict[str, list[ScopeRow]] = defaultdict(list)
    for row in rows:
        if row.scope != parent and within_scope(row.scope, parent):
            children[below + row.scope[len(below) :].split("/", 1)[0]].append(row)
    return [summarise_scope(path, children[path]) for path in sorted(children)]


def derive_memory_id(
    *, group_id: str, agent_roles: Sequence[str], task_names: Sequence[str], crew_name: str, model: str, run_name: str
) -> str:
    """Return the stable id of a crew: the order of roles and tasks does not matter, each ingredient does."""
    roles, tasks = sorted(agent_roles), sorted(task_names)
    return _digest("crew", group_id, crew_name, model, run_name, str(len(roles)), *roles, str(len(tasks)), *tasks)[:32]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Return whole microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(us: int) -> datetime:
    """Return the moment of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)
