"""Records of five kinds."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import TypeAlias

from services.memory.domain.vectors import Vector


class MemoryKind(StrEnum):
    """What a memory holds."""

    UNIFIED = "UNIFIED"
    SHORT_TERM = "SHORT_TERM"
    LONG_TERM = "LONG_TERM"
    ENTITY = "ENTITY"
    DOCUMENT = "DOCUMENT"


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


@dataclass(frozen=True, slots=True)
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
    page: int = 0
    """From 1; 0 for none."""
    start_character: int = 0
    document_revision: int = 0
    """Of which revision of a document it is a part; 0 for a record that was saved by itself."""
    part_count: int = 0


Body: TypeAlias = Unified | ShortTerm | LongTerm | Entity | Document


_VALUES: Mapping[type[Body], Callable[[Body], tuple[object, ...]]] = {
    body: attrgetter(*body.__slots__) for body in (Unified, ShortTerm, LongTerm, Entity, Document)
}


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
    """As the client gave it; empty until a save has chosen one."""
    body: Body
    embedding: Vector | None = None
    agent_id: str = ""
    llm_model: str = ""
    tools_used: tuple[str, ...] = ()
    metadata: str = "{}"
    """A JSON object in canonical form: sorted keys, no spaces."""
    created_at: datetime | None = None
    """None until it is stored, and when a row that something else has written does not say."""
    expires_at: datetime | None = None
    """When it ends at the latest; None means never, or after the hours of a short-term memory."""
    owner: str = ""
    """Who saves it; kept while it is private. See `owners`."""
    subjects: tuple[str, ...] = ()
    """The verified subjects that have saved it, each once: themselves or through executions that they started.

    An empty one among them stands for who saved it when subjects were not noted.
    """
    revision: int = 0
    """How often it was saved; 0 until it is stored."""
    expected_revision: int | None = None
    """The revision that a save finds there, or else fails; 0 for none."""
    keeps_subjects: bool = field(default=False, compare=False)
    """Whether a save is tied to the subjects of what it replaces as well: it may be made of that."""
    stored_id: str = field(default="", compare=False)
    """Its primary key in the store, as it was read from there; empty in a record to be stored under one made of its id.
    """
    encoded: bytes | None = field(default=None, init=False, compare=False, repr=False)
    """The record without its vector as the servicer sends it, once it was sent: some records are found often.

    A copy that `replace` changes has none.
    """

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
        if isinstance(self.body, Document) and self.body.document_revision and self.body.section:
            # What a part of a document is about may stand in the headings above it alone.
            return f"{self.body.section}\n\n{self.body.content}"
        return self.body.content

    @property
    def searched_text(self) -> str:
        """What searches for words look at."""
        title = self.body.title if isinstance(self.body, Document) else ""
        return f"{title}\n{self.text}" if title else self.text

    @property
    def most_bytes(self) -> int:
        """The bytes it takes in a message, at most."""
        if self.encoded is not None and self.embedding is None:
            return _FIXED_BYTES + len(self.encoded)
        size = _FIXED_BYTES
        for value in (self.id, self.agent_id, self.llm_model, self.tools_used, *_VALUES[type(self.body)](self.body)):
            # Most are empty, or numbers.
            if value and isinstance(value, str | tuple):
                size += _text_bytes(value)
        if self.embedding is not None:
            size += 4 * len(self.embedding)
        if self.metadata != "{}":
            size += _VALUE_TO_JSON * len(self.metadata.encode())
        return size


_FIXED_BYTES = 512
"""What a record takes beside its texts and its vector: times, numbers, and the tags and lengths of all fields."""


_ITEM_BYTES = 16
"""What an item of a list takes beside its text."""


_VALUE_TO_JSON = 8
"""How many times larger a JSON value is as a message than as text, at most."""


def _text_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, tuple):
        return sum(_ITEM_BYTES + _text_bytes(item) for item in value)
    if isinstance(value, Relationship):
        return _ITEM_BYTES + len(value.relation.encode()) + len(value.target.encode())
    return 0
