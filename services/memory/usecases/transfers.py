"""Reading namespaces through, and storing what was read elsewhere."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from services.common.clock import utc_now
from services.common.errors import CoxswainError, InvalidArgument
from services.common.identity.principal import Principal
from services.common.paging import PAGE_BYTES, bad_page_token, decode_page_token, encode_page_token
from services.memory.domain.filters import Filter
from services.memory.domain.listings import Tally
from services.memory.domain.owners import listed_for
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SaveOutcome
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.memories import Memories
from services.memory.usecases.namespaces import namespace_key
from services.memory.usecases.record_pages import fitting, is_stored_id

_EXPORT = "export"


@dataclass(frozen=True, slots=True)
class ExportInput:
    """Which records to read through, and from where on."""

    filter: Filter
    include_embeddings: bool
    page_token: str
    fingerprint: str
    """Hash of the filter."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What is exported."""

    space: EmbeddingSpace | None
    """None: the namespace was never written to."""
    tally: Tally


@dataclass(frozen=True, slots=True)
class ExportPart:
    """The next records of an export, as many as a message holds, and the token of what follows them."""

    records: Sequence[Record]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """Where records are stored."""

    memory_id: str
    kind: MemoryKind
    embedding_model: str
    crew_name: str


@dataclass(slots=True)
class ImportProgress:
    """What of an import is stored."""

    messages: int = 0
    outcomes: Counter[SaveOutcome] = field(default_factory=Counter)


class Transfers:
    """Exports and imports of the calling principal's group."""

    def __init__(self, stores: BackendStores, memories: Memories) -> None:
        self._stores = stores
        self._memories = memories

    async def origin(self, principal: Principal, memory_id: str, kind: MemoryKind, export: ExportInput) -> Origin:
        """Return what an export is of.

        Raises:
            PermissionDenied: private records of everybody are requested without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        chosen = listed_for(principal, export.filter)
        store = await self._stores.of(principal.group_id, kind)
        return Origin(await store.space(key), await store.count(key, chosen, utc_now()))

    async def export(
        self, principal: Principal, memory_id: str, kind: MemoryKind, export: ExportInput
    ) -> AsyncIterator[ExportPart]:
        """Yield the records that match, each once, in the order of the store.

        Raises:
            InvalidArgument: the token is not of this export.
            PermissionDenied: private records of everybody are requested without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        identity = {"group": key.group_id, "memory": memory_id, "kind": kind.name, "filter": export.fingerprint}
        match decode_page_token(export.page_token, _EXPORT, identity):
            case None:
                after = ""
            case [str(after)] if is_stored_id(after):
                pass
            case _:
                raise bad_page_token()
        chosen = listed_for(principal, export.filter)
        store = await self._stores.of(principal.group_id, kind)
        async for portion in store.read_through(key, chosen, after, utc_now(), embeddings=export.include_embeddings):
            placed = portion
            while placed:
                count = fitting([record for _, record in placed], PAGE_BYTES)
                some, placed = placed[:count], placed[count:]
                token = encode_page_token(_EXPORT, identity, [some[-1][0]])
                yield ExportPart([record for _, record in some], token)

    async def store(
        self, principal: Principal, target: ImportTarget, records: Sequence[Record], progress: ImportProgress
    ) -> None:
        """Store the records of the next message of an import, and count them.

        Raises:
            CoxswainError: see `Memories.save`.
        """
        if records:
            saved = await self._memories.save(
                principal, target.memory_id, target.kind, records, target.embedding_model, target.crew_name
            )
            progress.outcomes.update(record.outcome for record in saved)
        progress.messages += 1


@contextlib.contextmanager
def naming_message(progress: ImportProgress) -> Iterator[None]:
    """Put the number of the message that is being stored into the metadata of what refuses it."""
    try:
        yield
    except CoxswainError as error:
        error.metadata.setdefault("message", str(progress.messages))
        raise


def no_target() -> InvalidArgument:
    """Return the refusal of an import whose first message does not say where to store."""
    return InvalidArgument.field("target", "is missing: the first message of an import says where to store its records")
