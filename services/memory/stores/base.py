"""What every store of memories does. The group and crew of each call are in its namespace key, never in a filter."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.history import Keeping, RecordVersion
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavedRecord
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Query, Reranking, SearchOutcome, WordQuery
from services.memory.domain.vectors import EmbeddingSpace

Switch: TypeAlias = Callable[[AsyncConnection | None], Awaitable[None]]
"""Changes the service's rows beside what a store does, in a transaction of the service's database or in its own."""


@runtime_checkable
class RerankingStore(Protocol):
    """A store that has a model to put results in order."""

    async def rerank(self, key: NamespaceKey, reranking: Reranking, stored_ids: Sequence[str]) -> Sequence[str]:
        """Return at most 50 stored ids of a namespace in the order that a model gives them, all of them."""
        ...


class MemoryStore(Protocol):
    """Rows of every group, each reachable through its own namespace alone.

    All methods may raise what the store's database or upstream fails with, as `CoxswainError`.
    """

    compares_revisions: ClassVar[bool]
    """Whether a save can expect a revision: nothing comes in between its reading and its writing."""

    replaces_at_once: ClassVar[bool]
    """Whether a document is replaced in one transaction: a replacement that fails has left no part."""

    removes_at_once: ClassVar[bool]
    """Whether a document and its parts are removed in one transaction, which is the service's own.

    `save` takes a `switch` there, which is called in its transaction.
    """

    @property
    def backend_id(self) -> str | None:
        """The backend whose records it holds; None for the installation's default store."""
        ...

    async def space(self, key: NamespaceKey) -> EmbeddingSpace | None:
        """Return the embedding space of a namespace, or None when it was never written to."""
        ...

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        records: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
        near_copies: float = 0.0,
    ) -> Sequence[SavedRecord]:
        """Store all records, with their embeddings set, or none, as `plan_save` decides, and say what became of each.

        A crew's name is kept with the namespace; an empty one changes nothing. `near_copies` is the cosine similarity
        from which a record is a near-copy of another; 0 means that none is.

        Raises:
            FailedPrecondition: the namespace has another embedding space.
            PermissionDenied: somebody else's private record has one of the ids.
        """
        ...

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """Return the best records, best first, equal scores always in the same order; none from one never written to.

        Raises:
            FailedPrecondition: the vector has another dimension than the namespace.
        """
        ...

    async def search_words(self, key: NamespaceKey, query: WordQuery, now: datetime) -> SearchOutcome:
        """Return the best records that have at least one of the terms and match, in the order of `ranked_by_words`.

        Similarities are 0, as there is no vector to compare with.

        Raises:
            FailedPrecondition: the store cannot look for words.
        """
        ...

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """Return the records there are of these client ids that match, in their order."""
        ...

    async def page(
        self,
        key: NamespaceKey,
        chosen: Filter,
        limit: int,
        after: ListPosition | None,
        now: datetime,
        *,
        embeddings: bool,
    ) -> RecordPage:
        """Return the next records, newest first, equal times by stored id; fewer than `limit` where they are long."""
        ...

    def read_through(
        self, key: NamespaceKey, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[tuple[str, Record]]]:
        """Yield the records that match, in portions, each with its position; those after a position, or "" for all.

        One pass over the namespace, in an order of the store's that stays. What cannot be read is left out.

        Raises:
            InvalidArgument: the position is none of this store's.
        """
        ...

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """Remove the records that have one of the ids and match the filter, where given, and return how many.

        Where reads lag behind writes, ids with a filter of privacy alone remove what is not seen yet, too.
        """
        ...

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """Return how many records match."""
        ...

    async def clear(self, key: NamespaceKey) -> int:
        """Remove all records and the embedding space of a namespace, and return how many there were."""
        ...

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, chosen: Filter = EVERYTHING) -> int:
        """Set the time of last access of unified or long-term records that match, and return how many there were."""
        ...

    async def replace_document(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        document_id: str,
        parts: Sequence[Record],
        stale: Iterable[str],
        now: datetime,
        switch: Switch,
    ) -> None:
        """Store the parts of a document, `switch`, and remove what else names it as theirs or has one of the stale ids.

        It is one transaction where the store is a database, or else in this order: a document that was there is found
        until the new one is, and both in between; parts of later revisions, which others are saving, are left. What
        fails before the switch leaves the document as it was; where it is no transaction, the caller removes the parts
        that were stored.

        Raises:
            FailedPrecondition: the namespace has another embedding space.
        """
        ...

    async def remove_document(
        self,
        key: NamespaceKey,
        document_id: str,
        last_revision: int,
        stale: Iterable[str],
        now: datetime,
        switch: Switch,
    ) -> int:
        """Remove all that names a document as theirs, or has one of the stale ids, then `switch`; return how many.

        It is one transaction where the store says so; elsewhere parts of revisions after the last one, which others are
        saving, are left.
        """
        ...

    async def scope_rows(self, key: NamespaceKey, prefix: str, now: datetime) -> Sequence[ScopeRow]:
        """Return figures of a scope and the scopes below it of a unified namespace, private records left out."""
        ...

    async def namespaces(
        self, group_id: str, limit: int, after: tuple[str, MemoryKind] | None, *, counted: bool = True
    ) -> Sequence[NamespaceInfo]:
        """Return the group's namespaces after (memory id, kind), in that order.

        Without `counted` a store whose records have to be looked at for their number says 0.
        """
        ...

    async def describe(self, keys: Sequence[NamespaceKey]) -> Mapping[NamespaceKey, NamespaceInfo]:
        """Return what is known of some namespaces of one group; those never written to have no entry.

        A store whose records have to be looked at for their number says 0.
        """
        ...


@runtime_checkable
class SearchesSeveral(Protocol):
    """A store that searches many namespaces of one kind in one request; every result says where it was found.

    Scores of words are comparable within one answer alone.
    """

    async def search_several(self, keys: Sequence[NamespaceKey], query: Query, now: datetime) -> SearchOutcome:
        """Return what `MemoryStore.search` does, of all these namespaces."""
        ...

    async def search_words_several(
        self, keys: Sequence[NamespaceKey], query: WordQuery, now: datetime
    ) -> SearchOutcome:
        """Return what `MemoryStore.search_words` does, of all these namespaces."""
        ...


class VersionStore(Protocol):
    """Former versions of records: read, and removed before their time."""

    async def versions(
        self, key: NamespaceKey, record_id: str, chosen: Filter, since: datetime, before: int | None, limit: int
    ) -> tuple[Sequence[RecordVersion], bool]:
        """Return versions of a record that a filter's caller sees, newest first, and whether there are more.

        Only those that ended after `since`, with a place below `before`; fewer than `limit` where they are long.
        """
        ...

    async def at(
        self, key: NamespaceKey, record_id: str, chosen: Filter, since: datetime, moment: datetime, now: datetime
    ) -> Record | None:
        """Return a record as it was at a moment, without its vector, if a filter's caller sees it."""
        ...

    async def forget(self, key: NamespaceKey, subject: str, *, dry_run: bool) -> int:
        """Remove the versions that are tied to a subject, or only count them, and return how many there are."""
        ...

    async def prune(self, ended_before: datetime, group_id: str | None) -> int:
        """Remove what ended before a time, of a group or (None) of all without a policy, and return how many."""
        ...

    async def shrink(self, most_bytes: int, changed_after: datetime | None) -> int:
        """Remove what ended first of groups that have more bytes of versions, and return how many.

        Only of groups with versions that ended after a time; None: of all groups.
        """
        ...


@runtime_checkable
class KeepsHistory(Protocol):
    """A store that keeps what records said before, in the transaction of the change; documents have no history."""

    history: VersionStore
    """What they said."""

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        records: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
        near_copies: float = 0.0,
        keeping: Keeping | None = None,
    ) -> Sequence[SavedRecord]:
        """Do what `MemoryStore.save` does, and keep what is replaced by other contents."""
        ...

    async def delete(
        self,
        key: NamespaceKey,
        ids: Sequence[str] | None,
        chosen: Filter | None,
        now: datetime,
        *,
        keeping: Keeping | None = None,
    ) -> int:
        """Do what `MemoryStore.delete` does, and keep what is deleted, or purge what was kept of it."""
        ...
